package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/verify"
)

// drill runs one and returns its exit code and record. Whatever its end, it
// must leave nothing.
func (s *site) drill(args ...string) (int, verify.Record) {
	s.t.Helper()
	o := s.run(append([]string{"drill", databaseName, "--provider", "process", "--output", "json", "--work-dir", s.path()}, args...)...)
	var d verify.Record
	if err := json.Unmarshal([]byte(o.stdout), &d); err != nil {
		s.t.Fatalf("drill %v: exit %d, no record: %v\n%s", args, o.code, err, o.all())
	}
	if o.code != d.ExitCode() || d.Teardown.Needed && !d.Teardown.Removed {
		s.t.Errorf("drill %v: exit %d, verdict %s, teardown %+v", args, o.code, d.Verdict, d.Teardown)
	}
	s.nothingLeft()
	return o.code, d
}

// nothingLeft looks for copies in the work directory, on disk and running.
func (s *site) nothingLeft() {
	s.t.Helper()
	if left, err := filepath.Glob(s.path("hf-*")); err != nil || len(left) > 0 {
		s.t.Errorf("a drill left %v (%v)", left, err)
	}
	if pids := s.copies(); len(pids) > 0 {
		s.t.Errorf("processes of a drill are left: %v", pids)
	}
}

// copies are the processes that live in a sandbox in the work directory; the
// link of a directory that was deleted still tells where it was.
func (s *site) copies() (pids []string) {
	s.t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range links {
		if dir, err := os.Readlink(l); err == nil && strings.HasPrefix(dir, s.path("hf-")) {
			pids = append(pids, filepath.Base(filepath.Dir(l)))
		}
	}
	return pids
}

// configured writes a configuration that names the source and an objective.
func (s *site) configured(name, rpo string) []string {
	s.t.Helper()
	return []string{"--config", s.file(name, fmt.Sprintf(`
databases:
  - name: %s
    url: %s
    password_file: %s
    objectives: {rpo: %s}
    drill: {checks: [{name: accounts, sql: "select count(*) from accounts", expect: "200"}]}`,
		databaseName, s.url, s.path("pg.pass"), rpo))}
}

// Drills of a source at work, of its archive after it was killed, and of it
// again after its restart, which then tells the truth about what was lost.
func TestDrill(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream("--flush-every", "500ms", "--heartbeat-every", "200ms")
		s.must(append([]string{"backup"}, s.source()...)...)
		w := s.workload(2)
		time.Sleep(time.Second)
		s.drillOfTheLiving()
		m := s.moment()
		time.Sleep(time.Second) // so that heartbeats behind it are noted
		s.archived()
		s.killAtRandom(st, w)

		dead := s.drillOfTheDead()
		s.drillsOfTheArchive(m)
		// For the time it takes, one version each.
		if major == majors()[0] {
			s.drillsThatFail()
		}
		if major == majors()[len(majors())-1] {
			s.damaged()
		}
		s.interruptedDrills()
		s.drillOfTheRestarted(dead)
	})
}

