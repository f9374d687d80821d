package verify_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/enginetest"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/verify"
)

// Each case damages the store or breaks the way back; a drill that stays
// green on any of them is no evidence.
func TestNegativeControls(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name    string
		hurt    func(l *lab, q *verify.Request)
		verdict verify.Verdict
		reason  string
		made    int // sandboxes
	}{
		{"flipped byte in a pack", func(l *lab, q *verify.Request) { l.flip(l.keys("pack")[0], 200) }, verify.Fail, "damaged object", 1},
		{"truncated pack", func(l *lab, q *verify.Request) {
			k := l.keys("pack")[0]
			l.store.Put(k, l.store.Bytes(k)[:100])
		}, verify.Fail, "damaged object", 1},
		{"missing pack", func(l *lab, q *verify.Request) { l.remove(l.keys("pack")[0]) }, verify.Fail, "not found", 1},
		{"flipped byte in the map", func(l *lab, q *verify.Request) {
			for _, k := range l.keys("backup") {
				if strings.HasSuffix(k, "/map") {
					l.flip(k, -1)
				}
			}
		}, verify.Fail, "damaged object", 1},
		{"missing segment in the middle", func(l *lab, q *verify.Request) {
			log := l.keys("log")
			l.remove(log[len(log)-4])
		}, verify.Fail, "check log-continuity failed", 1},
		{"missing segment inside the base", func(l *lab, q *verify.Request) {
			refs, err := l.lineage.Segments(l.t.Context(), l.base.Branch, l.base.Start)
			l.must(err)
			log := l.keys("log")
			l.remove(log[len(log)-len(refs)])
		}, verify.Fail, "is missing from", 0},
		{"flipped byte in a segment's log", func(l *lab, q *verify.Request) {
			log := l.keys("log")
			l.flip(log[len(log)-4], -1)
		}, verify.Fail, "damaged object", 1},
		{"flipped byte in a segment's header", func(l *lab, q *verify.Request) {
			log := l.keys("log")
			l.flip(log[len(log)-4], 100)
		}, verify.Fail, "damaged object", 0},
		{"source of another lineage", func(l *lab, q *verify.Request) {
			other := enginetest.NewServer("other", "43", time.Now)
			src, err := enginetest.New(other).Connect(l.t.Context(), engines.ConnectOptions{URL: other.URL()})
			l.must(err)
			q.Source = src
		}, verify.Unverified, "the source is fake-43 now, these are the backups of fake-42", 0},
		{"provider without the server", func(l *lab, q *verify.Request) { l.provider.Missing = true }, verify.Unverified, "no such server available", 0},
		{"disk too small", func(l *lab, q *verify.Request) {
			q.FreeSpace = func(string) (int64, error) { return l.base.Bytes, nil }
		}, verify.Unverified, "not enough disk space", 0},
		{"no work directory", func(l *lab, q *verify.Request) { q.WorkDir += "/missing" }, verify.Unverified, "must be an existing directory", 0},
		{"false check", func(l *lab, q *verify.Request) {
			q.Checks = []verify.UserCheck{{Name: "gone", SQL: "has missing"}}
		}, verify.Fail, "check gone failed", 1},
		{"check with another result", func(l *lab, q *verify.Request) {
			q.Checks = []verify.UserCheck{{Name: "rows", SQL: "count table0", Expect: text("11")}}
		}, verify.Fail, "expected 11, found 10", 1},
		{"check that cannot run", func(l *lab, q *verify.Request) {
			q.Checks = []verify.UserCheck{{Name: "typo", SQL: "selekt"}}
		}, verify.Fail, "syntax error", 1},
		{"recovery refused", func(l *lab, q *verify.Request) { l.engine.Faults.Replay = errors.New("invalid checkpoint record") }, verify.Fail, "boot: invalid checkpoint record", 1},
		{"recovery stopped by our own fault", func(l *lab, q *verify.Request) {
			l.engine.Faults.Replay = &hferr.E{Kind: hferr.Unverifiable, What: "run the relay", Err: errors.New("no binary")}
		}, verify.Unverified, "no binary", 1},
		{"unreadable table", func(l *lab, q *verify.Request) { l.engine.Faults.Reads = errors.New("invalid page in block 7") }, verify.Fail, "invalid page in block 7", 1},
		{"damaged structure", func(l *lab, q *verify.Request) { l.engine.Faults.Damage = "table1" }, verify.Fail, "check structure:table1 failed", 1},
		{"hole in the heartbeat", func(l *lab, q *verify.Request) { l.engine.Faults.Skip = 7 }, verify.Fail, "the heartbeat has a hole", 1},
		{"RTO objective missed", func(l *lab, q *verify.Request) { q.Objectives.RTO = 1 }, verify.Fail, "RTO objective missed", 1},
		{"leftover", func(l *lab, q *verify.Request) { l.provider.Leftover = "volume 7" }, verify.Fail, "left over: volume 7", 1},
		{"log of the newest base is missing", func(l *lab, q *verify.Request) {
			l.backup()
			l.round()
			refs, err := l.lineage.Segments(l.t.Context(), l.base.Branch, l.base.Start)
			l.must(err)
			log := l.keys("log")
			l.remove(log[len(log)-len(refs)])
		}, verify.Fail, "the newest base backup cannot be used", 1},
		{"newest base is damaged", func(l *lab, q *verify.Request) {
			l.backup()
			newer := l.base
			l.round()
			for _, k := range l.keys("backup") {
				if strings.Contains(k, newer.ID) && strings.HasSuffix(k, "manifest.json") {
					l.flip(k, -1)
				}
			}
		}, verify.Fail, "check newest-base failed", 1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			q := l.request()
			l.wants(l.drill(q), verify.Pass, "") // green before, so that red means the damage
			before := l.provider.Made()
			c.hurt(l, &q)
			r := l.drill(q)
			l.wants(r, c.verdict, c.reason)
			if made := l.provider.Made() - before; made != c.made {
				t.Errorf("%d sandboxes made, want %d", made, c.made)
			}
			if r.RTO.Reached && r.Verdict != verify.Pass && !strings.Contains(c.name, "RTO") && c.name != "leftover" {
				t.Errorf("an RTO was published: %+v", r.RTO)
			}
		})
	}
}

