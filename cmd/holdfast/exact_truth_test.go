package main

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// truth is the source's log as the server itself reads it (pg_walinspect), on
// the path of its timelines, and the rows the source held in the end.
type truth struct {
	records []place
	ends    []place // commits and aborts, in order of the log
	points  []place
	rows    map[int64]bool // ids of the transactions that left a row in commits
}

// place is one record.
type place struct {
	start, end repo.Position
	kind       repo.MarkKind // "": any other
	xid        int64
	at         time.Time
	name       string
}

// A commit or abort as xact_desc prints it: the id first where the record is
// of a prepared transaction.
var xactDescription = regexp.MustCompile(`^(?:(\d+): )?(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)(?:\+00| UTC)`)

func (s *site) readTruth(from repo.Position) *truth {
	s.t.Helper()
	c, err := pgx.Connect(s.ctx, s.server.AdminURL())
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(s.ctx))
	if _, err := c.Exec(s.ctx, "set timezone = 'UTC'"); err != nil {
		s.t.Fatal(err)
	}
	rows, err := c.Query(s.ctx, `select (start_lsn - '0/0')::bigint, (end_lsn - '0/0')::bigint, xid::text::bigint, record_type, coalesce(description, '')
		from pg_get_wal_records_info('0/0'::pg_lsn + $1::numeric, pg_current_wal_flush_lsn()) order by 1`, strconv.FormatUint(uint64(from), 10))
	if err != nil {
		s.t.Fatal(err)
	}
	tr := &truth{rows: map[int64]bool{}}
	var start, end, xid int64
	var kind, description string
	_, err = pgx.ForEachRow(rows, []any{&start, &end, &xid, &kind, &description}, func() error {
		p := place{start: repo.Position(start), end: repo.Position(end), xid: xid}
		switch kind {
		case "COMMIT", "COMMIT_PREPARED", "ABORT", "ABORT_PREPARED":
			p.kind = repo.MarkCommit
			if kind[0] == 'A' {
				p.kind = repo.MarkAbort
			}
			m := xactDescription.FindStringSubmatch(description)
			if m == nil {
				s.t.Fatalf("a %s described as %q", kind, description)
			}
			if m[1] != "" {
				p.xid, _ = strconv.ParseInt(m[1], 10, 64)
			}
			if p.at, err = time.Parse("2006-01-02 15:04:05", m[2]); err != nil {
				return err
			}
			tr.ends = append(tr.ends, p)
		case "RESTORE_POINT":
			p.kind, p.name = repo.MarkRestorePoint, description
			tr.points = append(tr.points, p)
		}
		tr.records = append(tr.records, p)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, x := range s.numberedRows(c) {
		tr.rows[x] = true
	}
	return tr
}

// numberedRows are the transactions whose rows a server holds; what it holds
// of each must be whole.
func (s *site) numberedRows(c *pgx.Conn) []int64 {
	s.t.Helper()
	var xids []int64
	var torn, ghosts int
	err := c.QueryRow(s.ctx, `with p as (select xid, count(*) n from parts group by xid)
		select coalesce(array_agg(c.xid) filter (where c.xid is not null), '{}'), count(*) filter (where coalesce(c.parts, -1) <> coalesce(p.n, 0)), (select count(*) from ghosts)
		from commits c full join p using (xid)`).Scan(&xids, &torn, &ghosts)
	if err != nil {
		s.t.Fatal(err)
	}
	if torn > 0 || ghosts > 0 {
		s.t.Errorf("%d transactions are torn, %d rows were never committed", torn, ghosts)
	}
	return xids
}

// before are the transactions with rows whose commit begins before a place.
func (tr *truth) before(at repo.Position) []int64 {
	out := []int64{}
	for _, p := range tr.ends {
		if p.kind == repo.MarkCommit && p.start < at && tr.rows[p.xid] {
			out = append(out, p.xid)
		}
	}
	slices.Sort(out)
	return out
}

// neighbours are the last commit before a place and the first commit or abort
// at or behind it.
func (tr *truth) neighbours(at repo.Position) (last, next *place) {
	for i, p := range tr.ends {
		if p.start >= at {
			return last, &tr.ends[i]
		}
		if p.kind == repo.MarkCommit {
			last = &tr.ends[i]
		}
	}
	return last, nil
}

// firstAt is where the first commit or abort at or after a time begins: either
// ends a recovery to that time (recoveryStopsBefore in xlogrecovery.c).
func (tr *truth) firstAt(from repo.Position, t time.Time) repo.Position {
	for _, p := range tr.ends {
		if p.start >= from && !p.at.Before(t) {
			return p.start
		}
	}
	return 0
}
