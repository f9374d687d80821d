package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
)

// streams waits until status says that the stream streams and nothing is wrong.
func (s *site) streams() {
	s.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		doc := s.status()
		st := doc.Databases[0].Stream
		if st != nil && st.Report != nil && st.Report.State == "streaming" && st.Report.Condition == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("not streaming again: %+v", doc)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// What happens to a stream shows in status, with what to do, and is recovered
// from without a hole; what it cannot recover from ends it and says why.
func TestEventsOfAStream(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		p := newProxy(t)
		s.through(p)
		s.exec(schema...)
		st := s.stream("--flush-every", "300ms", "--no-heartbeat")
		s.must(append([]string{"backup", "--no-heartbeat"}, s.source()...)...)
		s.idle()

		w := s.workload(1)
		at := time.Now()
		p.stall()
		s.shows("stalled", at)
		p.flow()
		s.streams()

		at = time.Now()
		p.cut()
		s.shows("connection-lost|unreachable", at)
		p.flow()
		s.streams()
		s.advances(w, 20)
		w.stop()

		at = time.Now()
		if err := s.server.StopFast(s.ctx); err != nil {
			t.Fatal(err)
		}
		s.shows("server-stopped|refused|connection-lost|unreachable", at)
		if err := s.server.Restart(s.ctx); err != nil {
			t.Fatal(err)
		}
		p.to("tcp", "127.0.0.1:"+portOf(s.server))
		s.streams()
		s.exec("create table after_restart as select 1 as x")
		s.archived()
		want := s.fingerprint(s.server.AdminURL())

		defer s.failover(p, st, want).stop()

		other := pgtest.Start(t, major, pgserver.Options{Role: "holdfast"})
		if err := tryQuery(s.ctx, other.AdminURL(), "alter role holdfast password '"+s.server.Password()+"'"); err != nil {
			t.Fatal(err)
		}
		at = time.Now()
		p.cut()
		p.to("tcp", "127.0.0.1:"+portOf(other))
		p.flow()
		if code := st.wait(); code != exitFailed {
			t.Errorf("exit %d when the URL leads to another system\n%s", code, st.out)
		}
		s.shows("other-system", at)
		o := s.run(append([]string{"backup"}, s.source()...)...)
		if o.code != exitFailed || !strings.Contains(o.err, "--new-lineage") {
			t.Errorf("a backup of another system under the name: exit %d\n%s", o.code, o.all())
		}
		s.must(append([]string{"backup", "--new-lineage"}, s.source()...)...)
	})
}

// idle: a server that writes nothing is neither stalled nor exposed, and what
// is known of it goes on in time.
func (s *site) idle() {
	s.t.Helper()
	s.streams()
	s.archived()
	deadline := time.Now().Add(time.Minute)
	for first := ""; ; time.Sleep(500 * time.Millisecond) {
		doc := s.status()
		r := doc.Databases[0].Stream.Report
		if r.Condition != "" {
			s.t.Fatalf("an idle server: %+v", r)
		}
		if r.Idle && first == "" {
			first = r.Source
		}
		if r.Idle && r.Source > first && first != "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the source's time does not go on, from %q: %+v", first, r)
		}
	}
}

// failover: the server dies, a copy is promoted, and the same address leads to
// it. The stream follows onto the new timeline without a hole.
func (s *site) failover(p *proxy, st *background, want string) *copyServer {
	s.t.Helper()
	p.cut()
	s.must("restore", databaseName, "--to", s.path("promoted"))
	c := s.boot(s.path("promoted"))
	if got := s.fingerprint(c.url()); got != want {
		s.t.Errorf("the promoted copy differs\nsource:\n%scopy:\n%s", want, got)
	}
	p.to("unix", filepath.Join(s.host.Dir(), ".s.PGSQL.5432"))
	p.flow()
	s.streams()
	s.query(c.url(), "create table after_failover as select 2 as x")
	s.archivedBy(c.url())
	var doc listedDoc
	s.mustJSON(&doc, "list", databaseName)
	if len(doc.Coverage) != 2 {
		s.t.Fatalf("%d branches after a failover\n%s", len(doc.Coverage), st.out)
	}
	after := s.fingerprint(c.url())
	s.must("restore", databaseName, "--to", s.path("after"))
	again := s.bootOn(s.path("after"), s.path("after"))
	defer again.stop()
	if err := again.log.wait(s.ctx, "archive recovery complete"); err != nil {
		s.t.Fatalf("%v\n%s", err, again.log)
	}
	if got := s.fingerprint(again.url()); got != after {
		s.t.Errorf("the copy of the promoted server differs\nserver:\n%scopy:\n%s", after, got)
	}
	return c
}