// drillOfTheLiving is the full measure of a good drill.
func (s *site) drillOfTheLiving() {
	s.t.Helper()
	code, d := s.drill(append(s.configured("live.yaml", "1h"), "--check", "select sum(balance) = 200000 from accounts")...)
	if code != exitDone || d.Verdict != verify.Pass || len(d.Reasons) > 0 || !d.Source.Reachable || !d.RTO.Reached || d.RTO.Wall < d.RTO.Ready {
		s.t.Fatalf("a live source: exit %d, %s %q, source %+v, RTO %+v", code, d.Verdict, d.Reasons, d.Source, d.RTO)
	}
	var names []string
	for _, p := range d.Phases {
		names = append(names, p.Name)
		if p.Result != "done" {
			s.t.Errorf("phase %+v", p)
		}
	}
	want := "open observe plan expect provision fetch boot replay ready check check/heartbeat check/read check/integrity check/user teardown"
	if got := strings.Join(names, " "); got != want {
		s.t.Errorf("phases %s", got)
	}
	passed := map[string]int{}
	for _, c := range d.Checks {
		if c.Verdict == "pass" {
			passed[c.Tier]++
		}
	}
	if passed["heartbeat"] < 2 || passed["read"] != 1 || passed["integrity"] == 0 || passed["user"] != 2 {
		s.t.Errorf("checks passed by tier %v: %+v", passed, d.Checks)
	}
	if d.Read.Rows < 20200 || d.Replayed.Bytes == 0 || d.Sandbox.Isolation != "none" {
		s.t.Errorf("read %+v, log %+v, sandbox %+v", d.Read, d.Replayed, d.Sandbox)
	}
	if !d.RPO.Measured || d.RPO.Basis != "heartbeat" || d.RPO.Min > d.RPO.Max || d.RPO.LastRestored == nil || d.Objective.RPOVerdict != "met" {
		s.t.Fatalf("RPO %+v, objective %+v", d.RPO, d.Objective)
	}
	if at := s.beats()[d.RPO.LastRestored.N]; !at.Equal(d.RPO.LastRestored.At) {
		s.t.Errorf("restored beat %+v, the source wrote it at %s", d.RPO.LastRestored, at)
	}
	var doc struct {
		Databases []struct {
			LastDrill struct {
				Verdict  string    `json:"verdict"`
				Finished time.Time `json:"finished"`
			} `json:"last_drill"`
		} `json:"databases"`
	}
	s.mustJSON(&doc, "status", databaseName)
	if len(doc.Databases) != 1 || doc.Databases[0].LastDrill.Verdict != "pass" || !doc.Databases[0].LastDrill.Finished.Equal(d.Finished) {
		s.t.Errorf("status shows %+v, the drill ended at %s", doc, d.Finished)
	}
}

// beats is the source's own ring.
func (s *site) beats() map[int64]time.Time {
	s.t.Helper()
	var text string
	s.query(databaseOf(s.t, s.server.AdminURL(), "holdfast"), `select json_object_agg(n, to_char(at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text from holdfast.beat`, &text)
	out := map[int64]time.Time{}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		s.t.Fatalf("%v: %s", err, text)
	}
	return out
}

func databaseOf(t *testing.T, dsn, database string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + database
	return u.String()
}

// moment is the time at which writer 0 was about to commit its nth row: the
// rows before it had been acknowledged.
type moment struct {
	n   int64
	at  time.Time
	xid string // of the transaction that wrote row n
}

func (s *site) moment() (m moment) {
	s.t.Helper()
	s.query(s.server.AdminURL(), `select n, at, xmin::text from ledger where writer = 0 order by n desc limit 1`, &m.n, &m.at, &m.xid)
	return m
}

