package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// baseBackupSQL is the command. WAL is left out because the archive holds it,
// and the server does not wait for its own archiving: the caller waits until
// the log is durable in our store. The manifest carries CRC32C, which costs
// the server next to nothing and proves each file as it was sent. With
// TABLESPACE_MAP the server writes the file that recovery needs instead of
// links. Page checksums are verified by the server (its default).
func baseBackupSQL(versionNum int, o engines.BackupOptions) string {
	label := "'" + strings.ReplaceAll(o.Label, "'", "''") + "'"
	if versionNum < 150000 {
		opts := []string{"LABEL " + label, "NOWAIT", "TABLESPACE_MAP", "MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"}
		if o.Fast {
			opts = append(opts, "FAST")
		}
		return "BASE_BACKUP " + strings.Join(opts, " ")
	}
	checkpoint := "CHECKPOINT 'spread'"
	if o.Fast {
		checkpoint = "CHECKPOINT 'fast'"
	}
	return "BASE_BACKUP (" + strings.Join([]string{"LABEL " + label, checkpoint, "WAIT false", "TABLESPACE_MAP true",
		"MANIFEST 'yes'", "MANIFEST_CHECKSUMS 'CRC32C'"}, ", ") + ")"
}

// received is what a BASE_BACKUP answered besides the files.
type received struct {
	Start, Stop       repo.Position
	StartTLI, StopTLI uint32
	Spaces            []Tablespace
	Files             int      // in the server's manifest
	Damaged           []string // the server's warnings about pages; nil: none
	DamagedErr        bool     // the server ended with "checksum verification failure"
}

// Backup takes a base backup over the replication protocol. Cancelling ctx
// ends it; the server drops what it had begun.
func (s *source) Backup(ctx context.Context, o engines.BackupOptions, sink engines.Sink) (engines.BackupResult, error) {
	what := "take a base backup of " + s.name
	if o.Label == "" {
		o.Label = applicationName(s.name)
	}
	conn, err := s.sql(ctx, "")
	if err != nil {
		return engines.BackupResult{}, err
	}
	defer s.hangUp(conn)
	facts, err := readFacts(ctx, conn)
	if err != nil {
		return engines.BackupResult{}, s.explain(what, err)
	}
	warnings := &warningList{}
	repl, err := s.replication(ctx, warnings.add)
	if err != nil {
		return engines.BackupResult{}, err
	}
	defer s.hangUp(repl)
	got, err := s.receiveBackup(ctx, repl, facts, o, sink)
	if err != nil {
		return engines.BackupResult{}, s.explain(what, err)
	}
	got.Damaged = warnings.list()
	return s.backupResult(ctx, conn, repl, facts, got)
}

// receiveBackup runs the command and unpacks the answer.
func (s *source) receiveBackup(ctx context.Context, repl *pgconn.PgConn, f serverFacts, o engines.BackupOptions, sink engines.Sink) (received, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(time.Hour, func() {
		cancel(fmt.Errorf("the server sent nothing for %v during the base backup", backupStall))
	})
	stall.Stop()
	defer stall.Stop()
	repl.Frontend().SendQuery(&pgproto3.Query{String: baseBackupSQL(f.VersionNum, o)})
	if err := repl.Frontend().Flush(); err != nil {
		return received{}, fmt.Errorf("send BASE_BACKUP: %w", err)
	}
	b := &backupStream{conn: repl, ctx: ctx, typed: f.VersionNum >= 150000, stall: stall}
	u := &unpacker{ctx: ctx, sink: sink, blockSize: uint32(f.BlockSize), seen: map[string]receivedFile{}, spaces: map[uint32]*Tablespace{}}
	var r received
	var err error
	if r.Start, r.StartTLI, err = b.point(); err != nil {
		return r, err
	}
	listed, err := b.tablespaces()
	if err != nil {
		return r, err
	}
	if err := b.archives(listed, u.archive, u.manifest); err != nil {
		return r, err
	}
	if u.files == 0 {
		return r, fmt.Errorf("%w: no manifest came", errFraming)
	}
	if r.Stop, r.StopTLI, err = b.point(); err != nil {
		return r, err
	}
	r.Files = u.files
	for _, t := range listed {
		oid, err := t.oid()
		if err != nil {
			return r, err
		}
		if oid == 0 {
			continue
		}
		space := u.spaces[oid]
		if space == nil {
			return r, fmt.Errorf("%w: tablespace %d did not come", errFraming, oid)
		}
		r.Spaces = append(r.Spaces, *space)
	}
	r.DamagedErr, err = b.finish()
	return r, err
}

