package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// exactTargets is how many random targets are visited on each version.
func exactTargets(t *testing.T) int {
	v := os.Getenv("HOLDFAST_TEST_TARGETS")
	if v == "" {
		return 100
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		t.Fatalf("HOLDFAST_TEST_TARGETS: %v", err)
	}
	return n
}

// Commits that number themselves, and targets of every kind all over the log
// that they leave, across WAL segments and a promotion: at each the copy holds
// exactly what the server's own reading of its log says, no commit less and
// none more.
func TestExactTargets(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		x := newExact(t, major)
		seed := uint64(time.Now().UnixNano())
		t.Logf("seed %d; %d commits and aborts, %d restore points in %d records", seed, len(x.tr.ends), len(x.tr.points), len(x.tr.records))
		aims := x.tr.aims(rand.New(rand.NewPCG(seed, 0)), &x.bases[0], exactTargets(t))
		x.walk(append(aims, x.boundaries()...))
		x.restoresByCommand()
		x.unreachable()
		x.listed()
	})
}

// exact is a source's history, gone but for its archive, and the truth of it.
type exact struct {
	*site
	lin   *repo.Lineage
	bases []repo.Manifest
	tr    *truth
	fork  repo.Position
	early int64 // a transaction that committed before the first base
}

func newExact(t *testing.T, major string) *exact {
	t.Helper()
	s := newSiteWith(t, major, map[string]string{"max_prepared_transactions": "20", "wal_keep_size": "2GB", "autovacuum": "off"})
	ids := s.makeHistory()
	x := &exact{site: s, lin: s.lineage()}
	for _, id := range ids {
		m, err := x.lin.Backup(s.ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		x.bases = append(x.bases, *m)
	}
	s.query(s.server.AdminURL(), "select xid from early", &x.early)
	x.tr = s.readTruth(x.bases[0].LogFrom)
	branches, err := x.lin.Branches(s.ctx)
	if err != nil || len(branches) != 2 {
		t.Fatalf("branches %+v, %v", branches, err)
	}
	x.fork = branches[1].Fork
	if err := s.server.Kill9(s.ctx); err != nil {
		t.Fatal(err)
	}
	return x
}

// boundaries are the cases where one record too many or too few is likeliest.
func (x *exact) boundaries() []aim {
	commits := slices.DeleteFunc(since(x.tr.ends, &x.bases[0]), func(p place) bool {
		return p.kind != repo.MarkCommit || !x.tr.rows[p.xid]
	})
	mid := commits[len(commits)/2]
	var across, firstBehind place
	for _, p := range commits {
		if p.start > x.fork && firstBehind.start == 0 {
			firstBehind = p
		}
		if p.start < x.fork {
			across = p // in the end the last one before the fork
		}
	}
	return []aim{
		atPosition(mid.start), atPosition(mid.end), atTime(mid.at, x.tr.firstAt(x.bases[0].Stop, mid.at)),
		atPosition(x.fork), atPosition(x.fork - 1), through(across), through(firstBehind), justBefore(firstBehind),
		atPosition(commits[len(commits)-1].start),
	}
}

// plan resolves an aim through the real planner and compares where it stops
// with the truth.
func (x *exact) plan(a aim, backup string) *engines.RestorePlan {
	x.t.Helper()
	fl := a.flags()
	fl.backup = backup
	g, err := fl.goal()
	if err != nil {
		x.t.Fatal(err)
	}

	p, err := engines.PlanRestore(x.ctx, postgres.New(), x.lin, g)
	if err != nil {
		x.t.Fatalf("%s: %v", a, err)
	}
	if got, want := x.tr.before(p.Stop.At), x.tr.before(a.at); !slices.Equal(got, want) {
		missing, extra := differences(got, want)
		x.t.Errorf("%s stops at %s, missing %v, extra %v", a, postgres.FormatLSN(p.Stop.At), missing, extra)
	}
	last, next := x.tr.neighbours(a.at)
	for word, pair := range map[string]struct {
		got  *repo.Mark
		want *place
	}{"last": {p.Stop.Last, last}, "next": {p.Stop.Next, next}} {
		if m := pair.got; m != nil && (pair.want == nil || m.Start != pair.want.start || m.ID != fmt.Sprint(pair.want.xid) || !m.Time.Equal(pair.want.at)) {
			x.t.Errorf("%s: %s is said to be %+v, it is %+v", a, word, m, pair.want)
		}
	}
	return p
}

// planNewest plans one in three aims from the newest base too.
func (x *exact) planNewest(i int, a aim, oldest *engines.RestorePlan) *engines.RestorePlan {
	if i%3 != 0 {
		return oldest
	}
	return x.plan(a, "")
}

// walk visits the aims in order of the log, on one copy of the first base.
func (x *exact) walk(aims []aim) {
	x.t.Helper()
	type visit struct {
		aim
		plan *engines.RestorePlan
	}
	var visits []visit
	began := time.Now()
	for i, a := range aims {
		p := x.plan(a, x.bases[0].ID)
		if newest := x.planNewest(i, a, p); newest.Stop.At != p.Stop.At {
			x.t.Errorf("%s: stops at %s from the oldest base and at %s from backup %s", a, postgres.FormatLSN(p.Stop.At), postgres.FormatLSN(newest.Stop.At), newest.Base.ID)
		}
		if p.Stop.AtEnd {
			continue // its server promotes; restoresByCommand has one
		}
		visits = append(visits, visit{a, p})
	}
	slices.SortFunc(visits, func(a, b visit) int { return cmp.Compare(a.plan.Stop.At, b.plan.Stop.At) })
	planned := time.Since(began)
	w := x.walkFrom(x.lin, visits[0].plan)
	branches, shifted := map[string]int{}, false
	for i, v := range visits {
		want := x.tr.before(v.at)
		if missing, extra := differences(w.visit(v.plan), want); len(missing)+len(extra) > 0 {
			x.t.Errorf("%s: at %s of %d commits %v are missing and %v are there too many", v.aim, postgres.FormatLSN(v.plan.Stop.At), len(want), missing, extra)
		}
		branches[v.plan.Stop.Branch]++
		if !shifted && i >= len(visits)/4 && i+1 < len(visits) {
			shifted = x.shifted(w, v.plan, visits[i+1].plan.Stop.At)
		}
	}
	if !shifted {
		x.t.Error("the comparison was not shown to fail: no commit lies between two targets")
	}
	x.t.Logf("%d targets planned in %s, visited in %s: %v", len(visits), planned.Round(time.Millisecond), (time.Since(began) - planned).Round(time.Millisecond), branches)
}

// shifted shows that the comparison sees one record too many: the next commit
// with a row is let in, if it lies before limit, where the copy goes next.
func (x *exact) shifted(w *walkingCopy, p *engines.RestorePlan, limit repo.Position) bool {
	x.t.Helper()
	for _, next := range x.tr.ends {
		if next.start < p.Stop.At || next.kind != repo.MarkCommit || !x.tr.rows[next.xid] {
			continue
		}
		if next.end > limit {
			return false
		}
		q := x.plan(through(next), x.bases[0].ID)
		if missing, extra := differences(w.visit(q), x.tr.before(next.start)); len(missing) != 0 || !slices.Equal(extra, []int64{next.xid}) {
			x.t.Errorf("with one commit too many, %d, the comparison says missing %v, extra %v", next.xid, missing, extra)
		}
		return true
	}
	return false
}

// restoresByCommand restores whole copies as a user does.
func (x *exact) restoresByCommand() {
	x.t.Helper()
	commits := slices.DeleteFunc(since(x.tr.ends, &x.bases[1]), func(p place) bool { return p.kind != repo.MarkCommit || !x.tr.rows[p.xid] })
	early := slices.DeleteFunc(since(x.tr.ends, &x.bases[0]), func(p place) bool { return p.start > x.bases[1].Start || p.kind != repo.MarkCommit })
	mid, last := commits[len(commits)/3], commits[len(commits)-1]
	point := since(x.tr.points, &x.bases[1])[1]
	for i, c := range []struct {
		aim
		base int
	}{
		{atTime(mid.at, x.tr.firstAt(x.bases[1].Stop, mid.at)), 1},
		{atPosition(mid.end), 1},
		{through(mid), 1},
		{justBefore(early[len(early)/2]), 0},
		{named(point), 1},
		{atPosition(x.fork), 1},
		{aim{"--target", "immediate", x.bases[1].Stop}, 1},
		{through(last), 1}, // nothing follows it: the archive ends there
	} {
		x.restoreByCommand(fmt.Sprintf("copy%d", i), c.aim, x.bases[c.base].ID)
	}
}

func (x *exact) restoreByCommand(name string, a aim, base string) {
	x.t.Helper()
	var doc struct {
		Backup string `json:"backup"`
		Stop   struct {
			At    string `json:"at"`
			AtEnd bool   `json:"at_end"`
		} `json:"stop"`
	}
	x.mustJSON(&doc, append([]string{"restore", databaseName, "--to", x.path(name)}, a.args()...)...)
	if doc.Backup != base {
		x.t.Errorf("%s: from backup %s, not %s", a, doc.Backup, base)
	}
	c := x.boot(x.path(name))
	defer os.RemoveAll(x.path(name))
	defer c.stop()
	var ready bool
	x.query(c.url(), "select not pg_is_in_recovery()", &ready) // waits until it answers
	conn, err := pgx.Connect(x.ctx, c.url())
	if err != nil {
		x.t.Fatal(err)
	}
	defer conn.Close(x.ctx)
	want := x.tr.before(a.at)
	if missing, extra := differences(x.held(conn), want); len(missing)+len(extra) > 0 {
		x.t.Errorf("%s: restored to %s, of %d commits %v are missing and %v are there too many", a, doc.Stop.At, len(want), missing, extra)
	}
}
