package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// query looks for one target.
type query struct {
	ctx    context.Context
	base   *repo.Manifest
	rd     *wal.Reader
	target string
}

func (q *query) unreachable(before, after *repo.Mark, why string, args ...any) error {
	return &engines.UnreachableError{Target: q.target, Why: fmt.Sprintf(why, args...), Before: before, After: after}
}

// find scans for the first mark that match accepts, in what skip leaves; nil:
// there is none.
func (q *query) find(skip func(piece) bool, match func(*repo.Mark, *walrecord.Event) bool) (found *repo.Mark, err error) {
	s := &scan{rd: q.rd, skip: skip, record: func(r *walrecord.Record, e *walrecord.Event) error {
		m, ok := markOf(r, e)
		if !ok || !match(&m, e) {
			return nil
		}
		found = &m
		return errDone
	}}
	return found, s.run(q.ctx)
}

// firstEnd is the first commit or abort that a replay from the base reaches.
func (q *query) firstEnd() (*repo.Mark, error) {
	return q.find(func(p piece) bool { return p.to <= q.base.Stop || p.index.Commits+p.index.Aborts == 0 },
		func(m *repo.Mark, _ *walrecord.Event) bool { return endsTransaction(m) && m.Start >= q.base.Stop })
}

// lastCommit is the last commit of the log held, if a replay reaches it.
func (q *query) lastCommit() (*repo.Mark, error) {
	l := &lastSeen{base: q.base.Stop, before: q.rd.Plan().To()}
	_, err := q.find(l.skip, func(m *repo.Mark, _ *walrecord.Event) bool { l.see(m); return false })
	return l.mark, err
}

// lastSeen keeps the last commit behind the base and before a position.
type lastSeen struct {
	base, before repo.Position
	mark         *repo.Mark
}

func (l *lastSeen) see(m *repo.Mark) {
	later := l.mark == nil || m.Start > l.mark.Start // pieces may overlap
	if m.Kind == repo.MarkCommit && m.Start >= l.base && m.Start < l.before && later {
		l.mark = m
	}
}

// skip passes over everything that has an index, taking the last commit from
// there. An index may reach beyond a fork into another history: such a piece
// is walked, if its last commit does.
func (l *lastSeen) skip(p piece) bool {
	last := p.index.LastCommit
	if last == nil {
		return true
	}
	if last.Start >= p.to {
		return false
	}
	l.see(last)
	return true
}

// early says that a target lies before the base is consistent.
func (q *query) early(why string, args ...any) error {
	after, err := q.firstEnd()
	if err != nil {
		return err
	}
	return q.unreachable(nil, after, why+"; the base backup is consistent only at %s", append(args, FormatLSN(q.base.Stop))...)
}

// late says that a target lies behind the log held.
func (q *query) late(why string, args ...any) error {
	before, err := q.lastCommit()
	if err != nil {
		return err
	}
	return q.unreachable(before, nil, why, args...)
}

// time finds the first commit or abort at or after t.
func (q *query) time(t time.Time) (*engines.Stop, error) {
	if t.Before(q.base.StartTime) {
		return nil, q.early("the base backup was begun at %s", q.base.StartTime.UTC().Format(time.RFC3339Nano))
	}
	m, err := q.find(func(p piece) bool { return p.index.Commits+p.index.Aborts == 0 || p.index.MaxTime.Before(t) },
		func(m *repo.Mark, _ *walrecord.Event) bool { return endsTransaction(m) && !m.Time.Before(t) })
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, q.late("no transaction ended at or after it in the log held, so nothing tells where it lies")
	case m.Start < q.base.Stop:
		return nil, q.early("transaction %s ended at %s, at %s", m.ID, m.Time.Format(time.RFC3339Nano), FormatLSN(m.Start))
	}
	return q.stopAt(m.Start)
}

// position stops at the first record that begins at or after p.
func (q *query) position(p repo.Position) (*engines.Stop, error) {
	if p < q.base.Stop {
		return nil, q.early("it lies before the log that may be left out")
	}
	return q.stopAt(p)
}

// consistent stops where the base is consistent.
func (q *query) consistent() (*engines.Stop, error) {
	stop, err := q.stopAt(q.base.Stop)
	if err != nil {
		return nil, err
	}
	stop.At, stop.Consistent = q.base.Stop, true
	return stop, nil
}

// beforePosition stops before the commit whose record holds p.
func (q *query) beforePosition(p repo.Position) (*engines.Stop, error) {
	m, err := q.find(func(x piece) bool { return x.to+8 <= p }, // a record ends up to 7 bytes before the next begins
		func(m *repo.Mark, _ *walrecord.Event) bool {
			return m.Start > p || m.Kind == repo.MarkCommit && m.Start <= p && p < m.End
		})
	switch {
	case err != nil:
		return nil, err
	case m != nil && m.Start <= p && m.Start >= q.base.Stop:
		return q.stopAt(m.Start)
	case p < q.base.Stop:
		return nil, q.early("it lies before the log that may be left out")
	}
	near, err := q.stopAt(p)
	var none *engines.UnreachableError
	if err != nil && !errors.As(err, &none) {
		return nil, err
	}
	if none != nil {
		return nil, none
	}
	return nil, q.unreachable(near.Last, near.Next, "no commit's record holds this position")
}