// finish reads to the end of the command. The server reports damaged pages
// only here, when everything has been sent: the files are complete then.
func (b *backupStream) finish() (damaged bool, err error) {
	for {
		msg, err := b.receive()
		var pgErr *pgconn.PgError
		switch {
		case errors.As(err, &pgErr) && pgErr.Code == stateDataCorrupted:
			damaged = true
			continue
		case err != nil:
			return damaged, err
		}
		switch msg.(type) {
		case *pgproto3.CommandComplete:
		case *pgproto3.ReadyForQuery:
			return damaged, nil
		default:
			return damaged, fmt.Errorf("%w: %T at its end", errFraming, msg)
		}
	}
}

// backupResult completes the record after the server has finished.
func (s *source) backupResult(ctx context.Context, conn *pgx.Conn, repl *pgconn.PgConn, f serverFacts, got received) (engines.BackupResult, error) {
	what := "complete the base backup of " + s.name
	history, err := readHistory(ctx, repl, got.StopTLI)
	if err != nil {
		return engines.BackupResult{}, s.explain(what, err)
	}
	path, err := branchPath(got.StopTLI, history)
	if err != nil {
		return engines.BackupResult{}, err
	}
	details, err := s.details(ctx, conn, repl, f, got)
	if err != nil {
		return engines.BackupResult{}, s.explain(what, err)
	}
	doc, err := json.Marshal(details)
	if err != nil {
		return engines.BackupResult{}, err
	}
	var stopTime time.Time
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&stopTime); err != nil {
		return engines.BackupResult{}, s.explain(what, err)
	}
	return engines.BackupResult{
		Branch:    path[len(path)-1].ID,
		Start:     got.Start,
		LogFrom:   segmentStart(got.Start, f.SegmentSize),
		Stop:      got.Stop,
		StartTime: f.Now,
		StopTime:  stopTime,
		Details:   doc,
		Findings:  backupFindings(f, got),
	}, nil
}

func (s *source) details(ctx context.Context, conn *pgx.Conn, repl *pgconn.PgConn, f serverFacts, got received) (*Details, error) {
	sys, err := identifySystem(ctx, repl)
	if err != nil {
		return nil, err
	}
	d := &Details{
		Version: f.Version, VersionNum: f.VersionNum, Platform: f.Platform, SystemID: sys.ID,
		StartTimeline: got.StartTLI, StopTimeline: got.StopTLI,
		StartLSN: FormatLSN(got.Start), StopLSN: FormatLSN(got.Stop),
		WALSegmentSize: f.SegmentSize, BlockSize: f.BlockSize,
		Checksums: f.Checksums, ChecksumsVerified: f.Checksums && !got.damaged(),
		BootstrapUser: f.Bootstrap, DataDirectory: f.DataDirectory,
		Tablespaces: got.Spaces, ManifestFiles: got.Files,
	}
	if d.Settings, err = readSettings(ctx, conn); err != nil {
		return nil, err
	}
	if d.Databases, err = readDatabases(ctx, conn, f.VersionNum); err != nil {
		return nil, err
	}
	if d.Extensions, err = readExtensions(ctx, conn); err != nil {
		return nil, err
	}
	d.ConfFiles = readConfFiles(ctx, conn, f.DataDirectory)
	return d, nil
}

func (r received) damaged() bool { return r.DamagedErr || len(r.Damaged) > 0 }

func backupFindings(f serverFacts, got received) []repo.Finding {
	var out []repo.Finding
	if got.damaged() {
		out = append(out, repo.Finding{
			Severity: "error", Code: "damaged-pages",
			Message: "the server found pages with wrong checksums while it was read: " + strings.Join(got.Damaged, "; "),
			Fix:     "find what the files hold with SELECT oid::regclass FROM pg_class WHERE pg_relation_filepath(oid) = 'base/…'; restore those relations from an older backup; check disks and memory",
		})
	}
	if !f.Checksums {
		out = append(out, repo.Finding{
			Severity: "info", Code: "checksums-off",
			Message: "data checksums are off: nobody could check this backup's pages while they were read",
			Fix:     "pg_checksums --enable -D DATADIR  # with the server stopped",
		})
	}
	return out
}

// warningList collects the server's warnings during a backup. The server
// names a few blocks a file and then only counts, so the list stays short; a
// badly damaged cluster is cut off.
type warningList struct {
	mu    sync.Mutex
	texts []string
}

const maxWarnings = 100

func (w *warningList) add(n *pgconn.Notice) {
	// DATA_CORRUPTED marks them since 17; older servers use the general
	// warning class, in which a base backup reports only such pages when it
	// does not wait for archiving.
	if n.SeverityUnlocalized != "WARNING" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.texts) < maxWarnings {
		w.texts = append(w.texts, n.Message)
	}
}

func (w *warningList) list() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.texts...)
}
