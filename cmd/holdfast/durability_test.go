package main

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// statusDoc is what these tests read of `status`.
type statusDoc struct {
	Databases []struct {
		Streaming bool `json:"streaming"`
		Stream    *struct {
			Kind   string `json:"kind"`
			PID    int    `json:"pid"`
			Epoch  uint64 `json:"epoch"`
			Report *struct {
				State     string `json:"state"`
				Condition string `json:"condition"`
				Idle      bool   `json:"idle"`
				Durable   uint64 `json:"durable"`
				Stored    uint64 `json:"stored"`
				Source    string `json:"source_time"`
				Guarantee *struct {
					Level string `json:"level"`
				} `json:"guarantee"`
				Spool *struct {
					Full bool `json:"full"`
				} `json:"spool"`
			} `json:"report"`
		} `json:"stream"`
		Guarantee *struct {
			Level    string `json:"level"`
			Sentence string `json:"sentence"`
		} `json:"guarantee"`
		Findings []struct {
			Code, Severity, Message, Fix string
		} `json:"findings"`
	} `json:"databases"`
}

func (s *site) status() statusDoc {
	s.t.Helper()
	var doc statusDoc
	s.mustJSON(&doc, "status", databaseName)
	if len(doc.Databases) != 1 {
		s.t.Fatalf("status of %d databases", len(doc.Databases))
	}
	return doc
}

// shows waits until status has a finding with one of some codes ("a|b"), which
// must say what to do, and all of some texts; it must come within ten seconds
// of the event.
func (s *site) shows(codes string, since time.Time, texts ...string) {
	s.t.Helper()
	for {
		for _, f := range s.status().Databases[0].Findings {
			lacks := func(text string) bool { return !strings.Contains(f.Message, text) }
			if code := f.Code; slices.Contains(strings.Split(codes, "|"), code) && !slices.ContainsFunc(texts, lacks) {
				if f.Fix == "" {
					s.t.Errorf("%s: %s: it does not say what to do", code, f.Message)
				}
				s.t.Logf("%s shows after %s: %s", code, time.Since(since).Round(100*time.Millisecond), f.Message)
				return
			}
		}
		if time.Since(since) > patience {
			s.t.Fatalf("%s does not show in status after %s: %+v", codes, patience, s.status())
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// patience is the ten seconds within which an event must show, and what a
// machine busy with other tests may add.
const patience = 30 * time.Second

// spoolArgs make a stream with a spool.
func (s *site) spoolArgs(extra ...string) []string {
	return append([]string{"--flush-every", "300ms", "--durability", "spool", "--spool", s.path("spool")}, extra...)
}

// synchronous makes every commit wait for the stream's acknowledgement.
func (s *site) synchronous() {
	s.t.Helper()
	s.exec(`alter system set synchronous_standby_names = 'holdfast_`+databaseName+`'`, `select pg_reload_conf()`)
}

// storeAway and storeBack make the store unreachable and reachable again.
func (s *site) storeAway() {
	s.t.Helper()
	if err := os.Rename(s.repo, s.repo+".away"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) storeBack() {
	s.t.Helper()
	if err := os.Rename(s.repo+".away", s.repo); err != nil {
		s.t.Fatal(err)
	}
}

// advances waits until writer 0 has had n more commits acknowledged.
func (s *site) advances(w *workload, n int64) {
	s.t.Helper()
	from, deadline := w.acked[0].Load(), time.Now().Add(time.Minute)
	for w.acked[0].Load() < from+n {
		if time.Now().After(deadline) {
			s.t.Fatalf("%d commits were acknowledged in a minute, want %d", w.acked[0].Load()-from, n)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// With a spool and a synchronous primary no acknowledged commit is lost, even
// if the store is out, then the stream is killed, then the server dies: the
// spool is drained before anybody is connected to.
func TestSpoolIsZeroLoss(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream(s.spoolArgs()...)
		s.must(append([]string{"backup"}, s.source()...)...)
		s.synchronous()
		w := s.workload(2)
		st.waitFor("every commit waits for our acknowledgement")
		var told struct {
			Databases []struct {
				Guarantee struct {
					Level string `json:"level"`
				} `json:"guarantee"`
			} `json:"databases"`
		}
		s.mustJSON(&told, append([]string{"status"}, s.source()...)...)
		if len(told.Databases) != 1 || told.Databases[0].Guarantee.Level != "synchronous" {
			t.Errorf("status says of the guarantee: %+v", told)
		}
		s.advances(w, 20)
		s.storeAway()
		st.waitFor("store-failing") // within its patience; commits go on all the same
		s.advances(w, 50)
		st.signal(syscall.SIGKILL)
		st.wait()
		if err := s.server.Kill9(s.ctx); err != nil {
			t.Fatal(err)
		}
		w.stop()
		if b, err := filepath.Glob(s.path("spool", "*", "*.spool")); err != nil || len(b) == 0 {
			t.Fatalf("the spool holds nothing: %v %v", b, err)
		}
		s.storeBack()
		o := s.run(append(append([]string{"stream"}, s.source()...), s.spoolArgs()...)...)
		if o.code != exitFailed || !strings.Contains(o.stdout, "the spool is drained") {
			t.Fatalf("a stream of a dead server: exit %d\n%s", o.code, o.all())
		}
		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.boot(s.path("copy"))
		defer c.stop()
		s.invariants(c.url())
		s.holdsAll(c.url(), w)
	})
}

// While the primary lives, losing the spool makes no hole: what the server
// may remove follows the store.
func TestLosingTheSpoolMakesNoHole(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream(s.spoolArgs()...)
		s.must(append([]string{"backup"}, s.source()...)...)
		w := s.workload(2)
		for range 3 {
			s.advances(w, 30)
			s.storeAway()
			s.advances(w, 50) // acknowledged by the spool alone
			st.signal(syscall.SIGKILL)
			st.wait()
			s.exec("select pg_switch_wal()", "checkpoint") // whatever the server may remove, it removes
			if err := os.RemoveAll(s.path("spool")); err != nil {
				t.Fatal(err)
			}
			s.storeBack()
			st = s.stream(s.spoolArgs()...)
		}
		w.stop()
		s.archived()
		st.signal(syscall.SIGTERM)
		if code := st.wait(); code != 0 {
			t.Errorf("exit %d after SIGTERM\n%s", code, st.out)
		}
		want := s.fingerprint(s.server.AdminURL())
		s.logEnd() // one piece
		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.boot(s.path("copy"))
		defer c.stop()
		s.holdsAll(c.url(), w)
		if got := s.fingerprint(c.url()); got != want {
			t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", want, got)
		}
		if left, err := filepath.Glob(s.path("spool", "*", "*.spool")); err != nil || len(left) > 0 {
			t.Errorf("a drained spool keeps %v (%v)", left, err)
		}
	})
}

// A store that is out for long fills the spool; that shows, commits that wait
// for it hang, and all goes on without loss when the store is back.
func TestAFullSpoolWaits(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[len(majors())-1])
	s.exec(schema...)
	st := s.stream(s.spoolArgs("--spool-limit", "16MiB")...)
	s.must(append([]string{"backup"}, s.source()...)...)
	w := s.workload(1)
	s.advances(w, 10)
	s.storeAway()
	s.exec(`create table bulk as select i, md5(i::text) as a from generate_series(1, 400000) i`) // more than 16 MiB of log
	st.waitFor("spool-full")
	s.storeBack()
	st.waitFor("over: spool-full")
	s.advances(w, 20)
	w.stop()
	s.archived()
	want := s.fingerprint(s.server.AdminURL())
	st.signal(syscall.SIGTERM)
	st.wait()
	s.logEnd()
	s.must("restore", databaseName, "--to", s.path("copy"))
	c := s.boot(s.path("copy"))
	defer c.stop()
	if got := s.fingerprint(c.url()); got != want {
		t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", want, got)
	}
}

// A spool in memory is refused, and so is one without a directory.
func TestSpoolsThatAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[0])
	memory, err := os.MkdirTemp("/dev/shm", "hf-spool-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	if err := os.Chmod(memory, 0o777); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"--durability", "spool", "--spool", filepath.Join(memory, "spool")}, exitFailed, "in memory"},
		{[]string{"--durability", "spool"}, exitUsage, "spool.dir"},
		{[]string{"--durability", "hope"}, exitUsage, "want store or spool"},
	} {
		o := s.run(append(append([]string{"stream"}, s.source()...), c.args...)...)
		if o.code != c.code || !strings.Contains(o.all(), c.text) {
			t.Errorf("%v: exit %d, want %d with %q\n%s", c.args, o.code, c.code, c.text, o.all())
		}
	}
}

