package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestConditions(t *testing.T) {
	said := func(code string) error {
		return fmt.Errorf("outer: %w", hferr.New("x", &pgconn.PgError{Code: code}, ""))
	}
	cut := func(op string, err error) error { return &net.OpError{Op: op, Err: os.NewSyscallError(op, err)} }
	for _, c := range []struct {
		err  error
		want engines.Condition
	}{
		{nil, ""},
		{errors.New("plain"), ""},
		{context.Canceled, ""},
		{&SlotLostError{"s", "lost", ""}, engines.ConditionSlotLost},
		{&SlotLostError{"s", "lost", "wal_removed"}, engines.ConditionSlotLost},
		{&SlotLostError{"s", "lost", "idle_timeout"}, engines.ConditionSlotInvalidated},
		{&SlotMissingError{"s"}, engines.ConditionSlotMissing},
		{engines.Permanent(hferr.New("x", &LogGoneError{}, "")), engines.ConditionLogGone},
		{&OtherSystemError{}, engines.ConditionOtherSystem},
		{&LeftHistoryError{}, engines.ConditionOtherHistory},
		{fmt.Errorf("x: %w", repo.ErrFork), engines.ConditionOtherHistory},
		{&AheadError{}, engines.ConditionArchiveAhead},
		{&StalledError{}, engines.ConditionStalled},
		{&ApplyDemandedError{}, engines.ConditionApplyDemanded},
		{ErrServerStopped, engines.ConditionServerStopped},
		{hferr.New("x", errShutdownWaits, ""), engines.ConditionServerStopped},
		{said("28P01"), engines.ConditionAuthentication},
		{said("28000"), engines.ConditionAuthentication},
		{said("42501"), engines.ConditionAuthentication},
		{said("57P03"), engines.ConditionRefused},
		{said("53300"), engines.ConditionRefused},
		{said("57P01"), engines.ConditionServerStopped},
		{said("57P02"), engines.ConditionServerRestarted},
		{said("55006"), engines.ConditionSlotInUse},
		{said("22012"), ""},
		{cut("dial", syscall.ECONNREFUSED), engines.ConditionUnreachable},
		{&net.DNSError{}, engines.ConditionUnreachable},
		{cut("read", syscall.ECONNRESET), engines.ConditionConnectionLost},
		{cut("write", syscall.EPIPE), engines.ConditionConnectionLost},
		{cut("write", os.ErrDeadlineExceeded), engines.ConditionStalled},
		{cut("read", syscall.EHOSTUNREACH), engines.ConditionConnectionLost},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), engines.ConditionConnectionLost},
		{io.EOF, engines.ConditionConnectionLost},
		{net.ErrClosed, engines.ConditionConnectionLost},
	} {
		if got := conditionOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
		s := &source{name: "x", config: nil}
		if c.err == nil || networkCondition(c.err) != "" || isSaid(c.err) {
			continue // these want hints from a real configuration
		}
		known := hferr.New("y", c.err, "hint")
		if got := s.explain("x", known); engines.ConditionOf(got) != c.want && !errors.Is(c.err, context.Canceled) || hferr.HintOf(got) != "hint" {
			t.Errorf("explained: %v: %q", c.err, engines.ConditionOf(got))
		}
	}
}

func isSaid(err error) bool { return is[*pgconn.PgError](err) }

// TestTheServerBehindTheURLIsAnother: nothing of it is taken.
func TestTheServerBehindTheURLIsAnother(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		l := s.source().Log()
		if err := l.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		is := "pg-" + s.text("select system_identifier::text from pg_control_system()")
		in := newMemoryIntake()
		until := make(chan repo.Position, 1)
		until <- 1 // a Tail that does not refuse must end all the same
		err := l.Tail(t.Context(), engines.TailOptions{Held: in.held, Lineage: "pg-1", Until: until}, in)
		var other *OtherSystemError
		if !errors.As(err, &other) || *other != (OtherSystemError{"pg-1", is}) || engines.ConditionOf(err) != engines.ConditionOtherSystem || !engines.IsPermanent(err) || len(in.order) != 0 {
			t.Errorf("%v", err)
		}
		stop, ready := background(t, l, engines.TailOptions{Held: in.held, Lineage: is}, in)
		if _, ok := <-ready; !ok {
			t.Errorf("its own server: %v", stop())
		}
	})
}

