package main

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kills is how often each crash test kills its command.
const kills = 20

type listedDoc struct {
	Backups []struct {
		ID string `json:"id"`
	} `json:"backups"`
	Coverage []struct {
		Branch struct {
			ID string `json:"id"`
		} `json:"branch"`
		Ranges []struct {
			Start, End uint64
		} `json:"ranges"`
	} `json:"coverage"`
}

// kill -9 of backup at random moments: nothing half-committed, nothing left
// on the server, what was committed stays, and the next backup works.
func TestKillBackupAtRandomMoments(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		s.exec(`create table bulk as select i, md5(i::text) || md5((i * 7)::text) as a from generate_series(1, 300000) i`)
		w := s.workload(1)
		args := append([]string{"backup", "--full"}, s.source()...)
		began := time.Now()
		s.must(args...)
		whole := time.Since(began)
		committed := 1
		r := rand.New(rand.NewPCG(1, uint64(len(major))))
		for i := range kills {
			b := s.start(args...)
			time.Sleep(time.Duration(r.Int64N(int64(whole))))
			b.signal(syscall.SIGKILL)
			if b.wait() == 0 {
				committed++ // it was faster than the kill
			}
			var doc listedDoc
			s.mustJSON(&doc, "list", databaseName)
			switch n := len(doc.Backups); n {
			case committed:
			case committed + 1: // killed between the commit and its exit
				committed++
			default:
				t.Fatalf("kill %d: %d backups listed, %d were committed", i, n, committed)
			}
		}
		s.noSlots()
		s.must(args...)
		w.stop()
		s.must("verify", databaseName)
		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.boot(s.path("copy"))
		defer c.stop()
		s.invariants(c.url())
		var bulk int64
		s.query(c.url(), `select count(*) from bulk where a = md5(i::text) || md5((i * 7)::text)`, &bulk)
		if bulk != 300000 {
			t.Errorf("bulk has %d good rows, want 300000", bulk)
		}
	})
}

// noSlots waits until the server has noticed that the killed ones are gone.
func (s *site) noSlots() {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		var n int
		s.query(s.server.AdminURL(), `select count(*) from pg_replication_slots`, &n)
		if n == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%d slots are left on the server", n)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// streamKills is how often stream is killed, on each version and with each
// durability: 200 times together.
const streamKills = 50

// kill -9 of stream at random moments under load: at each one, what the server
// may forget is in the store; in the end the log has no hole and the copy
// holds every acknowledged commit. With a spool the server waits for it, and
// dies with the last kill.
func TestKillStreamAtRandomMoments(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		for _, durability := range []string{"store", "spool"} {
			t.Run(durability, func(t *testing.T) {
				t.Parallel()
				killStreams(t, major, durability == "spool")
			})
		}
	})
}

func killStreams(t *testing.T, major string, spooled bool) {
	s := newSite(t, major)
	s.exec(schema...)
	args := []string{"--flush-every", "300ms"}
	if spooled {
		args = s.spoolArgs()
	}
	st := s.stream(args...)
	s.must(append([]string{"backup"}, s.source()...)...)
	if spooled {
		s.synchronous()
	}
	w := s.workload(2)
	r := rand.New(rand.NewPCG(2, uint64(len(major))))
	for i := range streamKills {
		time.Sleep(time.Duration(r.Int64N(int64(500 * time.Millisecond))))
		st.signal(syscall.SIGKILL)
		st.wait()
		var told string
		s.query(s.server.AdminURL(), `select restart_lsn::text from pg_replication_slots where slot_name = 'holdfast_`+databaseName+`'`, &told)
		if end := s.logEnd(); end < parseLSN(t, told) {
			t.Fatalf("kill %d: the server was told that %s is durable, the store ends at %X", i, told, end)
		}
		st = s.stream(args...)
	}
	var want string
	if spooled {
		s.advances(w, 5)
		st.signal(syscall.SIGKILL)
		if err := s.server.Kill9(s.ctx); err != nil {
			t.Fatal(err)
		}
		st.wait()
		w.stop()
		s.run(append(append([]string{"stream"}, s.source()...), args...)...) // drains, and finds nobody
	} else {
		w.stop()
		s.exec(`create table last_words as select 42 as x`)
		s.archived()
		st.signal(syscall.SIGTERM)
		st.wait()
		want = s.fingerprint(s.server.AdminURL())
		if err := s.server.Kill9(s.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if o := s.must("verify", databaseName); strings.Contains(o.stdout, "missing from") {
		t.Errorf("the log has a hole:\n%s", o.stdout)
	}
	s.must("restore", databaseName, "--to", s.path("copy"))
	c := s.boot(s.path("copy"))
	defer c.stop()
	s.invariants(c.url())
	s.holdsAll(c.url(), w)
	if got := s.fingerprint(c.url()); !spooled && got != want {
		t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", want, got)
	}
}

// logEnd is the end of the newest contiguous log in the store.
func (s *site) logEnd() uint64 {
	s.t.Helper()
	var doc listedDoc
	s.mustJSON(&doc, "list", databaseName)
	var end uint64
	for _, c := range doc.Coverage {
		if len(c.Ranges) != 1 {
			s.t.Fatalf("branch %s is held in %d pieces: %v", c.Branch.ID, len(c.Ranges), c.Ranges)
		}
		end = max(end, c.Ranges[0].End)
	}
	return end
}

func parseLSN(t *testing.T, s string) uint64 {
	t.Helper()
	hi, lo, ok := strings.Cut(s, "/")
	h, err1 := strconv.ParseUint(hi, 16, 32)
	l, err2 := strconv.ParseUint(lo, 16, 32)
	if !ok || err1 != nil || err2 != nil {
		t.Fatalf("not an LSN: %q", s)
	}
	return h<<32 | l
}

// Ctrl-C in the middle of a backup: it ends soon, says so, and leaves nothing.
func TestInterruptedBackupLeavesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[0])
	s.exec(schema...)
	s.exec(`create table bulk as select i, md5(i::text) || md5((i * 7)::text) as a from generate_series(1, 600000) i`)
	b := s.start(append([]string{"backup", "-v"}, s.source()...)...)
	time.Sleep(1500 * time.Millisecond)
	b.signal(syscall.SIGINT)
	if code := b.wait(); code != exitFailed {
		t.Fatalf("exit %d after Ctrl-C\n%s", code, b.out)
	}
	if !strings.Contains(b.out.String(), "interrupted; nothing was half-committed") {
		t.Errorf("it does not say what is safe:\n%s", b.out)
	}
	var doc listedDoc
	s.mustJSON(&doc, "list", databaseName)
	if len(doc.Backups) != 0 {
		t.Errorf("%d backups are listed after an interrupted first one", len(doc.Backups))
	}
	s.noSlots()
}