// A lineage without any base: nothing can be verified.
func TestNoBaseBackup(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	l.wants(l.drill(l.request()), verify.Unverified, "there is no base backup")
}

// Cancelled at any phase, the sandbox is removed and the record says so.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for _, phase := range []string{"plan", "expect", "provision", "fetch", "boot", "replay", "check/heartbeat", "check/user"} {
		t.Run(strings.ReplaceAll(phase, "/", " "), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			q := l.request()
			q.Progress = func(e verify.PhaseEvent) {
				if e.Phase == phase && !e.Done {
					cancel()
				}
			}
			r := l.drillIn(ctx, q)
			l.wants(r, verify.Unverified, "cancelled during "+strings.Split(phase, "/")[0])
			if phase == "replay" && (!r.Teardown.Needed || !r.Teardown.Removed) {
				t.Errorf("teardown %+v", r.Teardown)
			}
			if last := r.Phases[len(r.Phases)-1]; r.Teardown.Needed && last.Name != "teardown" {
				t.Errorf("phases end with %+v", last)
			}
		})
	}
}

func TestOutOfTime(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	l.engine.Faults.Replay = context.DeadlineExceeded
	l.wants(l.drillIn(ctx, l.request()), verify.Unverified, "ran out of time during boot")
}

// A store that fails is not a damaged backup.
func TestStoreUnreachable(t *testing.T) {
	t.Parallel()
	for _, part := range []string{"/pack/", "/log/"} {
		t.Run(strings.Trim(part, "/"), func(t *testing.T) {
			t.Parallel()
			l := newLab(t)
			var cut atomic.Bool // the log is lost only once the copy replays
			cut.Store(part == "/pack/")
			l.engine.Faults.OnReplay = func(context.Context) { cut.Store(true) }
			down := faulty.Wrap(l.store, func(c faulty.Call) faulty.Fault {
				if !cut.Load() || c.Op != faulty.Read || !strings.Contains(c.Key, part) {
					return faulty.Fault{}
				}
				return faulty.Fault{Kind: faulty.Before, Err: errors.New("connection refused")}
			})
			q := l.request()
			q.Lineage = l.open(down, false)
			r := l.drill(q)
			l.wants(r, verify.Unverified, "connection refused")
			if len(down.Injected()) == 0 || !r.Teardown.Removed {
				t.Errorf("%d faults injected, teardown %+v", len(down.Injected()), r.Teardown)
			}
		})
	}
}