// TestAStreamThatIsEndedSaysWhy: by an administrator, by a crash of another
// process, by a drop of the slot, by a server that is not there or not ready.
func TestAStreamThatIsEndedSaysWhy(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		l := s.source().Log()
		if err := l.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		tail := func(end func()) error {
			t.Helper()
			stop, ready := background(t, l, engines.TailOptions{Held: in.held}, in)
			if _, ok := <-ready; !ok {
				t.Fatalf("did not begin: %v", stop())
			}
			end()
			<-ready
			return stop()
		}
		wants := func(what string, err error, want engines.Condition) {
			t.Helper()
			t.Logf("%s: %v\n    hint: %s", what, err, hferr.HintOf(err))
			if engines.ConditionOf(err) != want || engines.IsPermanent(err) {
				t.Errorf("%s: %q, want %q", what, engines.ConditionOf(err), want)
			}
		}
		// A broken pipe may come before the server's last words, which are then lost.
		err := tail(func() { s.exec("select pg_terminate_backend(pid) from pg_stat_replication") })
		if c := engines.ConditionOf(err); c != engines.ConditionServerStopped && c != engines.ConditionConnectionLost || engines.IsPermanent(err) {
			t.Errorf("terminated: %q, %v", c, err)
		}
		s.exec("select pg_drop_replication_slot('holdfast_orders_1')")
		wants("dropped", l.Tail(t.Context(), engines.TailOptions{Held: in.held}, in), engines.ConditionSlotMissing)
		if err := l.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		err = tail(func() {
			if err := s.server.Kill9(t.Context()); err != nil {
				t.Error(err)
			}
		})
		if c := engines.ConditionOf(err); c != engines.ConditionConnectionLost && c != engines.ConditionServerRestarted {
			t.Errorf("killed: %q, %v", c, err)
		}
		err = l.Tail(t.Context(), engines.TailOptions{Held: in.held}, in)
		wants("not there", err, engines.ConditionUnreachable)
		if _, err := l.Guarantee(t.Context()); engines.ConditionOf(err) != engines.ConditionUnreachable {
			t.Errorf("guarantee of a server that is not there: %v", err)
		}
		if err := s.server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.admin = connectTo(t, s.server.AdminURL())
		stop, ready := background(t, l, engines.TailOptions{Held: in.held}, in)
		if _, ok := <-ready; !ok {
			t.Fatalf("after the restart: %v", stop())
		}
	})
}

// TestASlotThatIdlesTooLongIsInvalidated is for 18, which alone has the
// timeout; what the server still has is fetched by a new slot.
func TestASlotThatIdlesTooLongIsInvalidated(t *testing.T) {
	s := newSite(t, "18", keepLog)
	src := s.source()
	l := src.Log()
	if err := l.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := newMemoryIntake()
	tailTo := func(end repo.Position) error {
		until := make(chan repo.Position, 1)
		until <- end
		return l.Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in)
	}
	if err := tailTo(s.flushLog()); err != nil {
		t.Fatal(err)
	}
	held := in.received()
	s.exec("alter system set idle_replication_slot_timeout = '1s'", "select pg_reload_conf()")
	waitFor(t, "the slot is invalidated", func() bool {
		s.exec("checkpoint")
		time.Sleep(100 * time.Millisecond)
		return s.text("select coalesce(invalidation_reason, '') from pg_replication_slots") == "idle_timeout"
	})
	if f := codes(t, s)["slot-idle-timeout"]; f.Severity != severityWarning || !strings.Contains(f.Message, "is 1s:") {
		t.Errorf("%+v", f)
	}
	if f, ok := codes(t, s)["slot-invalidated"]; !ok || !strings.Contains(f.Message, "idle_timeout") {
		t.Errorf("%+v", f)
	}
	var hint string
	for name, err := range map[string]error{"Prepare": l.Prepare(t.Context()), "Tail": tailTo(1)} {
		var lost *SlotLostError
		if !errors.As(err, &lost) || lost.Cause != "idle_timeout" || engines.ConditionOf(err) != engines.ConditionSlotInvalidated || !engines.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
		hint = hferr.HintOf(err)
		t.Logf("%s: %v\n    hint: %s", name, err, hint)
	}
	if !strings.Contains(hint, "pg_drop_replication_slot('holdfast_orders_1')") || !strings.Contains(hint, "idle_replication_slot_timeout = 0") {
		t.Errorf("hint %q", hint)
	}
	s.exec("alter system reset idle_replication_slot_timeout", "select pg_reload_conf()", "select pg_drop_replication_slot('holdfast_orders_1')")
	if err := l.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	end := s.flushLog()
	if err := tailTo(end); err != nil {
		t.Fatal(err)
	}
	if last := in.runs[len(in.runs)-1]; last.start != held || in.Durable() < end {
		t.Errorf("went on at %s to %s after %s", FormatLSN(last.start), FormatLSN(in.Durable()), FormatLSN(held))
	}
}
