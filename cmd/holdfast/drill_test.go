package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// drillDoc is what these tests read of a drill's record.
type drillDoc struct {
	Verdict string   `json:"verdict"`
	Reasons []string `json:"reasons"`
	Phases  []struct {
		Name string `json:"name"`
	} `json:"phases"`
	Checks []struct {
		ID      string `json:"id"`
		Tier    string `json:"tier"`
		Verdict string `json:"verdict"`
	} `json:"checks"`
	RPO struct {
		Measured bool      `json:"measured"`
		T        time.Time `json:"t"`
		Min      int64     `json:"min_ms"`
		Max      int64     `json:"max_ms"`
	} `json:"rpo"`
	RTO struct {
		Reached bool `json:"reached"`
	} `json:"rto"`
	Teardown struct {
		Removed bool `json:"removed"`
	} `json:"teardown"`
}

// drill runs one and returns its exit code and record.
func (s *site) drill(args ...string) (int, drillDoc) {
	s.t.Helper()
	o := s.run(append([]string{"drill", databaseName, "--provider", "process", "--output", "json", "--work-dir", s.path()}, args...)...)
	var d drillDoc
	if err := json.Unmarshal([]byte(o.stdout), &d); err != nil {
		s.t.Fatalf("drill %v: exit %d, no record: %v\n%s", args, o.code, err, o.all())
	}
	if left, err := filepath.Glob(s.path("hf-*")); err != nil || len(left) > 0 {
		s.t.Errorf("drill %v left %v (%v)", args, left, err)
	}
	return o.code, d
}

// drilled is a site with a base, log beyond it, and a source that was killed.
func drilled(t *testing.T, major string) (s *site, killed, acked time.Time) {
	t.Helper()
	s = newSite(t, major)
	s.env = append(s.env, "HOLDFAST_POSTGRES_BIN_"+major+"="+s.server.Describe().Binaries)
	s.exec(schema...)
	st := s.stream("--flush-every", "500ms", "--heartbeat-every", "200ms")
	s.must(append([]string{"backup"}, s.source()...)...)
	w := s.workload(2)
	time.Sleep(3 * time.Second)
	s.query(s.server.AdminURL(), `select max(at), clock_timestamp() from ledger`, &acked, &killed)
	if err := s.server.Kill9(s.ctx); err != nil {
		t.Fatal(err)
	}
	w.stop()
	st.waitFor("connection lost")
	st.signal(syscall.SIGINT)
	st.wait()
	return s, killed, acked
}

// A drill after the source was killed: it passes on data, its RPO interval is
// narrow, random moments are exact, and every kind of damage turns it red.
func TestDrill(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s, killed, _ := drilled(t, major)
		code, d := s.drill("--check", "select count(*) = 200 from accounts", "--check", "select sum(balance) = 200000 from accounts")
		if code != exitDone || d.Verdict != "pass" || !d.RTO.Reached || !d.Teardown.Removed {
			t.Fatalf("exit %d: %+v", code, d)
		}
		passed := map[string]bool{}
		for _, c := range d.Checks {
			if c.Verdict == "fail" {
				t.Errorf("check %s failed", c.ID)
			}
			passed[c.Tier] = passed[c.Tier] || c.Verdict == "pass"
		}
		for _, tier := range []string{"heartbeat", "read", "integrity", "user"} {
			if !passed[tier] {
				t.Errorf("no %s check passed: %+v", tier, d.Checks)
			}
		}
		if !d.RPO.Measured || d.RPO.Max <= 0 || d.RPO.Max > 5000 || d.RPO.Min > d.RPO.Max || d.RPO.T.Before(killed.Add(-5*time.Second)) {
			t.Errorf("RPO %+v, killed at %s", d.RPO, killed)
		}
		if i, j := slices.IndexFunc(d.Phases, named("replay")), slices.IndexFunc(d.Phases, named("teardown")); i < 0 || j < i {
			t.Errorf("phases %+v", d.Phases)
		}
		if code, d := s.drill("--target", "random"); code != exitDone {
			t.Errorf("a random moment: exit %d, %v %+v", code, d.Reasons, d.Checks)
		}
		if code, d := s.drill("--check", "select count(*) = 199 from accounts"); code != exitFailed || d.Verdict != "fail" {
			t.Errorf("a false check: exit %d, %s %v", code, d.Verdict, d.Reasons)
		}
		if code, d := s.drill("--work-dir", s.path("nowhere")); code != exitUnverifiable {
			t.Errorf("no work directory: exit %d, %s %v", code, d.Verdict, d.Reasons)
		}
		var st struct {
			Databases []struct {
				LastDrill struct {
					Verdict string `json:"verdict"`
				} `json:"last_drill"`
			} `json:"databases"`
		}
		s.mustJSON(&st, "status", databaseName)
		if len(st.Databases) != 1 || st.Databases[0].LastDrill.Verdict == "" {
			t.Errorf("status does not show the drill: %+v", st)
		}
		s.negativeControls()
	})
}

func named(name string) func(struct {
	Name string `json:"name"`
}) bool {
	return func(p struct {
		Name string `json:"name"`
	}) bool {
		return p.Name == name
	}
}

// negativeControls damages a copy of the repository in several ways; each
// must be red, and the intact one green afterwards.
func (s *site) negativeControls() {
	s.t.Helper()
	intact := s.repo
	for name, damage := range map[string]func(root string){
		"flipped byte in a pack": func(root string) { flip(s.t, biggest(s.t, root, "/pack/")) },
		"missing pack":           func(root string) { remove(s.t, biggest(s.t, root, "/pack/")) },
		"missing segment": func(root string) {
			all := objects(s.t, root, "/log/")
			remove(s.t, all[len(all)/2])
		},
		"lost manifest": func(root string) {
			for _, m := range objects(s.t, root, "manifest.json") {
				remove(s.t, m)
			}
		},
	} {
		root := s.path("damaged-" + strings.ReplaceAll(name, " ", "-"))
		if out, err := exec.Command("cp", "-a", intact, root).CombinedOutput(); err != nil {
			s.t.Fatalf("%v: %s", err, out)
		}
		damage(root)
		code, d := s.drill("--repo", "file://"+root)
		if code != exitFailed && code != exitUnverifiable {
			s.t.Errorf("%s: exit %d, %s %v", name, code, d.Verdict, d.Reasons)
		}
		if name != "missing segment" && s.run("verify", "--repo", "file://"+root).code == exitDone && name != "lost manifest" {
			s.t.Errorf("%s: verify finds nothing", name)
		}
	}
	if code, d := s.drill(); code != exitDone {
		s.t.Errorf("the intact repository: exit %d, %v", code, d.Reasons)
	}
}

// objects lists the files whose path holds part, in key order.
func objects(t *testing.T, root, part string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && strings.Contains(p, part) {
			out = append(out, p)
		}
		return err
	})
	if err != nil || len(out) == 0 {
		t.Fatalf("no %s objects in %s: %v", part, root, err)
	}
	return out
}

func biggest(t *testing.T, root, part string) string {
	t.Helper()
	best, size := "", int64(-1)
	for _, p := range objects(t, root, part) {
		if i, err := os.Stat(p); err == nil && i.Size() > size {
			best, size = p, i.Size()
		}
	}
	return best
}

func flip(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
