package postgres

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// becomeStandby turns a primary into a standby of nobody, which replays its
// own log and can be promoted to the next timeline.
func (s *site) becomeStandby() {
	s.t.Helper()
	if err := s.server.StopFast(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.server.DataDir(), "standby.signal")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(s.server.DataDir())
	if err != nil {
		s.t.Fatal(err)
	}
	chownLike(s.t, file, info)
	if err := s.server.Restart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.admin = connectTo(s.t, s.server.AdminURL())
}

func (s *site) promote() {
	s.t.Helper()
	if s.text("select pg_promote()::text") != "true" {
		s.t.Fatal("not promoted")
	}
}

// TestTheStreamFollowsPromotions twice while it runs, and once more while it
// does not; then an archive begun only then finds the same branches.
func TestTheStreamFollowsPromotions(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, keepLog)
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		for range 2 {
			s.exec("create table if not exists t (x int)", "insert into t values (1)")
			s.becomeStandby()
			stop, ready := background(t, src.Log(), engines.TailOptions{Held: in.held}, in)
			if _, ok := <-ready; !ok {
				t.Fatal(stop())
			}
			s.promote()
			s.exec("insert into t values (2)")
			end := s.position("select pg_current_wal_flush_lsn()::text")
			waitFor(t, "the new timeline is followed", func() bool { return in.received() >= end })
			if err := stop(); err != nil {
				t.Fatal(err)
			}
		}
		s.becomeStandby()
		s.promote()
		end := s.flushLog()
		until := make(chan repo.Position, 1)
		until <- end
		if err := src.Log().Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in); err != nil {
			t.Fatal(err)
		}
		id, err := src.Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if id.Branch.Number != 4 || len(in.branches) != 4 {
			t.Fatalf("now on %+v after %v", id.Branch, in.order)
		}
		from := in.runs[0].start
		for b := id.Branch; ; b = in.branches[b.Parent] {
			if history, err := HistoryOf(b); err != nil || b.Parent != "" && !bytes.Equal(history, s.historyFile(b.Number)) {
				t.Errorf("branch %s: history %q %v", b.ID, history, err)
			}
			lo := max(from, b.Fork)
			if !bytes.Equal(in.bytes(t, b.ID, lo, end), s.serverLog(b.Number, lo, end)) {
				t.Errorf("branch %s from %s to %s differs", b.ID, FormatLSN(lo), FormatLSN(end))
			}
			if end = b.Fork; b.Parent == "" {
				break
			}
		}
	})
}

func (s *site) historyFile(timeline uint64) []byte {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.server.DataDir(), "pg_wal", "0000000"+string(rune('0'+timeline))+".history"))
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// TestANewArchiveOfAPromotedServer begins in the segment that holds the
// switch, so on the parent's branch.
func TestANewArchiveOfAPromotedServer(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, keepLog, "create table t (x int)")
		s.becomeStandby()
		s.promote()
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.exec("insert into t values (2)")
		end := s.position("select pg_current_wal_flush_lsn()::text")
		until := make(chan repo.Position, 1)
		until <- end
		in := newMemoryIntake()
		if err := src.Log().Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in); err != nil {
			t.Fatal(err)
		}
		if len(in.order) != 2 || in.order[0] != "00000001-root" || !strings.HasPrefix(in.order[1], "00000002-") {
			t.Fatalf("branches %v", in.order)
		}
		start, fork := in.runs[0].start, in.branches[in.order[1]].Fork
		if start >= fork || start%(16<<20) != 0 {
			t.Errorf("begun at %s, forked at %s", FormatLSN(start), FormatLSN(fork))
		}
		if !bytes.Equal(in.bytes(t, in.order[0], start, fork), s.serverLog(2, start, fork)) || !bytes.Equal(in.bytes(t, in.order[1], fork, end), s.serverLog(2, fork, end)) {
			t.Error("the log differs from the server's")
		}
	})
}

// TestLogThatIsGoneIsNamed: a lost slot, then a new one with a hole before it.
func TestLogThatIsGoneIsNamed(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, map[string]string{"min_wal_size": "32MB", "max_wal_size": "32MB"})
		src := s.source()
		log := src.Log()
		if err := log.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		tailTo := func(end repo.Position) error {
			until := make(chan repo.Position, 1)
			until <- end
			return log.Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in)
		}
		if err := tailTo(s.flushLog()); err != nil {
			t.Fatal(err)
		}
		heldEnd := in.received()
		s.exec("alter system set max_slot_wal_keep_size = '1MB'", "select pg_reload_conf()")
		s.loseSlot()
		var lost *SlotLostError
		for name, err := range map[string]error{"Prepare": log.Prepare(t.Context()), "Tail": tailTo(1)} {
			if !errors.As(err, &lost) || engines.ConditionOf(err) != engines.ConditionSlotLost || !engines.IsPermanent(err) || !strings.Contains(hferr.HintOf(err), "pg_drop_replication_slot('holdfast_orders_1')") {
				t.Errorf("%s with a lost slot: %v", name, err)
			}
			t.Logf("%s: %v\n    hint: %s", name, err, hferr.HintOf(err))
		}
		if err := log.Release(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		s.exec("alter system reset max_slot_wal_keep_size", "select pg_reload_conf()")
		if err := log.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := tailTo(s.flushLog()); err != nil {
			t.Fatal(err)
		}
		last := in.runs[len(in.runs)-1]
		if last.start <= heldEnd || last.start%(16<<20) != 0 {
			t.Errorf("goes on at %s after a hole from %s", FormatLSN(last.start), FormatLSN(heldEnd))
		}
		if text := s.logs.String(); !strings.Contains(text, "log is lost") || !strings.Contains(text, "from="+FormatLSN(heldEnd)+" to="+FormatLSN(last.start)) {
			t.Errorf("the hole is not in the log: %s", text)
		}
	})
}

// TestAnArchiveAheadOfItsServerStops: the server was put back.
func TestAnArchiveAheadOfItsServerStops(t *testing.T) {
	s := newSite(t, "15", nil)
	src := s.source()
	if err := src.Log().Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := newMemoryIntake()
	in.runs = []memoryRun{{branch: "00000001-root", start: 0, data: make([]byte, 256<<20)}}
	in.durable = 256 << 20
	err := src.Log().Tail(t.Context(), engines.TailOptions{Held: in.held}, in)
	var ahead *AheadError
	if !errors.As(err, &ahead) || engines.ConditionOf(err) != engines.ConditionArchiveAhead || !engines.IsPermanent(err) || ahead.Held != 256<<20 || len(in.order) != 0 {
		t.Errorf("%v", err)
	}
}

// TestASlotInUseIsNotTaken: a second stream, and a drop, are refused.
func TestASlotInUseIsNotTaken(t *testing.T) {
	s := newSite(t, "18", nil)
	log := s.source().Log()
	if err := log.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := newMemoryIntake()
	stop, ready := background(t, log, engines.TailOptions{Held: in.held}, in)
	<-ready
	if err := log.Release(t.Context(), ""); err == nil || !strings.Contains(hferr.HintOf(err), "stop holdfast stream") {
		t.Errorf("drop: %v", err)
	}
	second := newMemoryIntake()
	if err := log.Tail(t.Context(), engines.TailOptions{Held: second.held}, second); err == nil || !strings.Contains(hferr.HintOf(err), "another holdfast") || engines.ConditionOf(err) != engines.ConditionSlotInUse || engines.IsPermanent(err) {
		t.Errorf("second stream: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if err := log.Release(t.Context(), "other"); hferr.KindOf(err) != hferr.Usage {
		t.Errorf("a slot that is not ours: %v", err)
	}
}
