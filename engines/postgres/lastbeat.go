package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// SQLSTATEs that mean "there is no heartbeat here": no such database, schema
// or table.
const (
	codeNoDatabase = "3D000"
	codeNoSchema   = "3F000"
	codeNoTable    = "42P01"
)

// LastBeat implements engines.BeatSource: the newest committed beat of a live
// source, read without writing anything. The position is read after the row,
// so it lies at or after the row's commit.
func (s *source) LastBeat(ctx context.Context) (*repo.Beat, error) {
	conn, err := s.sql(ctx, beatDatabase)
	if err != nil {
		return nil, absent(err)
	}
	defer s.hangUp(conn)
	var b repo.Beat
	err = conn.QueryRow(ctx, `select n, at from holdfast.beat order by n desc limit 1`).Scan(&b.N, &b.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, absent(err)
	}
	var lsn string
	err = conn.QueryRow(ctx, `select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text`).Scan(&lsn)
	if err != nil {
		return nil, err
	}
	b.Pos, err = ParseLSN(lsn)
	return &b, err
}

// absent turns "there is no heartbeat" into no error.
func absent(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (pg.Code == codeNoDatabase || pg.Code == codeNoSchema || pg.Code == codeNoTable) {
		return nil
	}
	return err
}
