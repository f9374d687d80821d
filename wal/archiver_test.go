package wal

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

var root = repo.Branch{ID: "b1", Number: 1}

// archiving runs fn in a bubble (its time is not real) with a begun archiver.
func archiving(t *testing.T, o ArchiverOptions, fn func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable)) {
	synctest.Test(t, func(t *testing.T) {
		l, faults := lineage(t)
		a := NewArchiver(l, o)
		defer func() { _ = a.Close(t.Context(), "shutdown") }()
		must(t, a.Begin(t.Context(), root, 0, nil))
		fn(t, a, l, faults)
	})
}

func TestSealedByTimeFromTheFirstByte(t *testing.T) {
	archiving(t, ArchiverOptions{FlushEvery: 4500 * time.Millisecond}, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
		for p := Position(0); p < 12; p++ { // a byte a second: the timer must not be postponed
			must(t, a.Write(t.Context(), chunk("b1", p, p+1)))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if d := a.Durable(); d != 10 {
			t.Fatalf("durable through %d after 12 s at a byte a second, want 10", d)
		}
		for _, m := range metas(t, l, "b1") {
			if m.Reason != reasonTime {
				t.Errorf("sealed for %q", m.Reason)
			}
		}
	})
}

func TestSealedBySizeBoundaryAndShutdown(t *testing.T) {
	var order []Position
	o := ArchiverOptions{MaxSegment: 100, OnDurable: func(m repo.SegmentMeta) { order = append(order, m.End) }}
	archiving(t, o, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
		must(t, a.Write(t.Context(), chunk("b1", 0, 250)))
		a.Beat(beat(1, 240))
		child := repo.Branch{ID: "b2", Parent: "b1", Fork: 250, Number: 2}
		must(t, a.Begin(t.Context(), child, 250, nil))
		if d := a.Durable(); d != 250 {
			t.Fatalf("durable %d at the new branch", d)
		}
		must(t, a.Write(t.Context(), chunk("b2", 250, 260)))
		must(t, a.Close(t.Context(), "shutdown"))
		var got []string
		var hash string
		for _, m := range append(metas(t, l, "b1"), metas(t, l, "b2")...) {
			got = append(got, m.Reason)
			if m.Branch == "b1" && (m.PrevHash != hash || hash != "" && m.PrevEnd != m.Start) {
				t.Errorf("segment at %d does not name the one before", m.Start)
			}
			hash = m.Hash
		}
		if want := []string{reasonSize, reasonSize, reasonBoundary, reasonShutdown}; !reflect.DeepEqual(got, want) {
			t.Errorf("reasons %v, want %v", got, want)
		}
		if b := metas(t, l, "b1")[2].Beats; len(b) != 1 || b[0].N != 1 {
			t.Errorf("beats %v", b)
		}
		held(t, l, "b1", 0, 250)
		held(t, l, "b2", 250, 260)
		if want := []Position{100, 200, 250, 260}; !reflect.DeepEqual(order, want) {
			t.Errorf("OnDurable told of %v, want %v", order, want)
		}
		if err := a.Write(t.Context(), chunk("b2", 260, 261)); !errors.Is(err, ErrClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

// A later segment may be stored first; it is not durable before the earlier.
func TestDurableInOrder(t *testing.T) {
	archiving(t, ArchiverOptions{MaxSegment: 10, Stall: time.Hour}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
		first := Position(0).Key() + "-" + Position(10).Key()
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Key: first, Fault: faulty.Fault{Kind: faulty.Stall}}))
		must(t, a.Write(t.Context(), chunk("b1", 0, 35)))
		synctest.Wait()
		if n := len(metas(t, l, "b1")); n != 2 {
			t.Fatalf("%d segments are stored, want the two after the stalled one", n)
		}
		if d := a.Durable(); d != 0 {
			t.Fatalf("durable %d while the first segment is not stored", d)
		}
		time.Sleep(time.Hour + time.Minute)
		must(t, a.Flush(t.Context()))
		if d := a.Durable(); d != 35 {
			t.Fatalf("durable %d in the end", d)
		}
		held(t, l, "b1", 0, 35)
	})
}

