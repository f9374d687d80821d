package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// counting is an engine whose log is one commit every five bytes: transaction
// 45 is the record from 45 to 50, and its time is at(45). It looks at no byte.
type counting struct{ Engine }

func (counting) Restorer() Restorer { return decimal{} }
func (counting) Resolver() Resolver { return countingResolver{} }

type decimal struct{ Restorer }

func (decimal) FormatPosition(p repo.Position) string { return fmt.Sprint(uint64(p)) }

type countingResolver struct{ Resolver }

const recordSize = 5

func commitAt(p repo.Position) *repo.Mark {
	return &repo.Mark{Kind: repo.MarkCommit, Start: p, End: p + recordSize, Time: at(p), ID: fmt.Sprint(uint64(p))}
}

func (countingResolver) Resolve(_ context.Context, base *repo.Manifest, g Goal, rd *wal.Reader) (*Stop, error) {
	log := rd.Plan()
	end := log.To() - log.To()%recordSize // of the last whole record
	s := &Stop{}
	miss := &UnreachableError{Target: "it", Why: "no such record", Before: commitAt(end - recordSize)}
	if g.Point == nil {
		for s.At = base.Stop; s.At < end && at(s.At).Before(g.Time); s.At += recordSize {
		}
		if s.At >= end {
			return nil, miss
		}
	} else {
		n, err := strconv.ParseUint(g.Point.Value, 10, 64)
		if err != nil && g.Point.Kind != PointConsistent {
			return nil, hferr.NewUsage("read the target", err, "")
		}
		s.At = repo.Position(n)
		switch g.Point.Kind {
		case PointConsistent:
			s.At, s.Consistent = base.Stop, true
		case PointTransaction:
			s.At += recordSize
		}
		if s.At < base.Stop && g.Point.Kind != PointName { // a resolver that forgets to look
			return nil, &UnreachableError{Target: "it", Why: "before the base", After: commitAt(base.Stop)}
		}
		if s.At > end {
			return nil, miss
		}
	}
	s.AtEnd = s.At == end && !s.Consistent
	for _, leg := range log.Legs {
		if leg.From <= s.At && s.At <= leg.To {
			s.Branch = leg.Branch.ID // the older one at a fork: the planner must see to it
			break
		}
	}
	return s, nil
}

func point(kind PointKind, value any) Goal {
	return Goal{Point: &Point{Kind: kind, Value: fmt.Sprint(value)}}
}

func TestStops(t *testing.T) {
	onBranch := func(g Goal, branch string) Goal { g.Branch = branch; return g }
	for _, c := range []struct {
		name  string
		setup func(*house)
		goal  Goal
		base  string
		stop  string // branch:position
		end   string // of the plan
		bare  bool   // segments without indexes
	}{
		{"a position", plain, point(PointPosition, 400), "new", "b1:400", "b1:420", false},
		{"a position without indexes", plain, point(PointPosition, 400), "new", "b1:400", "b1:500", true},
		{"inside a segment", plain, point(PointPosition, 405), "new", "b1:405", "b1:420", false},
		{"a transaction", plain, point(PointTransaction, 400), "new", "b1:405", "b1:420", false},
		{"a time", plain, Goal{Time: at(402)}, "new", "b1:405", "b1:420", false},
		{"where the newest base is consistent", plain, point(PointPosition, 320), "new", "b1:320", "b1:340", false},
		{"just before that", plain, point(PointPosition, 315), "old", "b1:315", "b1:330", false},
		{"as soon as consistent", plain, Goal{Point: &Point{Kind: PointConsistent}}, "new", "b1:320", "b1:340", false},
		{"the last record", plain, point(PointTransaction, 495), "new", "b1:500", "b1:500", false},
		{"behind which half a record lies", func(h *house) { plain(h); h.log("b1", 500, 503) }, point(PointTransaction, 495), "new", "b1:500", "b1:500", false},
		{"before the last record", plain, point(PointPosition, 495), "new", "b1:495", "b1:500", false},
		{"a segment from the end", plain, point(PointPosition, 485), "new", "b1:485", "b1:500", false},
		{"before a fork", promoted, point(PointPosition, 395), "new", "b1:395", "b1:400", false},
		{"at a fork", promoted, point(PointTransaction, 395), "new", "b2:400", "b2:420", false},
		{"after a fork", promoted, point(PointPosition, 405), "new", "b2:405", "b2:420", false},
		{"on the branch that was left", promoted, onBranch(point(PointPosition, 450), "b1"), "new", "b1:450", "b1:470", false},
		{"on the stem of two heirs", split, onBranch(point(PointPosition, 350), "b3"), "new", "b1:350", "b1:370", false},
		{"at a fork onto an empty branch and its heir", func(h *house) {
			promoted(h)
			h.branch("b4", "b2", 400, 4)
			h.log("b4", 400, 500)
		}, onBranch(point(PointPosition, 400), "b4"), "new", "b4:400", "b4:420", false},
		{"a segment whose first record lies on the branch left", func(h *house) {
			h.branch("b1", "", 0, 1)
			h.log("b1", 96, 500)
			h.base("new", "b1", 300, 320)
			h.branch("b2", "b1", 398, 2)
			h.log("b2", 398, 500)
		}, point(PointPosition, 385), "new", "b1:385", "b1:398", false},
		{"found before the newest base is consistent", plain, point(PointName, 310), "old", "b1:310", "b1:330", false},
		{"before a gap", holed, point(PointPosition, 300), "old", "b1:300", "b1:310", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			h.mark = !c.bare
			c.setup(h)
			p, err := PlanRestore(t.Context(), counting{}, h.l, c.goal)
			h.must(err)
			leg := p.Log.Legs[len(p.Log.Legs)-1]
			stop, end := fmt.Sprintf("%s:%d", p.Stop.Branch, p.Stop.At), fmt.Sprintf("%s:%d", leg.Branch.ID, leg.To)
			if p.Base.ID != h.ids[c.base] || stop != c.stop || end != c.end {
				t.Errorf("from %s to %s, log to %s; ids %v", p.Base.ID, stop, end, h.ids)
			}
			if p.Stop.AtEnd && leg.To != p.Stop.At || leg.Branch.ID != p.Stop.Branch || p.EndTime.Before(at(leg.To)) {
				t.Errorf("stop %+v, leg %+v, end time %s", p.Stop, leg, p.EndTime)
			}
			rd, err := wal.NewReader(t.Context(), h.l, p.Log)
			h.must(err)
			h.must(rd.Copy(t.Context(), leg.Branch.ID, p.Log.From(), leg.To, new(bytes.Buffer)))
		})
	}
}