// killAtRandom ends the stream, and a little later the source: what was
// committed between the two is lost, and only the source knows.
func (s *site) killAtRandom(st *background, w *workload) {
	s.t.Helper()
	first, second := rand.N(time.Second), 300*time.Millisecond+rand.N(time.Second)
	s.t.Logf("SIGKILL to the stream after %s, to the source %s later", first, second)
	time.Sleep(first)
	st.signal(syscall.SIGKILL)
	st.wait()
	time.Sleep(second)
	// The stream writes the beats, so one killed just after a flush loses
	// none. This is the beat of one that got no further than its commit.
	s.query(databaseOf(s.t, s.server.AdminURL(), "holdfast"), `insert into holdfast.beat (slot, n, at)
		select (max(n) + 1) % 4096, max(n) + 1, clock_timestamp() from holdfast.beat`)
	if err := s.server.Kill9(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	w.stop()
}

func (s *site) drillOfTheDead() verify.Record {
	s.t.Helper()
	after := time.Now()
	code, d := s.drill("--check", "select count(*) = 200 from accounts", "--check", "select sum(balance) = 200000 from accounts")
	if code != exitDone || !d.RPO.Measured || d.RPO.Basis != "heartbeat" || d.RPO.LastRestored == nil || d.RPO.T.After(after) || d.Source.Reachable {
		s.t.Fatalf("after SIGKILL: exit %d, %q, RPO %+v, source %+v", code, d.Reasons, d.RPO, d.Source)
	}
	return d
}

// drillsOfTheArchive need no source.
func (s *site) drillsOfTheArchive(m moment) {
	s.t.Helper()
	at := m.at.Format(time.RFC3339Nano)
	code, d := s.drill("--target", at,
		"--check", fmt.Sprintf("select count(*) = %d from ledger where writer = 0", m.n-1),
		"--check", fmt.Sprintf("select coalesce(max(n), 0) = %d from ledger where writer = 0", m.n-1))
	if code != exitDone || !d.Target.Time.Equal(m.at) || d.Target.ReachedTime.After(m.at) || !bothSides(d) || d.RPO.Measured {
		s.t.Errorf("the moment before row %d, %s: exit %d, %q, target %+v, RPO %+v, %+v", m.n, at, code, d.Reasons, d.Target, d.RPO, d.Checks)
	}
	code, d = s.drill("--before", m.xid, "--check", fmt.Sprintf("select max(n) = %d from ledger where writer = 0", m.n-1))
	// By position the first beat behind the stop proves nothing, and there may
	// be no second one before the end; the rows do.
	if code != exitDone || d.Target.Mode != verify.ModePoint || d.Target.Stop == "" {
		s.t.Errorf("just before transaction %s: exit %d, %q, target %+v, %+v", m.xid, code, d.Reasons, d.Target, d.Checks)
	}
	if code, d := s.drill("--target", "random"); code != exitDone || d.Target.Time.IsZero() || d.Target.ReachedTime.After(d.Target.Time) || !bothSides(d) {
		s.t.Errorf("a random moment: exit %d, %q, target %+v, %+v", code, d.Reasons, d.Target, d.Checks)
	}
}

// drillsThatFail for other reasons than damage.
func (s *site) drillsThatFail() {
	s.t.Helper()
	const lie = "select count(*) = 199 from accounts"
	if code, d := s.drill("--check", lie); code != exitFailed || len(d.Reasons) != 1 || !strings.Contains(d.Reasons[0], lie) || d.RTO.Reached {
		s.t.Errorf("a false check: exit %d, %q, RTO %+v", code, d.Reasons, d.RTO)
	}
	if code, d := s.drill("--work-dir", s.path("nowhere")); code != exitUnverifiable || len(d.Hints) == 0 {
		s.t.Errorf("no work directory: exit %d, %q, hints %q", code, d.Reasons, d.Hints)
	}
	s.env = append(s.env, "HOLDFAST_POSTGRES_BIN_"+s.server.Describe().Version[:2]+"="+s.path("nowhere"), "DOCKER_HOST=unix://"+s.path("nowhere"))
	for _, p := range []string{"process", "docker"} {
		if code, d := s.drill("--provider", p); code != exitUnverifiable || !strings.Contains(strings.Join(d.Reasons, ""), "nowhere") {
			s.t.Errorf("no %s: exit %d, %q", p, code, d.Reasons)
		}
	}
	s.env = s.env[:len(s.env)-2]
}

// bothSides says whether beats were found present before and absent after.
func bothSides(d verify.Record) bool {
	passed := 0
	for _, c := range d.Checks {
		if c.Verdict == "pass" && (c.ID == "heartbeat-present" || c.ID == "heartbeat-absent") {
			passed++
		}
	}
	return passed == 2
}

// interruptedDrills end soon, leave nothing and prove nothing; what one that
// was killed leaves, the next one removes.
func (s *site) interruptedDrills() {
	s.t.Helper()
	for _, c := range []struct {
		sig   syscall.Signal
		after string // phase that must have ended
	}{{syscall.SIGINT, "provision"}, {syscall.SIGTERM, "fetch"}, {syscall.SIGHUP, "boot"}, {syscall.SIGKILL, "boot"}} {
		b := s.start("drill", databaseName, "--provider", "process", "--work-dir", s.path())
		b.waitFor("✓ " + c.after)
		b.signal(c.sig)
		code := b.wait()
		if c.sig == syscall.SIGKILL {
			s.gone()
			continue
		}
		if code != exitUnverifiable || !strings.Contains(b.out.String(), "cancelled during ") || !strings.Contains(b.out.String(), "✓ teardown") {
			s.t.Errorf("%s after %s: exit %d\n%s", c.sig, c.after, code, b.out)
		}
		s.nothingLeft()
	}
	if left, err := filepath.Glob(s.path("hf-*")); err != nil || len(left) != 1 {
		s.t.Errorf("a killed drill left %v (%v)", left, err)
	}
}

// gone waits until the copy of a killed drill has ended, by itself.
func (s *site) gone() {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for len(s.copies()) > 0 {
		if time.Now().After(deadline) {
			s.t.Fatal("the copy of a killed drill lives on")
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func isLeftovers(f repo.Finding) bool { return f.Code == "leftovers" && f.Severity == "info" }

// drillOfTheRestarted holds what the dead source's drill claimed, and what
// one of the living claims now, against the source's own rows.
func (s *site) drillOfTheRestarted(dead verify.Record) {
	s.t.Helper()
	if err := s.server.Restart(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	code, now := s.drill(s.configured("again.yaml", "1h")...)
	if code != exitDone || now.Objective.RPOVerdict != "met" || !slices.ContainsFunc(now.Findings, isLeftovers) {
		s.t.Errorf("after the restart: exit %d, %q, objective %+v, findings %+v", code, now.Reasons, now.Objective, now.Findings)
	}
	truth := s.beats()
	var last int64
	for n := range truth {
		last = max(last, n)
	}
	if now.RPO.FirstAbsent == nil || now.RPO.Min <= 0 || now.RPO.LastInserted == nil || now.RPO.LastInserted.N != last || now.RPO.LostBeats != last-now.RPO.LastRestored.N {
		s.t.Errorf("the source's last beat is %d: %+v", last, now.RPO)
	}

	s.must("restore", databaseName, "--to", s.path("truth"))
	c := s.boot(s.path("truth"))
	defer c.stop()
	var kept int64
	s.query(databaseOf(s.t, c.url(), "holdfast"), `select max(n) from holdfast.beat`, &kept)
	for name, d := range map[string]verify.Record{"dead": dead, "restarted": now} {
		s.holdsTruth(name, d, truth, kept)
		s.lostNothingBefore(name, d, c)
	}
	code, d := s.drill(append(s.configured("strict.yaml", "1ms"), "--repo", "file://"+s.shortened())...)
	if code != exitFailed || d.Objective.RPOVerdict != "missed" || d.RPO.LastRestored.N >= kept || d.RPO.LostBeats <= now.RPO.LostBeats || d.RPO.Max <= now.RPO.Max {
		s.t.Errorf("without the log's last segments: exit %d, %q, RPO %+v, with them %+v", code, d.Reasons, d.RPO, now.RPO)
	}
}

// holdsTruth: the loss, from the copy's end to T, lies inside the drill's
// interval. The copy ends between its last beat and the next one, which the
// source has.
func (s *site) holdsTruth(name string, d verify.Record, truth map[int64]time.Time, kept int64) {
	s.t.Helper()
	s.t.Logf("%s: RPO %d…%d ms; beat %d restored, first absent %+v", name, d.RPO.Min, d.RPO.Max, kept, d.RPO.FirstAbsent)
	if d.RPO.LastRestored.N != kept || !d.RPO.LastRestored.At.Equal(truth[kept]) {
		s.t.Errorf("%s: last restored %+v, it is beat %d of %s", name, d.RPO.LastRestored, kept, truth[kept])
	}
	most := d.RPO.T.Sub(truth[kept])
	if claimed := time.Duration(d.RPO.Max) * time.Millisecond; claimed < most || claimed-most > time.Millisecond {
		s.t.Errorf("%s: at most %s was lost, the drill says %s", name, most, claimed)
	}
	if next, ok := truth[kept+1]; ok && time.Duration(d.RPO.Min)*time.Millisecond > max(0, d.RPO.T.Sub(next)) {
		s.t.Errorf("%s: the loss may be as little as %s, the drill says more than %d ms", name, d.RPO.T.Sub(next), d.RPO.Min)
	}
	if a := d.RPO.FirstAbsent; a != nil && !truth[a.N].Equal(a.At) {
		s.t.Errorf("%s: first absent %+v, the source has it at %s", name, a, truth[a.N])
	}
}

// lostNothingBefore: every row that was acknowledged before T − Max is in the
// copy. A writer's row had been when its next one took its time.
func (s *site) lostNothingBefore(name string, d verify.Record, c *copyServer) {
	s.t.Helper()
	since := d.RPO.T.Add(-time.Duration(d.RPO.Max) * time.Millisecond).Format(time.RFC3339Nano)
	for writer := range 2 {
		var has, acked int64
		s.query(c.url(), fmt.Sprintf(`select coalesce(max(n), 0) from ledger where writer = %d`, writer), &has)
		s.query(s.server.AdminURL(), fmt.Sprintf(`select coalesce(max(n), 1) - 1 from ledger where writer = %d and at <= '%s'`, writer, since), &acked)
		if acked < 2 || has < acked {
			s.t.Errorf("%s: writer %d had %d rows acknowledged by %s, the copy has %d", name, writer, acked, since, has)
		}
	}
}
