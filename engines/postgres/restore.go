package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// restorer is the way back. It holds no state.
type restorer struct{}

var _ engines.Restorer = restorer{}

func newRestorer() engines.Restorer { return restorer{} }

// FormatPosition prints a position the way PostgreSQL does.
func (restorer) FormatPosition(p repo.Position) string { return FormatLSN(p) }

// Server is a PostgreSQL of the base's major version: data directories are
// not readable across majors.
func (restorer) Server(p *engines.RestorePlan) testcontainers.Spec {
	s := testcontainers.Spec{Engine: "postgres"}
	if d, err := ParseDetails(p.Base.Details); err == nil {
		s.Version = d.Major()
	}
	return s
}

// Names of our own in a restored data directory.
const (
	// incompleteMark stands in a directory from the first byte written until
	// the copy is complete; neither Configure nor Replay touches a directory
	// that has it.
	incompleteMark = "holdfast.incomplete"
	// controlFile is what makes a directory a cluster: no server starts
	// without it. It is loaded as controlPending and renamed last.
	controlFile    = "global/pg_control"
	controlPending = "global/pg_control.holdfast"
	// sourceConfDir keeps the source's configuration files for reading.
	sourceConfDir = "holdfast-source-conf"
)

// emptyDirs are directories whose contents no backup holds, and without which
// no server starts (manual, "Making a Base Backup Using the Low Level API").
var emptyDirs = []string{
	"pg_wal", "pg_wal/archive_status", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial",
	"pg_snapshots", "pg_stat", "pg_stat_tmp", "pg_subtrans", "pg_tblspc", "pg_twophase", "pg_commit_ts",
	"pg_logical", "pg_logical/mappings", "pg_logical/snapshots",
}

// Load writes the base's files to r.Dir. The order makes an interrupted load
// recognisable to us (the mark) and useless to a server (no pg_control): mark,
// files, check of backup_label, pg_control under its name, mark removed; each
// step durable before the next.
func (re restorer) Load(ctx context.Context, r engines.LoadRequest) (stream.Stats, error) {
	stats, err := re.load(ctx, r)
	if err != nil {
		return stats, fmt.Errorf("restore backup %s into %s: %w", r.Plan.Base.ID, r.Dir, err)
	}
	return stats, nil
}

func (re restorer) load(ctx context.Context, r engines.LoadRequest) (stream.Stats, error) {
	if err := checkEmpty(r.Dir); err != nil {
		return stream.Stats{}, err
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return stream.Stats{}, err
	}
	// The server refuses a data directory that others can enter.
	if err := os.Chmod(r.Dir, 0o700); err != nil {
		return stream.Stats{}, err
	}
	mark := filepath.Join(r.Dir, incompleteMark)
	text := fmt.Sprintf("Backup %s was not restored completely. This directory is no database; delete it.\n", r.Plan.Base.ID)
	if err := writeDurably(mark, []byte(text), 0o600); err != nil {
		return stream.Stats{}, err
	}
	dir, err := stream.NewDirTarget(r.Dir, stream.DirOptions{AllowNonEmpty: true}) // the mark is there
	if err != nil {
		return stream.Stats{}, err
	}
	defer dir.Close()
	stats, err := stream.Restore(ctx, r.Lineage, &r.Plan.Base, &clusterTarget{Target: dir}, skipItem, r.Stream)
	if err != nil {
		return stats, err
	}
	if err := finishLoad(r.Dir, &r.Plan.Base); err != nil {
		return stats, err
	}
	if err := os.Remove(mark); err != nil {
		return stats, err
	}
	return stats, syncDir(r.Dir)
}

// finishLoad checks what recovery cannot do without and places pg_control.
func finishLoad(dir string, base *repo.Manifest) error {
	if err := checkLabel(filepath.Join(dir, "backup_label"), base); err != nil {
		return err
	}
	for _, name := range emptyDirs {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	for _, name := range []string{"pg_wal", "pg_logical", "."} {
		if err := syncDir(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := os.Rename(filepath.Join(dir, controlPending), filepath.Join(dir, controlFile)); err != nil {
		return fmt.Errorf("the backup holds no %s: %w", controlFile, err)
	}
	return syncDir(filepath.Join(dir, "global"))
}

// checkLabel makes sure that recovery will start where the backup did. A
// missing label would let the server recover from pg_control's checkpoint:
// it starts, and is silently corrupt.
func checkLabel(path string, base *repo.Manifest) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the backup holds no backup_label, without which recovery corrupts: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	lsn, _, _ := strings.Cut(strings.TrimPrefix(line, "START WAL LOCATION: "), " ")
	start, err := ParseLSN(lsn)
	if err != nil {
		return fmt.Errorf("backup_label begins with %q: %w", line, repo.ErrDamaged)
	}
	if start != base.Start {
		return fmt.Errorf("backup_label says that the backup starts at %s, its manifest %s: %w", FormatLSN(start), FormatLSN(base.Start), repo.ErrDamaged)
	}
	return nil
}

// checkComplete refuses a directory that Load did not finish.
func checkComplete(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, incompleteMark)); err == nil {
		return hferr.New("use "+dir, errors.New("its restore was interrupted, so it is no database"), "delete the directory and restore again")
	}
	for _, name := range []string{"PG_VERSION", "backup_label", controlFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			return hferr.New("use "+dir, fmt.Errorf("it is not a freshly restored base backup: %w", err), "restore into an empty directory first")
		}
	}
	return nil
}

// checkEmpty accepts a missing or an empty directory.
func checkEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == incompleteMark {
			return hferr.New("restore into "+dir, errors.New("an earlier restore was interrupted there"), "delete the directory, or restore into another one")
		}
	}
	if len(entries) > 0 {
		return hferr.New("restore into "+dir, fmt.Errorf("the directory is not empty (%s …)", entries[0].Name()), "name a missing or empty directory; nothing is ever overwritten")
	}
	return nil
}

// writeDurably makes a file with exactly these bytes, on disk with its name.
func writeDurably(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".holdfast-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, removeIfThere(f.Name()))
	}
	return syncDir(filepath.Dir(path))
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
