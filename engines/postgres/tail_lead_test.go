package postgres

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// archived reads what the pipeline's lineage holds.
func (a *pipeline) archived(ctx context.Context, branch string, from, to repo.Position) ([]byte, error) {
	return wal.ReadRange(ctx, a.lineage, branch, from, to)
}

// snapshot stops the server and copies its data directory aside; swap puts
// the copy in its place: a clone that nobody promoted.
func (s *site) snapshot() (swap func()) {
	s.t.Helper()
	dir := s.server.DataDir()
	cold := func(args ...string) {
		s.t.Helper()
		if err := s.server.StopFast(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %v\n%s", args, err, out)
		}
		if err := s.server.Restart(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
		s.admin = connectTo(s.t, s.server.AdminURL())
	}
	s.t.Cleanup(func() { os.RemoveAll(dir + ".clone"); os.RemoveAll(dir + ".original") })
	cold("cp", "-a", dir, dir+".clone")
	return func() {
		s.t.Helper()
		cold("sh", "-c", "mv '"+dir+"' '"+dir+".original' && mv '"+dir+".clone' '"+dir+"'")
	}
}

// TestACloneOnTheSameTimeline: a copied data directory goes on writing on its
// own, with the same system identifier and timeline. Its log is not taken for
// the original's, whether it has written more or less.
func TestACloneOnTheSameTimeline(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		for name, more := range map[string]bool{"the clone wrote more": true, "the clone wrote less": false} {
			t.Run(name, func(t *testing.T) {
				a := newPipeline(t, newSite(t, major, nil, "create table t (x text)"))
				a.stream()
				a.exec("insert into t values ('both')")
				a.durable(a.flushLog())
				a.stop()
				swap := a.snapshot()
				a.stream()
				a.exec("insert into t select 'original' from generate_series(1, 5000)")
				end := a.flushLog()
				a.durable(end)
				a.stop()
				before := a.coverage()

				swap()
				if more {
					a.exec("insert into t select 'clone' from generate_series(1, 400000)")
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := a.src.Log().Tail(ctx, engines.TailOptions{Held: a.held, Archived: a.archived}, a.newArchiver())
				var diverged *DivergedError
				var ahead *AheadError
				if !engines.IsPermanent(err) || hferr.HintOf(err) == "" {
					t.Errorf("not a permanent error with a hint: %v", err)
				}
				if more && (!errors.As(err, &diverged) || !errors.Is(err, repo.ErrFork) || diverged.At >= end) {
					t.Errorf("%v", err)
				}
				if !more && !errors.As(err, &ahead) {
					t.Errorf("%v", err)
				}
				if after := a.coverage(); after != before {
					t.Errorf("the archive holds %+v after the clone, %+v before", after, before)
				}
				if told := a.position("select restart_lsn::text from pg_replication_slots"); told > before.End {
					t.Errorf("the clone was told that %s is durable", FormatLSN(told))
				}
			})
		}
	})
}

// TestTheOriginalGoesOn after the same comparison, and also where the server
// has removed the segment before the first byte wanted.
func TestTheOriginalGoesOn(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		a := newPipeline(t, newSite(t, major, nil, "create table t (x text)"))
		for range 3 {
			a.stream()
			a.exec("insert into t select 'row' from generate_series(1, 1000)")
			end := a.flushLog() // the next stream begins at a segment's start …
			a.durable(end)
			a.stop()
			a.exec("checkpoint", "checkpoint") // … and what is before it goes
		}
		if c := a.coverage(); c.Start >= c.End {
			t.Errorf("coverage %+v", c)
		}
		a.indexed()
	})
}

func (a *pipeline) coverage() wal.Range {
	a.t.Helper()
	refs, err := a.lineage.Segments(a.t.Context(), "00000001-root", 0)
	if err != nil {
		a.t.Fatal(err)
	}
	ranges := wal.Coverage(refs)
	if len(ranges) != 1 {
		a.t.Fatalf("held in %d pieces: %v", len(ranges), ranges)
	}
	return ranges[0]
}

// TestTheIndexGoesOn where a stream resumes inside a block.
func TestTheIndexGoesOn(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		a := newPipeline(t, newSite(t, major, nil, "create table t (x text)"))
		for range 4 {
			a.stream()
			for range 50 {
				a.exec("insert into t select repeat('x', 5000) from generate_series(1, 3)")
			}
			a.durable(a.position("select pg_current_wal_flush_lsn()::text"))
			a.stop()
		}
		if n := a.indexed(); n < 200 {
			t.Errorf("the index counts %d commits of at least 200", n)
		}
	})
}

// indexed checks that each segment has a complete index and adds up commits.
func (a *pipeline) indexed() (commits int64) {
	a.t.Helper()
	refs, err := a.lineage.Segments(a.t.Context(), "00000001-root", 0)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, ref := range refs {
		m, err := a.lineage.ReadSegmentMeta(a.t.Context(), ref)
		if err != nil {
			a.t.Fatal(err)
		}
		if m.Index == nil || !m.Index.Complete {
			a.t.Errorf("segment %s to %s: index %+v", FormatLSN(m.Start), FormatLSN(m.End), m.Index)
			continue
		}
		commits += m.Index.Commits
	}
	return commits
}

// storedAhead is an intake that holds more than the server it is refused by.
type storedAhead struct {
	*memoryIntake
	stored repo.Position
}

func (a *storedAhead) Stored() repo.Position { return a.stored }

// A server that turns out to be another one keeps its slot where it was: what
// the store holds says nothing of its log.
func TestARefusedServersSlotStays(t *testing.T) {
	s := newSite(t, "15", nil, "create table t (i int)")
	log := s.source().Log()
	if err := log.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := s.text("select restart_lsn::text from pg_replication_slots")
	s.exec("insert into t select generate_series(1, 100000)")
	in := &storedAhead{newMemoryIntake(), s.flushLog()}
	err := log.Tail(t.Context(), engines.TailOptions{Lineage: "pg-42", Spooled: true, Held: in.held}, in)
	if engines.ConditionOf(err) != engines.ConditionOtherSystem {
		t.Fatalf("%v", err)
	}
	if after := s.text("select restart_lsn::text from pg_replication_slots"); after != before {
		t.Errorf("the slot went from %s to %s", before, after)
	}
}