// A slot whose log the server has removed ends the stream with the reason;
// after the slot is dropped, archiving goes on and the hole shows for what it
// is, and a new base backup makes the present restorable.
func TestALostSlotIsAHole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream("--flush-every", "300ms")
		s.must(append([]string{"backup"}, s.source()...)...)
		s.archived()
		s.exec("alter system set max_slot_wal_keep_size = '16MB'", "select pg_reload_conf()")
		st.signal(syscall.SIGTERM)
		st.wait()
		for range 6 {
			s.exec("insert into filler select (select max(id) from filler) + i, repeat('x', 500) from generate_series(1, 1000) i", "select pg_switch_wal()", "checkpoint")
		}
		at := time.Now()
		o := s.run(append([]string{"stream"}, s.source()...)...)
		if o.code != exitFailed || !strings.Contains(o.err, "slot drop") {
			t.Fatalf("a stream with a lost slot: exit %d\n%s", o.code, o.all())
		}
		s.shows("slot-lost", at)
		s.must(append([]string{"slot", "drop"}, s.source()...)...)
		at = time.Now()
		st = s.stream("--flush-every", "300ms")
		s.shows("log-hole", at)
		s.must(append([]string{"backup"}, s.source()...)...)
		s.exec("create table after_the_hole as select 3 as x")
		s.archived()
		want := s.fingerprint(s.server.AdminURL())
		st.signal(syscall.SIGTERM)
		st.wait()
		var doc listedDoc
		s.mustJSON(&doc, "list", databaseName)
		if len(doc.Coverage) != 1 || len(doc.Coverage[0].Ranges) != 2 {
			t.Errorf("coverage %+v", doc.Coverage)
		}
		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.boot(s.path("copy"))
		defer c.stop()
		if got := s.fingerprint(c.url()); got != want {
			t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", want, got)
		}
	})
}

// A source's clock that is set, forward or back, shows; log goes on being
// archived, and a target is still exact. The server's clock is libfaketime's.
func TestAClockThatIsSet(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		libs, err := filepath.Glob("/usr/lib/*/faketime/libfaketimeMT.so.1")
		if err != nil || len(libs) != 1 {
			t.Fatalf("no libfaketime (go run ./testcontainers/provision faketime): %v %v", libs, err)
		}
		dir, err := os.MkdirTemp("/tmp", "hf-clock-")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		clock := filepath.Join(dir, "clock")
		set := func(offset string) {
			// In one step: the server reads it at every look at its clock.
			if err := errors.Join(os.WriteFile(clock+".new", []byte(offset+"\n"), 0o644), os.Rename(clock+".new", clock)); err != nil {
				t.Fatal(err)
			}
		}
		set("+0")
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		s := newSiteWith(t, major, nil, "LD_PRELOAD="+libs[0], "FAKETIME_TIMESTAMP_FILE="+clock, "FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1")
		s.exec(schema...)
		st := s.stream("--flush-every", "300ms")
		s.must(append([]string{"backup"}, s.source()...)...)
		w := s.workload(1)
		s.streams()
		for _, c := range []struct{ offset, by string }{{"+7200", " 2h0m"}, {"-3600", " -3h0m"}} {
			time.Sleep(6 * time.Second) // a look at the clock as it is
			at := time.Now()
			set(c.offset)
			s.shows("clock-step", at, "set by about"+c.by)
			s.advances(w, 20)
		}
		w.stop()
		s.archived()
		var xid string
		var n int64
		s.query(s.server.AdminURL(), `select xmin::text, n from ledger order by n desc limit 1`, &xid, &n)
		st.signal(syscall.SIGTERM)
		st.wait()
		s.must("restore", databaseName, "--to", s.path("copy"), "--before", xid)
		c := s.boot(s.path("copy"))
		defer c.stop()
		var last int64
		s.query(c.url(), `select max(n) from ledger`, &last)
		if last != n-1 {
			t.Errorf("the copy ends at commit %d, want %d", last, n-1)
		}
	})
}

func portOf(s *pgserver.Server) string { return strconv.Itoa(s.Port()) }