func TestPointsOutOfReach(t *testing.T) {
	for _, c := range []struct {
		name   string
		setup  func(*house)
		goal   Goal
		before string // id of the nearest reachable commit, "" none
		after  string
		says   string
		hint   string
	}{
		{"beyond the end", plain, point(PointPosition, 505), "495", "", "no such record", "of transaction 495 at 2026-01-02T03:08:15Z (495)"},
		{"before every base", plain, point(PointTransaction, 100), "", "120", "before the base", "after it: commit of transaction 120"},
		{"behind a gap", func(h *house) { plain(h); h.log("b1", 510, 600) }, point(PointPosition, 550), "495", "", "missing from 1f4 to 1fe", "positions 120 to 500"},
		{"in a gap between two bases", func(h *house) {
			h.branch("b1", "", 0, 1)
			h.base("old", "b1", 100, 120)
			h.log("b1", 100, 310)
			h.base("new", "b1", 325, 330)
			h.log("b1", 320, 500)
		}, point(PointPosition, 315), "305", "330", "before the base", "after it: commit of transaction 330"},
		{"a time at which nothing was committed any more", plain, Goal{Time: at(499)}, "495", "", "no such record", "before 2026-01-02T03:08:20Z"},
		{"on a branch that is not chosen", promoted, point(PointPosition, 800), "695", "", "no such record", "positions 120 to 700"},
		{"on the branch that was left", func(h *house) { plain(h); h.branch("b2", "b1", 400, 2); h.log("b2", 400, 450) },
			point(PointPosition, 470), "445", "", "no such record", "It is on branch b1: add --branch b1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			c.setup(h)
			p, err := PlanRestore(t.Context(), counting{}, h.l, c.goal)
			var miss *UnreachableError
			if !errors.As(err, &miss) {
				t.Fatalf("planned %+v, error %v", p, err)
			}
			id := func(m *repo.Mark) string {
				if m == nil {
					return ""
				}
				return m.ID
			}
			if id(miss.Before) != c.before || id(miss.After) != c.after {
				t.Errorf("nearest %+v and %+v", miss.Before, miss.After)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(hferr.HintOf(err), c.hint) {
				t.Errorf("error: %v\nhint: %s", err, hferr.HintOf(err))
			}
		})
	}
}

func TestGoalsThatContradict(t *testing.T) {
	h := newHouse(t)
	plain(h)
	g := point(PointPosition, 400)
	g.Time = at(400)
	for _, g := range []Goal{g, point(PointPosition, "4OO")} {
		if _, err := PlanRestore(t.Context(), counting{}, h.l, g); hferr.KindOf(err) != hferr.Usage {
			t.Errorf("%+v: %v", g, err)
		}
	}
}
