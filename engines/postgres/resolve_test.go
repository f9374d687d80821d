package postgres

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/internal/underrace"
	"github.com/holdfastdb/holdfast/wal"
)

// indexing is an archiver whose segments are indexed.
type indexing struct{ *wal.Archiver }

func (a indexing) Begin(ctx context.Context, b repo.Branch, at repo.Position, _ wal.Indexer) error {
	return a.Archiver.Begin(ctx, b, at, newIndexer(b, testSegment, at))
}

// past is the log of a server that was promoted once, in a repository, with
// what a reader of all of it sees.
type past struct {
	t        *testing.T
	rd       *wal.Reader
	base     repo.Manifest
	all      []marked // every record
	end      repo.Position
	fork     repo.Position
	branches [2]string
}

// workload ends transactions in every way, n of each.
func (s *site) workload(n int) {
	for i := range n {
		s.exec("begin", "insert into t values (1)", "savepoint s", "insert into t values (2)", "commit",
			"begin", "insert into t values (3)", "rollback",
			"begin", "insert into t values (4)", "prepare transaction 'p'", "insert into t values (5)", "commit prepared 'p'",
			fmt.Sprintf("insert into t select generate_series(1, %d)", i*8),
			fmt.Sprintf("select pg_create_restore_point('point %d')", i%7))
		if i%10 == 9 {
			s.exec("checkpoint", "select pg_switch_wal()")
		}
	}
}

