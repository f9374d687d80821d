package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// damaged drills copies of the repository, each damaged in one way: none may
// be green. The intact one must be afterwards: see drillOfTheRestarted.
func (s *site) damaged() {
	s.t.Helper()
	for _, c := range []struct {
		name   string
		damage func(root string)
		code   int
		says   string
		scrub  int // exit code of verify
	}{
		{"flipped byte in a pack", func(root string) { flip(s.t, biggest(s.t, root, "/pack/")) }, exitFailed, "damaged object", exitFailed},
		{"missing pack", func(root string) { remove(s.t, biggest(s.t, root, "/pack/")) }, exitFailed, "not found", exitFailed},
		{"flipped byte in a segment", func(root string) { flip(s.t, middle(objects(s.t, root, "/log/"))) }, exitFailed, "damaged object", exitFailed},
		{"missing segment", func(root string) { remove(s.t, middle(objects(s.t, root, "/log/"))) }, exitFailed, "log-continuity", exitDone},
		{"lost manifest", func(root string) { removeAll(s.t, objects(s.t, root, "manifest.json")) }, exitUnverifiable, "no base backup", exitDone},
	} {
		root := s.copyRepo(c.name)
		c.damage(root)
		code, d := s.drill("--repo", "file://"+root)
		if code != c.code || !strings.Contains(strings.Join(d.Reasons, "\n"), c.says) || d.RTO.Reached {
			s.t.Errorf("%s: exit %d, %q, RTO %+v", c.name, code, d.Reasons, d.RTO)
		}
		if o := s.run("verify", "--repo", "file://"+root); o.code != c.scrub {
			s.t.Errorf("%s: verify ended with %d\n%s", c.name, o.code, o.all())
		}
	}
}

// shortened is a copy of the repository without the end of its log.
func (s *site) shortened() string {
	s.t.Helper()
	root := s.copyRepo("shortened")
	all := objects(s.t, root, "/log/")
	removeAll(s.t, all[len(all)-3:])
	return root
}

func (s *site) copyRepo(name string) string {
	s.t.Helper()
	root := s.path("damaged-" + strings.ReplaceAll(name, " ", "-"))
	if out, err := exec.Command("cp", "-a", s.repo, root).CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return root
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

func middle(paths []string) string { return paths[len(paths)/2] }

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

func removeAll(t *testing.T, paths []string) {
	t.Helper()
	for _, p := range paths {
		remove(t, p)
	}
}