func TestBackPressure(t *testing.T) {
	archiving(t, ArchiverOptions{MaxSegment: 10, MaxPending: 25}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: -1, Fault: faulty.Fault{Kind: faulty.Full}}))
		must(t, a.Write(t.Context(), chunk("b1", 0, 25)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Write(ctx, chunk("b1", 25, 40)); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a write beyond the bound: %v", err)
		}
		s := a.Status()
		if s.Received != 25 || s.OpenBytes+s.PendingBytes != 25 {
			t.Errorf("a refused chunk was taken in part: %+v", s)
		}
		if !errors.Is(s.StoreErr, faulty.ErrInjected) || s.RetryingSince.IsZero() || s.Err != nil {
			t.Errorf("the failing store does not show: %+v", s)
		}
		faults.set(nil)
		must(t, a.Write(t.Context(), chunk("b1", 25, 40)))
		must(t, a.Write(t.Context(), chunk("b1", 40, 140))) // more than may ever wait
		must(t, a.Flush(t.Context()))
		held(t, l, "b1", 0, 140)
		if s := a.Status(); s.StoreErr != nil || s.PendingBytes != 0 || s.Durable != 140 || !s.StoredTime.Equal(at(140)) {
			t.Errorf("after recovery: %+v", s)
		}
	})
}

func TestForkIsFinal(t *testing.T) {
	archiving(t, ArchiverOptions{MaxSegment: 10}, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
		m := &repo.SegmentMeta{Branch: "b1", Start: 10, End: 20}
		must(t, l.PutSegment(t.Context(), m, []byte("the other!")))
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		must(t, a.Flush(t.Context()))
		if err := a.Write(t.Context(), chunk("b1", 10, 45)); err != nil && !errors.Is(err, repo.ErrFork) {
			t.Fatal(err)
		}
		synctest.Wait()
		err := a.Err()
		if !errors.Is(err, repo.ErrFork) || hferr.HintOf(err) == "" {
			t.Fatalf("error %v", err)
		}
		if d := a.Durable(); d != 10 {
			t.Fatalf("durable %d behind the fork", d)
		}
		for what, err := range map[string]error{
			"Write": a.Write(t.Context(), chunk("b1", 45, 46)), "Flush": a.Flush(t.Context()),
			"Begin": a.Begin(t.Context(), root, 45, nil), "Close": a.Close(t.Context(), EventSourceLost),
		} {
			if !errors.Is(err, repo.ErrFork) {
				t.Errorf("%s after the fork: %v", what, err)
			}
		}
	})
}

// The same bytes stored by an earlier run, whose answer was lost, count.
func TestOwnEarlierAttemptCounts(t *testing.T) {
	archiving(t, ArchiverOptions{MaxSegment: 10}, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
		put(t, l, "b1", 0, 10)
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		must(t, a.Flush(t.Context()))
		if d := a.Durable(); d != 10 {
			t.Fatalf("durable %d", d)
		}
	})
}

func TestRetryIsBoundedOnRequest(t *testing.T) {
	archiving(t, ArchiverOptions{MaxSegment: 10, Retry: time.Minute, Stall: 10 * time.Second}, func(t *testing.T, a *Archiver, _ *repo.Lineage, faults *switchable) {
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: -1, Fault: faulty.Fault{Kind: faulty.Stall}}))
		ch := a.Changed()
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		<-ch
		err := a.Err()
		if stall := new(StallError); !errors.As(err, &stall) || hferr.HintOf(err) == "" {
			t.Fatalf("error %v", err)
		}
		if a.Durable() != 0 {
			t.Fatal("durable after a failure")
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := lineage(t)
		run := func(start, from, to Position) Status {
			a := NewArchiver(l, ArchiverOptions{})
			must(t, a.Begin(t.Context(), root, start, nil))
			must(t, a.Write(t.Context(), chunk("b1", from, to)))
			must(t, a.Close(t.Context(), "shutdown"))
			return a.Status()
		}
		run(0, 0, 10)
		run(10, 10, 20) // exactly at the end
		run(15, 15, 30) // inside what is held
		if s := run(40, 40, 50); s.Hole == nil || *s.Hole != (Range{"b1", 30, 40}) {
			t.Errorf("hole in front of the run: %v", s.Hole)
		}
		ms := metas(t, l, "b1")
		if ms[1].PrevEnd != 10 || ms[1].PrevHash != ms[0].Hash {
			t.Errorf("the resumed segment does not name the one before it: %+v", ms[1])
		}
		if ms[2].PrevHash != "" || ms[3].PrevHash != "" {
			t.Error("a segment that continues none names one")
		}
		held(t, l, "b1", 0, 30)
		held(t, l, "b1", 40, 50)
	})
}