// newPast streams a workload into a repository: before the base, in it, behind
// it, and after a promotion.
func newPast(t *testing.T, major string) (*pipeline, *past) {
	t.Helper()
	s := newSite(t, major, map[string]string{"wal_keep_size": "2GB", "max_prepared_transactions": "5"}, "create table t (x int)")
	a := newPipeline(t, s)
	p := &past{t: t}
	tail := func(promote bool) {
		arch := indexing{wal.NewArchiver(a.lineage, wal.ArchiverOptions{FlushEvery: 20 * time.Millisecond, Clock: time.Now})}
		until := make(chan repo.Position, 1)
		done := make(chan error, 1)
		go func() {
			done <- a.src.Log().Tail(t.Context(), engines.TailOptions{Held: a.held, Until: until}, arch)
		}()
		if promote {
			s.promote()
			s.workload(20)
		} else {
			s.exec("select pg_create_restore_point('early')")
			s.workload(5)
			p.base.StartTime = s.now()
			p.base.Start = s.position("select pg_current_wal_insert_lsn()::text")
			s.workload(10)
			s.exec("insert into t values (7)")
			p.base.Stop = s.position("select pg_current_wal_flush_lsn()::text")
			s.workload(30)
		}
		s.exec("insert into t values (6)")
		until <- s.position("select pg_current_wal_flush_lsn()::text")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if err := arch.Close(t.Context(), "shutdown"); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.src.Log().Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	tail(false)
	s.becomeStandby()
	tail(true)
	p.read(a.lineage)
	return a, p
}

func (s *site) now() (at time.Time) {
	s.t.Helper()
	if err := s.admin.QueryRow(s.t.Context(), "select clock_timestamp()").Scan(&at); err != nil {
		s.t.Fatal(err)
	}
	return at
}

// read takes a lineage's log as the past.
func (p *past) read(l *repo.Lineage) {
	p.t.Helper()
	ctx := p.t.Context()
	branches, err := l.Branches(ctx)
	if err != nil || len(branches) != 2 {
		p.t.Fatalf("branches %v, %v", branches, err)
	}
	p.branches, p.fork = [2]string{branches[0].ID, branches[1].ID}, branches[1].Fork
	refs, err := l.Segments(ctx, branches[0].ID, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	plan, err := wal.MakePlan(ctx, l, branches[0].ID, refs[0].Start, branches[1].ID, 0)
	if err != nil {
		p.t.Fatal(err)
	}
	if p.rd, err = wal.NewReader(ctx, l, plan); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.rd.Close)
	var log bytes.Buffer
	if err := p.rd.Copy(ctx, branches[1].ID, plan.From(), plan.To(), &log); err != nil {
		p.t.Fatal(err)
	}
	p.all, p.end = readMarks(p.t, log.Bytes(), plan.From()), plan.To()
}

// stop is what a stop at the i-th record must be.
func (p *past) stop(i int) engines.Stop {
	s := engines.Stop{At: p.end, Branch: p.branches[1], AtEnd: true}
	if i < len(p.all) {
		s.At, s.AtEnd = p.all[i].mark.Start, false
	}
	if s.At < p.fork {
		s.Branch = p.branches[0]
	}
	for _, m := range p.all[:i] {
		if m.mark.Kind == repo.MarkCommit && m.mark.Start >= p.base.Stop {
			s.Last = &m.mark
		}
	}
	for _, m := range p.all[i:] {
		if endsTransaction(&m.mark) {
			s.Next = &m.mark
			break
		}
	}
	return s
}

// check resolves a target; want is the record to stop before, -1: none.
func (p *past) check(g engines.Goal, want int) *engines.UnreachableError {
	p.t.Helper()
	got, err := resolver{}.Resolve(p.t.Context(), &p.base, g, p.rd)
	var none *engines.UnreachableError
	if errors.As(err, &none) {
		if want >= 0 {
			p.t.Errorf("%s: %v, want %s", describeGoal(g), err, FormatLSN(p.stop(want).At))
		}
		for _, m := range []*repo.Mark{none.Before, none.After} {
			if m != nil && m.Start < p.base.Stop {
				p.t.Errorf("%s: nearest is %+v, before the base", describeGoal(g), m)
			}
		}
		return none
	}
	if err != nil {
		p.t.Errorf("%s: %v", describeGoal(g), err)
		return nil
	}
	if want < 0 {
		p.t.Errorf("%s: %+v, though it cannot be reached", describeGoal(g), got)
		return nil
	}
	if s := p.stop(want); !reflect.DeepEqual(*got, s) {
		p.t.Errorf("%s: %+v (last %+v, next %+v)\nwant %+v (last %+v, next %+v)", describeGoal(g), got, got.Last, got.Next, s, s.Last, s.Next)
	}
	return nil
}

func point(kind engines.PointKind, value string) engines.Goal {
	return engines.Goal{Point: &engines.Point{Kind: kind, Value: value}}
}

// reachable is i, or -1 where a stop before record i lies before the base.
func (p *past) reachable(i int) int {
	if i < 0 || i < len(p.all) && p.all[i].mark.Start < p.base.Stop {
		return -1
	}
	return i
}

// targets resolves n targets of each kind, all over the log.
func (p *past) targets(n int) {
	rnd := rand.New(rand.NewPCG(7, 8))
	first := p.all[0].mark.Start
	for range n {
		at := first + repo.Position(rnd.Uint64N(uint64(p.end-first)))
		i, _ := slices.BinarySearchFunc(p.all, at, func(m marked, p repo.Position) int { return cmp.Compare(m.mark.Start, p) })
		if i >= len(p.all)-1 {
			continue
		}
		want := i
		if at < p.base.Stop {
			want = -1
		}
		p.check(point(engines.PointPosition, FormatLSN(at)), want)
		before := -1
		if m := p.all[max(i-1, 0)]; m.mark.Kind == repo.MarkCommit && at < m.mark.End {
			before = p.reachable(i - 1)
		}
		if p.all[i].mark.Kind == repo.MarkCommit && p.all[i].mark.Start == at {
			before = p.reachable(i)
		}
		p.check(point(engines.PointBefore, strings.ToLower(FormatLSN(at))), before)

		for i < len(p.all)-1 && !endsTransaction(&p.all[i].mark) {
			i++
		}
		m := p.all[i]
		for j, id := range m.ids {
			if !endsTransaction(&m.mark) || i == len(p.all)-1 {
				break
			}
			xid := fmt.Sprint(id + uint64(j)<<32) // with any epoch
			p.check(point(engines.PointTransaction, xid), p.reachable(i+1))
			want := p.reachable(i)
			if m.mark.Kind == repo.MarkAbort {
				want = -1
			}
			p.check(point(engines.PointBefore, xid), want)
		}
		t := m.mark.Time.Add(time.Duration(rnd.IntN(3)-1) * time.Microsecond)
		if t.After(p.base.StartTime) && !m.mark.Time.IsZero() {
			p.check(engines.Goal{Time: t}, p.reachable(slices.IndexFunc(p.all, func(m marked) bool { return endsTransaction(&m.mark) && !m.mark.Time.Before(t) })))
		}
	}
}

// edges resolves the places that are special.
func (p *past) edges() {
	t := p.t
	last := p.all[len(p.all)-1].mark // a commit
	atFork := slices.IndexFunc(p.all, func(m marked) bool { return m.mark.Start >= p.fork })
	p.check(point(engines.PointPosition, FormatLSN(p.fork)), atFork)
	p.check(point(engines.PointPosition, FormatLSN(p.fork-1)), atFork)
	p.check(point(engines.PointPosition, FormatLSN(p.all[atFork-1].mark.Start)), atFork-1)
	p.check(point(engines.PointPosition, FormatLSN(p.end)), len(p.all))
	p.check(point(engines.PointTransaction, last.ID), len(p.all))
	if u := p.check(point(engines.PointPosition, FormatLSN(p.end+8)), -1); u == nil || !reflect.DeepEqual(u.Before, &last) || u.After != nil {
		t.Errorf("beyond the end: %+v", u)
	}
	if u := p.check(engines.Goal{Time: last.Time.Add(time.Microsecond)}, -1); u == nil || !reflect.DeepEqual(u.Before, &last) || u.After != nil {
		t.Errorf("beyond the last commit: %+v", u)
	}
	first := p.stop(slices.IndexFunc(p.all, func(m marked) bool { return m.mark.Start >= p.base.Stop })).Next
	for _, g := range []engines.Goal{{Time: p.base.StartTime.Add(-time.Hour)}, point(engines.PointPosition, "0/1000000"), point(engines.PointName, "early")} {
		if u := p.check(g, -1); u == nil || u.Before != nil || !reflect.DeepEqual(u.After, first) {
			t.Errorf("%s: %+v, want after %+v", describeGoal(g), u, first)
		}
	}
	if u := p.check(point(engines.PointTransaction, "4000000000"), -1); u == nil || u.Before == nil && u.After == nil {
		t.Errorf("an unknown transaction: %+v", u)
	}
	if u := p.check(point(engines.PointName, "never made"), -1); u == nil || u.Before == nil || u.Before.Kind != repo.MarkRestorePoint {
		t.Errorf("an unknown name: %+v", u)
	}
	stop, err := resolver{}.Resolve(t.Context(), &p.base, point(engines.PointConsistent, ""), p.rd)
	if err != nil || !stop.Consistent || stop.At != p.base.Stop || stop.AtEnd || stop.Branch != p.branches[0] {
		t.Errorf("immediate: %+v, %v", stop, err)
	}
	for _, g := range []engines.Goal{
		{}, point("somewhere", ""), point(engines.PointPosition, "5"), point(engines.PointTransaction, "0/5"), point(engines.PointTransaction, "2"),
		point(engines.PointTransaction, ""), point(engines.PointTransaction, "-7"), point(engines.PointBefore, "x"), point(engines.PointName, "point 3"),
	} {
		if _, err := (resolver{}).Resolve(t.Context(), &p.base, g, p.rd); hferr.KindOf(err) != hferr.Usage {
			t.Errorf("%+v: %v", g.Point, err)
		} else if g.Point != nil && g.Point.Kind == engines.PointName && strings.Count(hferr.HintOf(err), "made at") < 4 {
			t.Errorf("a name that occurs often: %v\n%s", err, hferr.HintOf(err))
		}
	}
}

// names: a restore point that is the only one of its name.
func (p *past) names() {
	count := map[string]int{}
	for _, m := range p.all {
		if m.mark.Kind == repo.MarkRestorePoint && m.mark.Start >= p.base.Stop {
			count[m.mark.Name]++
		}
	}
	for i, m := range p.all {
		if m.mark.Kind == repo.MarkRestorePoint && count[m.mark.Name] == 1 && m.mark.Start >= p.base.Stop {
			p.check(point(engines.PointName, m.mark.Name), i+1)
		}
	}
}

// lists compares what Marks lists with what is there.
func (p *past) lists() {
	rnd := rand.New(rand.NewPCG(9, 9))
	for n := range 8 {
		from := p.all[rnd.IntN(len(p.all)/2)].mark.Start
		to := p.all[len(p.all)/2+rnd.IntN(len(p.all)/2)].mark.Start
		var got, want []repo.Mark
		if err := (resolver{}).Marks(p.t.Context(), p.rd, from, to, n%2 == 0, func(m repo.Mark) error { got = append(got, m); return nil }); err != nil {
			p.t.Fatal(err)
		}
		for _, m := range p.all {
			if m.mark.Start >= from && m.mark.Start < to && (m.mark.Kind == repo.MarkRestorePoint || n%2 == 0 && endsTransaction(&m.mark)) {
				want = append(want, m.mark)
			}
		}
		if !reflect.DeepEqual(got, want) {
			p.t.Errorf("listed %d marks of %d", len(got), len(want))
		}
	}
	if err := (resolver{}).Marks(p.t.Context(), p.rd, 0, p.end, false, func(repo.Mark) error { return errTest }); !errors.Is(err, errTest) {
		p.t.Errorf("a listing that was ended: %v", err)
	}
}

// copyLog copies a lineage's log, without the indexes that keep refuses.
// With keep nil it copies the branches alone.
func copyLog(t *testing.T, from *repo.Lineage, keep func(n int) bool) *repo.Lineage {
	t.Helper()
	ctx := t.Context()
	r, _, err := repo.Init(ctx, memstore.New(time.Now), repo.InitOptions{
		Options: repo.Options{Clock: time.Now}, Passphrase: secret.New("pass"), ScryptWork: 10,
		Capabilities: blob.Capabilities{CreateOnly: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.EnsureLineage(ctx, from.Info())
	if err != nil {
		t.Fatal(err)
	}
	branches, err := from.Branches(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range branches {
		if err := l.PutBranch(ctx, b); err != nil {
			t.Fatal(err)
		}
		refs, err := from.Segments(ctx, b.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		for n, ref := range refs {
			if keep == nil {
				break
			}
			m, data, err := from.ReadSegment(ctx, ref)
			if err != nil {
				t.Fatal(err)
			}
			if !keep(n) {
				m.Index = nil
			}
			if err := l.PutSegment(ctx, m, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	return l
}

// recut copies a past's log in segments that end in the midst of a record of
// every 20th commit or abort, all of them indexed, and says which those are.
func (p *past) recut(from *repo.Lineage) (l *repo.Lineage, cut []int) {
	t, ctx := p.t, p.t.Context()
	l = copyLog(t, from, nil)
	ends := 0
	for i, m := range p.all {
		if endsTransaction(&m.mark) {
			if ends++; ends%20 == 0 {
				cut = append(cut, i)
			}
		}
	}
	branches, err := l.Branches(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for n, leg := range p.rd.Plan().Legs {
		var cuts []repo.Position
		for _, i := range cut {
			if at := p.all[i].mark.Start + 12; at > leg.From && at < leg.To {
				cuts = append(cuts, at)
			}
		}
		ix, at := newIndexer(branches[n], testSegment, leg.From), leg.From
		if lead := segmentStart(at, testSegment); lead >= p.rd.Plan().From() && lead < at {
			ix.Add(lead, p.bytes(lead, at))
		}
		for _, end := range append(cuts, leg.To) {
			data := p.bytes(at, end)
			ix.Add(at, data)
			x := ix.Cut()
			if err := l.PutSegment(ctx, &repo.SegmentMeta{Branch: leg.Branch.ID, Start: at, End: end, Index: &x, FirstTime: p.base.StartTime, LastTime: p.base.StartTime, Sealed: p.base.StartTime}, data); err != nil {
				t.Fatal(err)
			}
			at = end
		}
	}
	return l, cut
}

func (p *past) bytes(from, to repo.Position) []byte {
	p.t.Helper()
	var b bytes.Buffer
	if err := p.rd.Copy(p.t.Context(), p.branches[1], from, to, &b); err != nil {
		p.t.Fatal(err)
	}
	return b.Bytes()
}

// across resolves the commits and aborts that lie across two segments.
func (p *past) across(cut []int) {
	for _, i := range cut {
		m := p.all[i].mark
		p.check(point(engines.PointTransaction, m.ID), p.reachable(i+1))
		p.check(point(engines.PointPosition, FormatLSN(m.Start)), p.reachable(i))
		if m.Kind == repo.MarkCommit {
			p.check(point(engines.PointBefore, FormatLSN(m.Start+12)), p.reachable(i))
			p.check(point(engines.PointBefore, m.ID), p.reachable(i))
		}
	}
}

// TestTargetsAllOverALog across a promotion: with every segment indexed, with
// none, with some; the same places are found.
func TestTargetsAllOverALog(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		a, p := newPast(t, major)
		indexed := 0
		if err := p.rd.Headers(t.Context(), 0, func(_ wal.Leg, m *repo.SegmentMeta) error {
			if m.Index != nil && m.Index.Complete {
				indexed++
			}
			return nil
		}); err != nil || indexed < 10 {
			t.Fatalf("%d segments have a complete index (%v)", indexed, err)
		}
		t.Logf("%d records, %d indexed segments, fork at %s", len(p.all), indexed, FormatLSN(p.fork))
		run := func(n int) {
			p.targets(n)
			p.edges()
			p.names()
			p.lists()
		}
		run(max(underrace.Fewer(30), 6))
		recut, cut := p.recut(a.lineage)
		p.read(recut)
		p.across(cut)
		for _, keep := range []func(int) bool{func(int) bool { return false }, func(n int) bool { return n%3 > 0 }} {
			p.read(copyLog(t, a.lineage, keep))
			run(4)
		}
	})
}
