package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// serverFacts are what SQL says of a server. Fields a role may not see are
// empty.
type serverFacts struct {
	Version       string
	VersionNum    int
	Platform      string
	Bootstrap     string
	DataDirectory string
	SegmentSize   int64
	BlockSize     int64
	Checksums     bool
	InRecovery    bool
	Size          int64
	Now           time.Time
	Started       time.Time
}

// factsSQL needs no privilege: what the role may not see is null. Sizes of
// databases need CONNECT on each or pg_read_all_stats.
const factsSQL = `
select current_setting('server_version'), current_setting('server_version_num')::int, version(),
       coalesce((select rolname::text from pg_roles where oid = 10), ''),
       coalesce((select setting from pg_settings where name = 'data_directory'), ''),
       (select setting::bigint * case unit when '8kB' then 8192 when 'kB' then 1024 when 'MB' then 1048576 else 1 end
          from pg_settings where name = 'wal_segment_size'),
       current_setting('block_size')::bigint,
       current_setting('data_checksums') = 'on',
       pg_is_in_recovery(),
       coalesce((select sum(case when has_database_privilege(oid, 'connect') or pg_has_role('pg_read_all_stats', 'usage')
                                 then pg_database_size(oid) end) from pg_database), 0)::bigint,
       clock_timestamp(), pg_postmaster_start_time()`

func readFacts(ctx context.Context, conn *pgx.Conn) (serverFacts, error) {
	var f serverFacts
	err := conn.QueryRow(ctx, factsSQL).Scan(&f.Version, &f.VersionNum, &f.Platform, &f.Bootstrap, &f.DataDirectory,
		&f.SegmentSize, &f.BlockSize, &f.Checksums, &f.InRecovery, &f.Size, &f.Now, &f.Started)
	return f, err
}

// readHistory fetches a timeline's history file; nil for timeline 1, which
// has none, and for a server that has lost it.
func readHistory(ctx context.Context, conn *pgconn.PgConn, timeline uint32) ([]byte, error) {
	if timeline <= 1 {
		return nil, nil
	}
	row, err := replicationRow(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", timeline), 2)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateNoFile {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return []byte(row[1]), nil
}

// whereabouts is a server's place in its own history.
type whereabouts struct {
	System  string
	Path    []repo.Branch // oldest ancestor first; the last is written now
	Flushed repo.Position // end of the log that may be streamed
}

func (w whereabouts) branch() repo.Branch { return w.Path[len(w.Path)-1] }

// locate asks a replication connection where the server stands.
func locate(ctx context.Context, conn *pgconn.PgConn) (whereabouts, error) {
	sys, err := identifySystem(ctx, conn)
	if err != nil {
		return whereabouts{}, err
	}
	flushed, err := ParseLSN(sys.Flushed)
	if err != nil {
		return whereabouts{}, err
	}
	history, err := readHistory(ctx, conn, sys.Timeline)
	if err != nil {
		return whereabouts{}, err
	}
	path, err := branchPath(sys.Timeline, history)
	if err != nil {
		return whereabouts{}, err
	}
	return whereabouts{System: sys.ID, Path: path, Flushed: flushed}, nil
}

// lineageID names the history of one initdb.
func lineageID(system string) string { return "pg-" + system }

// Identify asks the server who it is.
func (s *source) Identify(ctx context.Context) (engines.Identity, error) {
	what := "identify " + s.name
	conn, err := s.sql(ctx, "")
	if err != nil {
		return engines.Identity{}, err
	}
	defer s.hangUp(conn)
	facts, err := readFacts(ctx, conn)
	if err != nil {
		return engines.Identity{}, s.explain(what, err)
	}
	extensions, err := readExtensions(ctx, conn)
	if err != nil {
		return engines.Identity{}, s.explain(what, err)
	}
	repl, err := s.replication(ctx, nil)
	if err != nil {
		return engines.Identity{}, err
	}
	defer s.hangUp(repl)
	at, err := locate(ctx, repl)
	if err != nil {
		return engines.Identity{}, s.explain(what, err)
	}
	return engines.Identity{
		Lineage: repo.LineageInfo{
			ID:     lineageID(at.System),
			Engine: "postgres",
			Identity: map[string]string{
				"system_identifier": at.System,
				"wal_segment_size":  strconv.FormatInt(facts.SegmentSize, 10),
				"block_size":        strconv.FormatInt(facts.BlockSize, 10),
				"major":             strconv.Itoa(facts.VersionNum / 10000),
			},
		},
		Branch:   at.branch(),
		Position: at.Flushed,
		Version:  "PostgreSQL " + facts.Version,
		Major:    strconv.Itoa(facts.VersionNum / 10000),
		Time:     facts.Now,
		Facts:    facts.forPeople(extensions, at),
		Size:     facts.Size,
	}, nil
}

func (f serverFacts) forPeople(extensions []Extension, at whereabouts) map[string]string {
	names := make([]string, len(extensions))
	for i, e := range extensions {
		names[i] = e.Name + " " + e.Version
	}
	return map[string]string{
		"system identifier":   at.System,
		"timeline":            strconv.FormatUint(at.branch().Number, 10),
		"in recovery":         yesNo(f.InRecovery),
		"started":             f.Started.UTC().Format(time.RFC3339Nano),
		"data checksums":      yesNo(f.Checksums),
		"data directory":      f.DataDirectory,
		"bootstrap superuser": f.Bootstrap,
		"wal segment size":    strconv.FormatInt(f.SegmentSize, 10),
		"platform":            f.Platform,
		"extensions":          strings.Join(names, ", "),
	}
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