func TestBeginRefusesHoles(t *testing.T) {
	child := repo.Branch{ID: "b2", Parent: "b1", Fork: 15, Number: 2}
	for _, c := range []struct {
		name   string
		branch repo.Branch
		at     Position
		gap    *GapError
	}{
		{"same branch, further on", root, 11, &GapError{"b1", 10, 11}},
		{"the parent's end is missing", child, 15, &GapError{"b1", 10, 15}},
		{"the child's beginning is missing", repo.Branch{ID: "b3", Parent: "b1", Fork: 5}, 7, &GapError{"b3", 5, 7}},
		{"the child before its fork", repo.Branch{ID: "b4", Parent: "b1", Fork: 10}, 8, nil},
		{"again", root, 10, nil},
		{"again, a little earlier", root, 3, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			archiving(t, ArchiverOptions{}, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
				must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
				err := a.Begin(t.Context(), c.branch, c.at, nil)
				gap := new(GapError)
				switch {
				case c.gap != nil && (!errors.As(err, &gap) || *gap != *c.gap):
					t.Fatalf("%v, want %v", err, c.gap)
				case c.gap == nil && err != nil:
					t.Fatal(err)
				case c.gap == nil:
					must(t, a.Write(t.Context(), chunk(c.branch.ID, c.at, 20)))
					must(t, a.Flush(t.Context()))
					held(t, l, c.branch.ID, max(c.at, c.branch.Fork), 20)
				}
				if err := a.Write(t.Context(), chunk("b1", 99, 100)); !errors.As(err, &gap) {
					t.Errorf("a chunk after a hole: %v", err)
				}
			})
		})
	}
}

// At a switch, the new branch's position may not be acknowledged while the
// old branch's end is not stored; and a Begin that was interrupted is repeated.
func TestSwitchWaitsForTheOldBranch(t *testing.T) {
	archiving(t, ArchiverOptions{}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: -1, Fault: faulty.Fault{Kind: faulty.Before}}))
		child := repo.Branch{ID: "b2", Parent: "b1", Fork: 10, Number: 2}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Begin(ctx, child, 10, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Begin: %v", err)
		}
		if d := a.Durable(); d != 0 {
			t.Fatalf("durable %d", d)
		}
		faults.set(nil)
		must(t, a.Begin(t.Context(), child, 10, nil))
		held(t, l, "b1", 0, 10)
	})
}

func TestCloseNotesWhatNoSegmentCarried(t *testing.T) {
	for _, c := range []struct {
		name, event string
		data, beat  bool
		notes       int
	}{
		{"beats travel with the last segment", "shutdown", true, true, 0},
		{"beats without a segment", "shutdown", false, true, 1},
		{"nothing to say", "shutdown", false, false, 0},
		{"the source's last time", EventSourceLost, true, false, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			archiving(t, ArchiverOptions{}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
				if c.data {
					must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
				}
				if c.beat {
					a.Beat(beat(7, 10))
				}
				a.Tick(at(1000))
				faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: 3, Fault: faulty.Fault{Kind: faulty.Lost}}))
				must(t, a.Close(t.Context(), c.event))
				notes, err := l.Notes(t.Context())
				must(t, err)
				if len(notes) != c.notes {
					t.Fatalf("%d notes", len(notes))
				}
				for _, n := range notes {
					if !n.SourceTime.Equal(at(1000)) || n.Event != c.event || n.Branch != "b1" || (len(n.Beats) == 1) != c.beat {
						t.Errorf("note %+v", n)
					}
				}
				beats, last, err := NotedBeats(t.Context(), l, []string{"b1"}, time.Time{})
				must(t, err)
				if (len(beats) == 1) != c.beat || (c.data || c.beat) && !last.Equal(at(1000)) {
					t.Errorf("noted: %v, last seen %v", beats, last)
				}
			})
		})
	}
}