// A pass that leaves no record is no pass.
func TestRecordCannotBeStored(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	down := faulty.Wrap(l.store, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/record/", Times: -1, Fault: faulty.Fault{Kind: faulty.Before}}))
	q := l.request()
	q.Lineage, q.RecordDir = l.open(down, false), t.TempDir()
	r, err := verify.Drill(t.Context(), q)
	l.must(err)
	l.wants(r, verify.Unverified, "the record could not be stored in the repository")
	if kept := readRecord(t, q.RecordDir, r.ID); !strings.Contains(string(kept), `"verdict":"could not verify"`) {
		t.Errorf("the local copy says %s", kept)
	}
}

func TestFaultyRequests(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	for name, spoil := range map[string]func(*verify.Request){
		"no engine":     func(q *verify.Request) { q.Engine = nil },
		"no lineage":    func(q *verify.Request) { q.Lineage = nil },
		"no provider":   func(q *verify.Request) { q.Provider = nil },
		"no directory":  func(q *verify.Request) { q.WorkDir = "" },
		"no logger":     func(q *verify.Request) { q.Log = nil },
		"unknown mode":  func(q *verify.Request) { q.Mode = "newest" },
		"mode time":     func(q *verify.Request) { q.Mode = verify.ModeTime },
		"random at":     func(q *verify.Request) { q.Mode, q.Goal.Time = verify.ModeRandom, time.Now() },
		"nameless":      func(q *verify.Request) { q.Checks = []verify.UserCheck{{SQL: "x"}} },
		"without query": func(q *verify.Request) { q.Checks = []verify.UserCheck{{Name: "x"}} },
	} {
		q := l.request()
		spoil(&q)
		if r, err := verify.Drill(t.Context(), q); err == nil || r != nil || hferr.KindOf(err) != hferr.Usage || hferr.HintOf(err) == "" {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
	if records, err := l.lineage.Records(t.Context()); err != nil || len(records) != 0 {
		t.Errorf("%d records of drills that never began (%v)", len(records), err)
	}
}

// The source is asked for its identity, clock and last beat, first, and for
// nothing else.
func TestSourceIsOnlyAskedFirst(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	q := l.request()
	src := &watchedSource{Source: l.src}
	q.Source = src
	q.Progress = func(e verify.PhaseEvent) {
		if e.Phase == "observe" && e.Done {
			src.over = true
		}
	}
	l.wants(l.drill(q), verify.Pass, "")
	if got := strings.Join(src.asked, " "); got != "identify clock" {
		t.Errorf("the source was asked for %q", got)
	}
	src.asked, src.over, src.fail = nil, false, errors.New("no route to host")
	l.wants(l.drill(q), verify.Pass, "")
	if len(src.asked) != 1 {
		t.Errorf("an unreachable source was asked for %q", src.asked)
	}
}

// watchedSource notes what it is asked; what is not listed here panics.
type watchedSource struct {
	engines.Source
	asked []string
	over  bool
	fail  error
}

func (s *watchedSource) note(what string) {
	if s.over {
		what += " (too late)"
	}
	s.asked = append(s.asked, what)
}

func (s *watchedSource) Identify(ctx context.Context) (engines.Identity, error) {
	s.note("identify")
	if s.fail != nil {
		return engines.Identity{}, s.fail
	}
	return s.Source.Identify(ctx)
}

func (s *watchedSource) Clock(ctx context.Context) (time.Time, error) {
	s.note("clock")
	return s.Source.Clock(ctx)
}

func (s *watchedSource) Check(context.Context) ([]repo.Finding, error) {
	s.note("check")
	return nil, nil
}

func (s *watchedSource) Log() engines.LogSource {
	s.note("log")
	return s.Source.Log()
}