// One log, one writer: a second stream waits for the first and takes over when
// it is killed; one that is taken over stops; a one-shot backup relies on the
// writer there is.
func TestOneWriter(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[0])
	s.exec(schema...)
	first := s.stream("--flush-every", "300ms")
	second := s.start(append(append([]string{"stream"}, s.source()...), "--flush-every", "300ms")...)
	second.waitFor("waiting: ")
	if !strings.Contains(second.out.String(), "its log is written by another holdfast") {
		t.Errorf("the second says\n%s", second.out)
	}
	var doc struct {
		OwnLog bool `json:"own_log"`
	}
	s.mustJSON(&doc, append([]string{"backup"}, s.source()...)...)
	if doc.OwnLog {
		t.Error("the backup streamed its own log beside a live writer")
	}
	first.signal(syscall.SIGKILL)
	first.wait()
	second.waitFor("streaming from")
	third := s.start(append(append([]string{"stream"}, s.source()...), "--flush-every", "300ms", "--takeover")...)
	if code := second.wait(); code != exitFailed || !strings.Contains(second.out.String(), "followed by epoch") {
		t.Errorf("the one that was taken over: exit %d\n%s", code, second.out)
	}
	third.waitFor("streaming from")
	s.archived()
	third.signal(syscall.SIGTERM)
	if code := third.wait(); code != 0 {
		t.Errorf("exit %d\n%s", code, third.out)
	}
	s.logEnd()
	s.mustJSON(&doc, append([]string{"backup"}, s.source()...)...)
	if !doc.OwnLog {
		t.Error("the backup relied on a writer that has released its lease")
	}
}

