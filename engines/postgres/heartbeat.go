package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// The heartbeat lives in a database of its own, so that no publication FOR
// ALL TABLES and no schema of the user's ever meets it.
const (
	beatDatabase = "holdfast"
	beatSchema   = "holdfast"
	beatTable    = beatSchema + ".beat"
)

// pulse writes beats. One beat at a time.
type pulse struct {
	s    *source
	mu   sync.Mutex
	conn *pgx.Conn
	next int64 // 0 until Setup
}

var _ consistency.Pulse = (*pulse)(nil)

// newPulse connects to the heartbeat database, and makes it first if the role
// may: a connection cannot be opened to what does not exist.
func newPulse(ctx context.Context, s *source) (*pulse, error) {
	conn, err := s.sql(ctx, beatDatabase)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateNoDatabase {
		if err := s.createBeatDatabase(ctx); err != nil {
			return nil, err
		}
		conn, err = s.sql(ctx, beatDatabase)
	}
	if errors.As(err, &pgErr) && pgErr.Code == stateNoPrivilege {
		return nil, hferr.New("open the heartbeat database of "+s.name, pgErr, s.beatGrant())
	}
	if err != nil {
		return nil, err
	}
	return &pulse{s: s, conn: conn}, nil
}

func (s *source) role() string { return pgx.Identifier{s.config.User}.Sanitize() }

// beatFix makes the database; beatGrant lets the role use one that is there.
func (s *source) beatFix() string {
	return fmt.Sprintf("CREATE DATABASE %s OWNER %s;", beatDatabase, s.role())
}

func (s *source) beatGrant() string {
	return fmt.Sprintf("GRANT CONNECT, CREATE ON DATABASE %s TO %s;", beatDatabase, s.role())
}

func (s *source) createBeatDatabase(ctx context.Context) error {
	what := "make the heartbeat database of " + s.name
	conn, err := s.sql(ctx, "")
	if err != nil {
		return err
	}
	defer s.hangUp(conn)
	_, err = conn.Exec(ctx, "create database "+beatDatabase)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "42P04", "23505": // it exists: another process was quicker
			return nil
		case stateNoPrivilege:
			return hferr.New(what, pgErr, s.beatFix())
		case "25006":
			return hferr.New(what, pgErr, "a standby cannot be written to: make it on the primary:\n"+s.beatFix())
		}
	}
	return s.explain(what, err)
}

const beatSetupSQL = `
create schema if not exists ` + beatSchema + `;
create table if not exists ` + beatTable + ` (slot int primary key, n bigint not null, at timestamptz not null);
comment on table ` + beatTable + ` is 'heartbeats of holdfast: a restored copy proves by them what it lost';`

// Setup makes schema and table as needed, and reads where the count stands.
func (p *pulse) Setup(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := "set up the heartbeat of " + p.s.name
	err := p.conn.QueryRow(ctx, "select coalesce(max(n), 0) + 1 from "+beatTable).Scan(&p.next)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateUndefinedTable {
		if _, err = p.conn.Exec(ctx, beatSetupSQL, pgx.QueryExecModeSimpleProtocol); err == nil {
			err = p.conn.QueryRow(ctx, "select coalesce(max(n), 0) + 1 from "+beatTable).Scan(&p.next)
		}
	}
	if errors.As(err, &pgErr) && pgErr.Code == stateNoPrivilege {
		return hferr.New(what, pgErr, p.s.beatGrant()+fmt.Sprintf(
			"\n\\c %s\nGRANT USAGE ON SCHEMA %s TO %s; GRANT SELECT, INSERT, UPDATE ON %s TO %s;  -- if the table is another role's",
			beatDatabase, beatSchema, p.s.role(), beatTable, p.s.role()))
	}
	return p.s.explain(what, err)
}

// beatSQL writes one row of the ring. The time is the clock's, not the
// transaction's; the transaction is this statement.
const beatSQL = `
insert into ` + beatTable + ` (slot, n, at) values ($1, $2, clock_timestamp())
on conflict (slot) do update set n = excluded.n, at = excluded.at where ` + beatTable + `.n < excluded.n
returning at`

// Beat commits the next beat. The position is read after the commit and from
// the insert pointer, so that it lies at or after the commit record whatever
// synchronous_commit says.
func (p *pulse) Beat(ctx context.Context) (repo.Beat, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	what := "write a heartbeat to " + p.s.name
	if p.next == 0 {
		return repo.Beat{}, errors.New(what + ": Setup has not been called")
	}
	b := repo.Beat{N: p.next}
	err := p.conn.QueryRow(ctx, beatSQL, b.N%consistency.RingSize, b.N).Scan(&b.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return repo.Beat{}, hferr.New(what, fmt.Errorf("beat %d is already there", b.N),
			"another holdfast writes heartbeats to this server: let only one stream it")
	}
	if err != nil {
		return repo.Beat{}, p.s.explain(what, err)
	}
	var lsn string
	if err := p.conn.QueryRow(ctx, "select pg_current_wal_insert_lsn()::text").Scan(&lsn); err != nil {
		// The beat is committed though its position is unknown; its number
		// must not be used again.
		p.next++
		return repo.Beat{}, p.s.explain(what, err)
	}
	p.next++
	if b.Pos, err = ParseLSN(lsn); err != nil {
		return repo.Beat{}, err
	}
	b.At = b.At.UTC()
	return b, nil
}

func (p *pulse) Close() error {
	p.s.hangUp(p.conn)
	return nil
}

// readBeats reads the ring over a connection to the heartbeat database of a
// copy. No table is no error: there were no beats.
func readBeats(ctx context.Context, conn *pgx.Conn) ([]repo.Beat, error) {
	rows, err := conn.Query(ctx, "select n, at from "+beatTable+" order by n")
	if err == nil {
		var out []repo.Beat
		var b repo.Beat
		_, err = pgx.ForEachRow(rows, []any{&b.N, &b.At}, func() error {
			b.At = b.At.UTC()
			out = append(out, b)
			return nil
		})
		if err == nil {
			return out, nil
		}
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateUndefinedTable {
		return nil, nil
	}
	return nil, fmt.Errorf("read heartbeats: %w", err)
}