func TestCloseIsBounded(t *testing.T) {
	archiving(t, ArchiverOptions{}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: -1, Fault: faulty.Fault{Kind: faulty.Stall}}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Close(ctx, "shutdown"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("Close with a hanging store: %v", err)
		}
		if a.Durable() != 0 {
			t.Fatal("durable")
		}
		if err := a.Close(t.Context(), "shutdown"); !errors.Is(err, ErrClosed) {
			t.Fatalf("second Close: %v", err)
		}
	})
}

// liar stores other bytes than it was given and says so by their hash.
type liar struct{ *repo.Lineage }

func (l liar) PutSegment(ctx context.Context, m *repo.SegmentMeta, data []byte) error {
	return l.Lineage.PutSegment(ctx, m, append([]byte{data[0] ^ 1}, data[1:]...))
}

// What was stored must be what was received: memory fails too.
func TestChangedBytesAreNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := lineage(t)
		a := newArchiver(liar{l}, ArchiverOptions{})
		must(t, a.Begin(t.Context(), root, 0, nil))
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		if err := a.Flush(t.Context()); err == nil || a.Durable() != 0 {
			t.Fatalf("durable %d, %v", a.Durable(), err)
		}
		_ = a.Close(t.Context(), "shutdown")
	})
}

// While the store is slow, time seals no more segments than can be uploaded:
// one larger segment waits instead of many small ones.
func TestSlowStoreGetsFewerSegments(t *testing.T) {
	archiving(t, ArchiverOptions{FlushEvery: time.Second}, func(t *testing.T, a *Archiver, l *repo.Lineage, faults *switchable) {
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Create, Times: -1, Fault: faulty.Fault{Kind: faulty.Before}}))
		for p := Position(0); p < 100; p++ {
			must(t, a.Write(t.Context(), chunk("b1", p, p+1)))
			time.Sleep(700 * time.Millisecond)
		}
		faults.set(nil)
		must(t, a.Flush(t.Context()))
		if n := len(metas(t, l, "b1")); n > parallelPuts+2 {
			t.Errorf("%d segments for 100 bytes", n)
		}
		held(t, l, "b1", 0, 100)
	})
}

// Bytes before where this run began are not durable because later ones are.
func TestBeginBeforeThisRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := lineage(t)
		a := NewArchiver(l, ArchiverOptions{})
		must(t, a.Begin(t.Context(), root, 100, nil))
		must(t, a.Write(t.Context(), chunk("b1", 100, 110)))
		must(t, a.Flush(t.Context()))
		must(t, a.Begin(t.Context(), root, 50, nil))
		if d := a.Durable(); d != 50 {
			t.Fatalf("durable %d, but 50 to 100 was never written", d)
		}
		must(t, a.Write(t.Context(), chunk("b1", 50, 100)))
		must(t, a.Close(t.Context(), "shutdown"))
		held(t, l, "b1", 50, 110)
	})
}

// Bytes sent again are stored again, durable stays, and their segment does
// not claim to follow the one sealed before it.
func TestRewind(t *testing.T) {
	archiving(t, ArchiverOptions{}, func(t *testing.T, a *Archiver, l *repo.Lineage, _ *switchable) {
		must(t, a.Write(t.Context(), chunk("b1", 0, 10)))
		must(t, a.Flush(t.Context()))
		must(t, a.Begin(t.Context(), root, 4, nil))
		if d := a.Durable(); d != 10 {
			t.Errorf("durable %d after a rewind, was 10", d)
		}
		must(t, a.Write(t.Context(), chunk("b1", 4, 12)))
		must(t, a.Flush(t.Context()))
		if m := metas(t, l, "b1")[1]; m.Start != 4 || m.PrevHash != "" || m.PrevEnd != 0 {
			t.Errorf("the segment sent again: %+v", m)
		}
		held(t, l, "b1", 0, 12)
	})
}
