package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// resolver finds places in WAL. It holds no state.
type resolver struct{}

var _ engines.Resolver = resolver{}

// Resolver … see engines.Engine.
func (*Engine) Resolver() engines.Resolver { return resolver{} }

// Resolve: see engines.Resolver.
//
// A position is an LSN; a transaction is a number as txid_current() or
// pg_current_xact_id() print it, of which the lower 32 bits count, as
// recovery_target_xid has it; a subtransaction stands for the transaction it
// belongs to. A time is where the first commit or abort record at or after it
// begins, in order of the log, as the server itself has it for
// recovery_target_time with recovery_target_inclusive off.
//
// A stop at the very fork of two branches is on the new one, if a record
// follows there: its first record proves the stop, and the old branch's log
// is not read beyond the fork.
func (resolver) Resolve(ctx context.Context, base *repo.Manifest, g engines.Goal, rd *wal.Reader) (*engines.Stop, error) {
	q := &query{ctx: ctx, base: base, rd: rd, target: describeGoal(g)}
	switch {
	case g.Point == nil && g.Time.IsZero():
		return nil, hferr.NewUsage("find the target", fmt.Errorf("the goal names none"), "")
	case g.Point == nil:
		return q.time(g.Time)
	}
	switch p := g.Point; p.Kind {
	case engines.PointConsistent:
		return q.consistent()
	case engines.PointName:
		return q.name(p.Value)
	case engines.PointPosition:
		at, err := ParseLSN(p.Value)
		if err != nil {
			return nil, notation(p, err)
		}
		return q.position(at)
	case engines.PointTransaction:
		xid, err := parseXID(p.Value)
		if err != nil {
			return nil, notation(p, err)
		}
		return q.transaction(xid, false)
	case engines.PointBefore:
		if at, err := ParseLSN(p.Value); err == nil {
			return q.beforePosition(at)
		}
		xid, err := parseXID(p.Value)
		if err != nil {
			return nil, notation(p, fmt.Errorf("%q is neither a transaction's number nor a log position like 0/3000028", p.Value))
		}
		return q.transaction(xid, true)
	default:
		return nil, notation(p, fmt.Errorf("PostgreSQL knows no place of the kind %q", p.Kind))
	}
}

func describeGoal(g engines.Goal) string {
	if g.Point != nil {
		return g.Point.String()
	}
	return "the time " + g.Time.UTC().Format(time.RFC3339Nano)
}

func notation(p *engines.Point, err error) error {
	return hferr.NewUsage("find "+p.String(), err, "a position looks like 0/3000028, a transaction's number like 740; holdfast list --points shows what there is")
}

// firstNormalXID is the first number of a transaction that can be in a log
// (access/transam.h).
const firstNormalXID = 3

// parseXID reads a transaction's number, with or without its epoch.
func parseXID(s string) (uint32, error) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a transaction's number", s)
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || uint32(n) < firstNormalXID {
		return 0, fmt.Errorf("%q is not a transaction's number", s)
	}
	return uint32(n), nil
}

// Marks: see engines.Resolver. With all it lists commits and aborts too.
func (resolver) Marks(ctx context.Context, rd *wal.Reader, from, to repo.Position, all bool, fn func(repo.Mark) error) error {
	l := &markList{from: from, to: to, all: all, fn: fn}
	s := &scan{rd: rd, skip: l.skip, record: l.record}
	if err := s.run(ctx); err != nil {
		return err
	}
	return l.err
}
