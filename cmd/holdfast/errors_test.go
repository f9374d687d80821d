package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused asserts a clear failure: the code, what it says, and a hint.
func refused(t *testing.T, o outcome, code int, words ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit %d, want %d\n%s", o.code, code, o.all())
	}
	for _, w := range words {
		if !strings.Contains(o.err, w) {
			t.Errorf("the error does not say %q:\n%s", w, o.err)
		}
	}
	if !strings.Contains(o.err, "hint: ") {
		t.Errorf("the error has no hint:\n%s", o.err)
	}
	if strings.Contains(o.all(), "panic") || strings.Contains(o.all(), "goroutine ") {
		t.Errorf("a crash:\n%s", o.all())
	}
}

// Bad input and broken surroundings: each a clear error, nothing damaged.
func TestErrorsAreClearAndHarmless(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[len(majors())-1])
	s.exec(schema...)
	s.must(append([]string{"backup"}, s.source()...)...)

	t.Run("wrong key", func(t *testing.T) {
		p := s.file("wrong.pass", "not the passphrase at all")
		refused(t, s.run("list", databaseName, "--passphrase-file", p), exitFailed, "no key slot opens")
	})
	t.Run("no repository", func(t *testing.T) {
		refused(t, s.run("list", databaseName, "--repo", "file://"+s.path("nowhere")), exitFailed, s.path("nowhere"))
	})
	t.Run("repository exists", func(t *testing.T) {
		refused(t, s.run("init", "--generate-passphrase-file", s.path("new.pass")), exitFailed, "already exists")
	})
	t.Run("unknown database", func(t *testing.T) {
		refused(t, s.run("restore", "nosuch", "--to", s.path("x")), exitFailed, "nosuch")
	})
	t.Run("wrong password", func(t *testing.T) {
		p := s.file("wrong.pg", "wr0ng-and-distinctive")
		o := s.run("backup", s.url, "--name", databaseName, "--password-file", p)
		refused(t, o, exitFailed, "password")
		if strings.Contains(o.all(), "wr0ng-and-distinctive") {
			t.Error("the password is in the output")
		}
	})
	t.Run("unreachable server", func(t *testing.T) {
		refused(t, s.run("backup", "postgres://holdfast@127.0.0.1:1/postgres", "--name", databaseName), exitFailed, "127.0.0.1")
	})
	t.Run("missing privilege", func(t *testing.T) {
		s.exec(`create role poor login password 'poor'`)
		url := strings.Replace(s.url, "holdfast@", "poor@", 1)
		o := s.run("backup", url, "--name", databaseName, "--password-file", s.file("poor.pass", "poor"))
		refused(t, o, exitFailed)
		if !strings.Contains(strings.ToUpper(o.err), "ALTER ROLE") {
			t.Errorf("no SQL that fixes it:\n%s", o.err)
		}
	})
	t.Run("non-empty target", func(t *testing.T) {
		dir := s.path("full")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		keep := filepath.Join(dir, "precious")
		if err := os.WriteFile(keep, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.host.Own(s.ctx, dir); err != nil {
			t.Fatal(err)
		}
		refused(t, s.run("restore", databaseName, "--to", dir), exitFailed, "empty")
		if b, err := os.ReadFile(keep); err != nil || string(b) != "mine" {
			t.Errorf("the user's file: %q, %v", b, err)
		}
	})
	t.Run("target beyond the archive", func(t *testing.T) {
		o := s.run("restore", databaseName, "--to", s.path("never"), "--target-time", time.Now().Add(time.Hour).Format(time.RFC3339))
		refused(t, o, exitFailed)
		if _, err := os.Stat(s.path("never")); err == nil {
			t.Error("something was written")
		}
	})
	t.Run("time without a zone", func(t *testing.T) {
		o := s.run("restore", databaseName, "--to", s.path("never"), "--target-time", "2026-11-22 10:00:00")
		if o.code != exitUsage {
			t.Errorf("exit %d\n%s", o.code, o.all())
		}
	})
	t.Run("unknown flag", func(t *testing.T) {
		if o := s.run("backup", "--nope"); o.code != exitUsage {
			t.Errorf("exit %d\n%s", o.code, o.all())
		}
	})
	// After all of that the repository is whole.
	s.must("verify")
	s.must("restore", databaseName, "--to", s.path("copy"))
	c := s.boot(s.path("copy"))
	defer c.stop()
	s.invariants(c.url())
}

// A full disk under the repository, then under a restore: clear, harmless,
// and over once there is room.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts small file systems: run it as root")
	}
	s := newSite(t, majors()[0])
	s.exec(schema...)
	s.exec(`create table bulk as select i, md5(i::text) || md5((i * 7)::text) as a from generate_series(1, 500000) i`)
	s.must(append([]string{"backup"}, s.source()...)...)

	small := s.mount("small", "14m") // room for init and its probe
	env := s.env
	s.env = []string{"HOLDFAST_REPO=file://" + filepath.Join(small, "repo"), env[1]}
	s.must("init", "--recipient", s.publicKey)
	refused(t, s.run(append([]string{"backup"}, s.source()...)...), exitFailed, "no space left")
	var doc listedDoc
	s.mustJSON(&doc, "list", databaseName)
	if len(doc.Backups) != 0 {
		t.Error("a backup is listed that did not fit")
	}
	s.must("verify")
	if out, err := exec.Command("mount", "-o", "remount,size=400m", small).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s.must(append([]string{"backup"}, s.source()...)...)
	s.must("verify")

	s.env = env
	target := s.mount("target", "8m")
	refused(t, s.run("restore", databaseName, "--to", filepath.Join(target, "data")), exitFailed, "free")
	s.noSlots()
}

// mount makes a small file system that the holdfast user owns.
func (s *site) mount(name, size string) string {
	s.t.Helper()
	dir := s.path(name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		s.t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		s.t.Fatalf("mount: %v: %s", err, out)
	}
	s.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			s.t.Errorf("umount: %v: %s", err, out)
		}
	})
	if err := s.host.Own(s.ctx, dir); err != nil {
		s.t.Fatal(err)
	}
	return dir
}
