package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

var _ engines.BeatSource = (*source)(nil)

// LastBeat implements engines.BeatSource: the newest committed beat of a live
// source, primary or standby, read without writing anything. The position is
// read after the row, so it lies at or after the row's commit.
func (s *source) LastBeat(ctx context.Context) (*repo.Beat, error) {
	what := "read the last heartbeat of " + s.name
	conn, err := s.sql(ctx, beatDatabase)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateNoDatabase {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer s.hangUp(conn)
	beats, err := readBeats(ctx, conn)
	if err != nil {
		return nil, s.explain(what, err)
	}
	if len(beats) == 0 {
		return nil, nil
	}
	last := beats[len(beats)-1]
	var lsn string
	err = conn.QueryRow(ctx, `select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text`).Scan(&lsn)
	if err != nil {
		return nil, s.explain(what, err)
	}
	if last.Pos, err = ParseLSN(lsn); err != nil {
		return nil, err
	}
	return &last, nil
}