// Two copies restored from one backup may both promote to the same timeline
// number, with the same history. Whoever archives it first has it; the other
// one's log is never taken for it.
func TestTwoCopiesOnOneTimeline(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		s.must(append([]string{"backup"}, s.source()...)...)
		if err := s.server.Kill9(s.ctx); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"one", "two"} {
			s.must("restore", databaseName, "--to", s.path(name))
		}
		one := s.boot(s.path("one"))
		s.query(one.url(), `create table whose as select 'one' as x`)
		st := s.start(s.streamCopy()...)
		st.waitFor("streaming from")
		s.query(one.url(), `insert into whose select 'one' from generate_series(1, 2000)`)
		s.archivedBy(one.url())
		st.signal(syscall.SIGTERM)
		st.wait()
		want := s.fingerprint(one.url())
		one.stop()

		two := s.boot(s.path("two"))
		s.query(two.url(), `create table whose as select 'two' as x from generate_series(1, 90000)`)
		o := s.run(s.streamCopy()...)
		if o.code != exitFailed || !strings.Contains(o.all(), "differs from the archive") {
			t.Errorf("the second copy's stream: exit %d\n%s", o.code, o.all())
		}
		b := s.run(append([]string{"backup"}, s.streamCopy()[1:]...)...)
		if b.code == 0 {
			t.Errorf("a backup of the second copy was committed over the first one's log:\n%s", b.all())
		}
		two.stop()
		s.must("restore", databaseName, "--to", s.path("again"))
		again := s.boot(s.path("again"))
		defer again.stop()
		if got := s.fingerprint(again.url()); got != want {
			t.Errorf("the archive is not the first copy's\nwant:\n%sgot:\n%s", want, got)
		}
	})
}

// A cloned data directory goes on writing on the same timeline while the
// original streams: its stream waits for the original's lease, its backup is
// refused because the archive's log is not its own, and after the original has
// ended its log is still never taken for the original's.
func TestACloneBesideTheOriginal(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		if err := s.server.StopFast(s.ctx); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("cp", "-a", s.server.DataDir(), s.path("clone")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := s.host.Own(s.ctx, s.path("clone")); err != nil {
			t.Fatal(err)
		}
		if err := s.server.Restart(s.ctx); err != nil {
			t.Fatal(err)
		}
		st := s.stream("--flush-every", "300ms")
		s.must(append([]string{"backup"}, s.source()...)...)
		w := s.workload(1)
		s.advances(w, 50)

		clone := s.tryBoot(s.path("clone"))
		defer clone.stop()
		s.query(clone.url(), "create table clone as select i, md5(i::text) from generate_series(1, 400000) i")
		second := s.start(s.streamCopy()...)
		second.waitFor("its log is written by another holdfast")
		second.signal(syscall.SIGTERM)
		second.wait()
		o := s.run(append([]string{"backup"}, s.streamCopy()[1:]...)...)
		if o.code != exitFailed || !strings.Contains(o.all(), "the server's log differs from the archive's") {
			t.Errorf("a backup of the clone: exit %d\n%s", o.code, o.all())
		}
		s.advances(w, 20) // the original was not disturbed
		w.stop()
		s.archived()
		want := s.fingerprint(s.server.AdminURL())
		st.signal(syscall.SIGTERM)
		st.wait()
		o = s.run(s.streamCopy()...)
		if o.code != exitFailed || !strings.Contains(o.all(), "the server's log differs from the archive's") {
			t.Errorf("a stream of the clone: exit %d\n%s", o.code, o.all())
		}
		s.shows("fork", time.Now())
		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.bootOn(s.path("copy"), s.path("copy"))
		defer c.stop()
		if err := c.log.wait(s.ctx, "archive recovery complete"); err != nil {
			t.Fatalf("%v\n%s", err, c.log)
		}
		if got := s.fingerprint(c.url()); got != want {
			t.Errorf("the archive is not the original's\nwant:\n%sgot:\n%s", want, got)
		}
	})
}

// streamCopy are the arguments that stream whatever copy is booted.
func (s *site) streamCopy() []string {
	u := url.URL{Scheme: "postgres", User: url.User("holdfast"), Path: "/postgres", RawQuery: url.Values{"host": {s.host.Dir()}}.Encode()}
	return []string{"stream", u.String(), "--name", databaseName, "--password-file", s.path("pg.pass")}
}

// archivedBy waits until all that a server has written is in the store.
func (s *site) archivedBy(dsn string) {
	s.t.Helper()
	var end string
	s.query(dsn, `select pg_current_wal_lsn()::text`, &end)
	deadline := time.Now().Add(time.Minute)
	for ok := false; !ok; time.Sleep(100 * time.Millisecond) {
		s.query(dsn, `select coalesce(bool_or(restart_lsn >= '`+end+`'::pg_lsn), false) from pg_replication_slots where slot_name like 'holdfast%'`, &ok)
		if time.Now().After(deadline) {
			s.t.Fatalf("not acknowledged through %s within a minute", end)
		}
	}
}
