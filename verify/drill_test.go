package verify_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/verify"
)

func text(s string) *string { return &s }

func TestLatestWithALiveSource(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.clock.Advance(2 * time.Second)
	q := l.request()
	q.Checks = []verify.UserCheck{
		{Name: "rounds", SQL: "has rounds"},
		{Name: "table 0", SQL: "count table0", Expect: text("10")},
		{Name: "the account", SQL: "get accounts 1", Expect: text(secretRow)},
	}
	q.Objectives = verify.Objectives{RPO: time.Minute, RTO: time.Hour}
	r := l.drill(q)
	l.wants(r, verify.Pass, "")
	for _, id := range []string{"log-continuity", "newest-base", "reached", "heartbeat-present", "heartbeat-log-only", "read-all", "structure:rounds", "rounds", "table 0", "the account"} {
		l.check(r, id, "pass")
	}
	l.check(r, "heartbeat-absent", "not-run")
	if c := l.check(r, "heartbeat-log-only", "pass"); c.Actual != "10 of 10" {
		t.Errorf("beats from the log alone: %+v", c)
	}
	// The last beat was committed half a second before a clock that then ran
	// on by 2.5 s.
	if r.RPO.Basis != "heartbeat" || r.RPO.Min != 0 || r.RPO.Max != 2500 || r.RPO.LostBeats != 0 || r.RPO.LastRestored.N != 11 || r.RPO.LastInserted.N != 11 {
		t.Errorf("rpo %+v", r.RPO)
	}
	if !r.Source.Reachable || r.Objective.RPOVerdict != "met" || r.Objective.RTOVerdict != "met" || !r.RTO.Reached {
		t.Errorf("source %+v, objectives %+v, rto %+v", r.Source, r.Objective, r.RTO)
	}
	if r.Replayed.Bytes == 0 || r.Replayed.Pieces == 0 || r.Read.Rows == 0 || r.Base.ID != l.base.ID {
		t.Errorf("log %+v, read %+v, base %+v", r.Replayed, r.Read, r.Base)
	}
	if !r.Teardown.Needed || !r.Teardown.Removed || l.provider.Made() != 1 {
		t.Errorf("teardown %+v of %d", r.Teardown, l.provider.Made())
	}
}

func TestLatestAfterTheSourceDied(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.lose(3)
	r := l.drill(l.request())
	l.wants(r, verify.Pass, "")
	// Beats 12 to 14 were acknowledged and are gone; 11 is the last held. The
	// position of the first beat beyond the end proves nothing about itself.
	l.check(r, "heartbeat-present", "pass")
	if c := l.check(r, "heartbeat-absent", "pass"); c.Actual != "0 of 2" {
		t.Errorf("absent: %+v", c)
	}
	p := r.RPO
	if !p.Measured || p.LastRestored.N != 11 || p.FirstAbsent.N != 12 || p.LastInserted.N != 14 || p.LostBeats != 3 {
		t.Errorf("rpo %+v", p)
	}
	// T is 3.5 s after beat 11 and 2.5 s after beat 12.
	if p.Min != 2500 || p.Max != 3500 || r.Source.Reachable {
		t.Errorf("interval %d to %d, source %+v", p.Min, p.Max, r.Source)
	}
}

func TestLastMinuteCutOffShowsInTheRPO(t *testing.T) {
	t.Parallel()
	for _, live := range []bool{true, false} {
		l := newLab(t)
		whole := l.drill(l.request()).RPO.Max
		if !live {
			l.lose(1)
		}
		log := l.keys("log")
		for _, k := range log[len(log)-6:] {
			l.remove(k)
		}
		q := l.request()
		q.Objectives.RPO = 2 * time.Second
		r := l.drill(q)
		if r.RPO.Max < whole+1000 || !r.RPO.Measured {
			t.Errorf("live %t: RPO %+v after cutting off the end, %d ms before", live, r.RPO, whole)
		}
		if r.RPO.LostBeats == 0 || r.RPO.FirstAbsent == nil {
			t.Errorf("live %t: lost beats hidden: %+v", live, r.RPO)
		}
		l.wants(r, verify.Fail, "RPO objective missed")
	}
}