// transaction finds the end of a transaction, and stops behind it, or before.
func (q *query) transaction(xid uint32, before bool) (*engines.Stop, error) {
	n := &nearby{xid: xid, base: q.base.Stop}
	m, err := q.find(n.skip, n.match)
	switch {
	case err != nil:
		return nil, err
	case m == nil:
		return nil, q.unreachable(n.lower, n.higher, "the log held has no end of this transaction")
	case before && m.Kind == repo.MarkAbort:
		return nil, q.unreachable(n.lower, n.higher, "transaction %s was rolled back, at %s; it has no commit", m.ID, FormatLSN(m.Start))
	case before && m.Start < q.base.Stop, m.End < q.base.Stop:
		return nil, q.early("transaction %s ended at %s", m.ID, FormatLSN(m.Start))
	case before:
		return q.stopAt(m.Start)
	}
	return q.stopAt(m.End)
}

// nearby finds the end of a transaction, and on the way the reachable commits
// whose numbers are nearest to it.
type nearby struct {
	xid           uint32
	base          repo.Position
	lower, higher *repo.Mark
}

func (n *nearby) match(m *repo.Mark, e *walrecord.Event) bool {
	if !endsTransaction(m) {
		return false
	}
	if e.XID == n.xid || e.HasSub(n.xid) {
		return true
	}
	n.see(m)
	return false
}

func (n *nearby) skip(p piece) bool {
	x := p.index
	if x.Commits+x.Aborts > 0 && x.MinID <= uint64(n.xid) && uint64(n.xid) <= x.MaxID {
		return false
	}
	for _, m := range []*repo.Mark{x.FirstCommit, x.LastCommit} {
		if m != nil && m.Start < p.to {
			n.see(m)
		}
	}
	return true
}

func (n *nearby) see(m *repo.Mark) {
	xid, err := parseXID(m.ID)
	if err != nil || m.Kind != repo.MarkCommit || m.Start < n.base {
		return
	}
	// Numbers wrap around: the nearer half of them is before (TransactionIdPrecedes).
	closer := func(to *repo.Mark) bool {
		have, err := parseXID(to.ID)
		return err == nil && distance(n.xid, xid) < distance(n.xid, have)
	}
	if int32(xid-n.xid) < 0 {
		if n.lower == nil || closer(n.lower) {
			n.lower = m
		}
	} else if n.higher == nil || closer(n.higher) {
		n.higher = m
	}
}

func distance(a, b uint32) uint32 { return min(a-b, b-a) }

// name stops behind the one restore point of that name.
func (q *query) name(name string) (*engines.Stop, error) {
	var early, found []repo.Mark
	var last *repo.Mark
	skip := func(p piece) bool {
		if mayName(p.index, name) {
			return false
		}
		for i, m := range p.index.Marks {
			if m.Kind == repo.MarkRestorePoint && m.Start >= q.base.Stop && m.Start < p.to {
				last = &p.index.Marks[i]
			}
		}
		return true
	}
	_, err := q.find(skip, func(m *repo.Mark, _ *walrecord.Event) bool {
		switch {
		case m.Kind != repo.MarkRestorePoint:
		case m.Name == name && m.End < q.base.Stop:
			early = append(early, *m)
		case m.Name == name:
			found = append(found, *m)
		case m.Start >= q.base.Stop:
			last = m
		}
		return false
	})
	switch {
	case err != nil:
		return nil, err
	case len(found) > 1:
		lines := []string{"name one of them by its position (--target-lsn) instead:"}
		for _, m := range found {
			lines = append(lines, fmt.Sprintf("  %s  made at %s", FormatLSN(m.End), m.Time.Format(time.RFC3339Nano)))
		}
		return nil, hferr.NewUsage("find "+q.target, fmt.Errorf("%d restore points have this name", len(found)), strings.Join(lines, "\n"))
	case len(found) == 1:
		return q.stopAt(found[0].End)
	case len(early) > 0:
		return nil, q.early("the restore point was made at %s", FormatLSN(early[len(early)-1].Start))
	}
	return nil, q.unreachable(last, nil, "no restore point of this name is in the log held")
}

// mayName says whether a piece may hold a restore point of a name. A full
// list proves nothing.
func mayName(x *repo.LogIndex, name string) bool {
	return len(x.Marks) >= maxMarks || slices.ContainsFunc(x.Marks, func(m repo.Mark) bool {
		return m.Kind == repo.MarkRestorePoint && m.Name == name
	})
}