// The position noted with beat 6 lies behind its commit; beat 7, by what is
// noted, may be either. Beat 1 is older than the base and not asked for.
func TestPointTargets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	format := l.engine.Restorer().FormatPosition
	q := l.request()
	q.Goal = engines.Goal{Point: &engines.Point{Kind: engines.PointPosition, Value: format(l.beats[5].Pos)}}
	r := l.drill(q)
	l.wants(r, verify.Pass, "")
	p, a := l.check(r, "heartbeat-present", "pass"), l.check(r, "heartbeat-absent", "pass")
	if p.Actual != "5 of 5" || a.Actual != "0 of 4" {
		t.Errorf("present %q, absent %q", p.Actual, a.Actual)
	}
	if r.Target.Mode != verify.ModePoint || r.Target.Stop != format(l.beats[5].Pos) || r.Target.Reached != r.Target.Stop || r.Target.Point == nil || r.RPO.Measured {
		t.Errorf("target %+v, rpo %+v", r.Target, r.RPO)
	}
	l.engine.Faults.Overshoot = true
	l.check(l.drill(q), "heartbeat-absent", "fail")
}

func TestTimeTargets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	between := l.beats[5].At.Add(300 * time.Millisecond)
	for _, c := range []struct {
		target  time.Time
		present string // beat 1 is older than the base and not asked for
		absent  string
	}{
		{l.beats[5].At, "4 of 4", "0 of 6"}, // exactly at beat 6
		{between, "4 of 4", "0 of 5"},       // beat 6 may be either
	} {
		q := l.request()
		q.Goal = engines.Goal{Time: c.target}
		r := l.drill(q)
		l.wants(r, verify.Pass, "")
		p, a := l.check(r, "heartbeat-present", "pass"), l.check(r, "heartbeat-absent", "pass")
		if p.Actual != c.present || a.Actual != c.absent {
			t.Errorf("at %s: present %q, absent %q", c.target, p.Actual, a.Actual)
		}
		if r.RPO.Measured || r.Target.Mode != verify.ModeTime || r.Target.ReachedTime.After(c.target) {
			t.Errorf("rpo %+v, target %+v", r.RPO, r.Target)
		}
	}
	l.engine.Faults.Overshoot = true
	q := l.request()
	q.Goal = engines.Goal{Time: between}
	r := l.drill(q)
	l.wants(r, verify.Fail, "a commit after the target was replayed")
	l.check(r, "heartbeat-absent", "fail")
}

func TestRandomTargets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.backup()
	for range 5 {
		l.round()
	}
	seen, bases := map[time.Time]bool{}, map[string]bool{}
	for seed := range uint64(12) {
		q := l.request()
		q.Mode, q.Rand = verify.ModeRandom, rand.New(rand.NewPCG(seed, 1))
		r := l.drill(q)
		l.wants(r, verify.Pass, "")
		l.check(r, "heartbeat-present", "pass")
		l.check(r, "heartbeat-absent", "pass")
		seen[r.Target.Time], bases[r.Base.ID] = true, true
	}
	if len(seen) < 4 || len(bases) != 2 {
		t.Errorf("%d moments from bases %v", len(seen), bases)
	}
}

func TestNothingToReplay(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	l.must(l.srv.Set("t", "k", "v"))
	l.start()
	l.backup()
	q := l.request()
	r := l.drill(q)
	l.wants(r, verify.Unverified, "nothing to replay")
	if l.provider.Made() != 0 {
		t.Error("a sandbox was made for nothing")
	}
	q.AllowBase = true
	l.wants(l.drill(q), verify.Pass, "")
}

func TestWithoutHeartbeat(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	l.must(l.srv.Set("t", "k", "v"))
	l.start()
	l.backup()
	l.clock.Advance(time.Second)
	l.must(l.srv.Set("t", "k", "v2"))
	l.must(l.stream.Wait(t.Context(), l.srv.End()))
	l.clock.Advance(4 * time.Second)
	r := l.drill(l.request())
	l.wants(r, verify.Pass, "")
	l.check(r, "heartbeat-present", "not-run")
	if r.RPO.Basis != "last-commit" || r.RPO.Max != 4000 {
		t.Errorf("rpo %+v", r.RPO)
	}
}

func TestVersionMismatchIsAFinding(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.engine.Faults.Version = "2.0 (fake)"
	r := l.drill(l.request())
	l.wants(r, verify.Pass, "")
	if len(r.Findings) != 2 || r.Findings[0].Code != "version-mismatch" {
		t.Errorf("findings %+v", r.Findings)
	}
}
