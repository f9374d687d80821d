package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers"
)

// readmeBlock returns the commands of one marked block of the README.
func readmeBlock(t *testing.T, mark string) []string {
	t.Helper()
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(raw), "<!-- tested: "+mark+" -->\n```sh\n")
	if !ok {
		t.Fatalf("README has no block marked %q", mark)
	}
	block, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatalf("the block %q does not end", mark)
	}
	return strings.Split(strings.TrimSpace(block), "\n")
}

// shell runs one line of the README with this test's places for the README's.
func (s *site) shell(line string, out *transcript) testcontainers.Process {
	s.t.Helper()
	p, err := s.host.Start(s.ctx, testcontainers.Command{
		Path: "/bin/sh", Args: []string{"-c", "exec " + s.here(line)},
		Env:    append(s.env, "PATH="+filepath.Dir(s.bin)+":"+s.server.Describe().Binaries+":/usr/bin:/bin", "PGPASSFILE="+s.path("pgpass")),
		Stdout: out, Stderr: out,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

func (s *site) here(line string) string {
	r := strings.NewReplacer(
		"file:///var/lib/holdfast", "file://"+s.path("readme-repo"),
		"holdfast.pass", s.path("readme.pass"),
		"postgres://holdfast@localhost/postgres", "'"+s.url+"'",
		"/srv/restored", s.path("readme-copy"),
	)
	return r.Replace(line)
}

func (s *site) shellMust(line string) string {
	s.t.Helper()
	out := &transcript{changed: make(chan struct{})}
	if err := s.shell(line, out).Wait(s.ctx); err != nil {
		s.t.Fatalf("README: %s\n%v\n%s", s.here(line), err, out)
	}
	return out.String()
}

// What the README tells a new user to type works as it stands there: three
// commands from nothing to a proven backup, then stream, then restore.
func TestReadmeCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, majors()[len(majors())-1])
	s.exec(schema...)
	s.exec(`create database orders_app`)
	pass := bytes.Join([][]byte{[]byte("*"), []byte("*"), []byte("*"), []byte("holdfast"), []byte(s.server.Password())}, []byte(":"))
	s.file("pgpass", string(pass))
	s.env = nil

	first := readmeBlock(t, "first-backup")
	if len(first) != 3 {
		t.Fatalf("the README promises three commands and shows %d", len(first))
	}
	var out string
	for _, line := range first {
		out = s.shellMust(line)
	}
	if !strings.Contains(strings.ToLower(out), "pass") || !strings.Contains(out, "RTO") {
		t.Errorf("the drill's verdict is not in its output:\n%s", out)
	}

	s.env = []string{"HOLDFAST_REPO=file://" + s.path("readme-repo"), "HOLDFAST_PASSPHRASE_FILE=" + s.path("readme.pass")}
	live := &transcript{changed: make(chan struct{})}
	p := s.shell(readmeBlock(t, "stream")[0], live)
	if err := live.wait(s.ctx, "streaming from"); err != nil {
		t.Fatalf("%v\n%s", err, live)
	}
	var moment time.Time
	s.query(s.server.AdminURL(), `select clock_timestamp()`, &moment)
	s.exec(`insert into ledger values (9, 1)`)
	s.archived()
	if err := p.Signal(s.ctx, int(syscall.SIGINT)); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(s.ctx); err != nil {
		t.Fatalf("stream after Ctrl-C: %v\n%s", err, live)
	}
	for _, line := range readmeBlock(t, "restore") {
		s.shellMust(strings.Replace(line, "2026-11-22 14:59:30+00", moment.UTC().Format("2006-01-02 15:04:05.999999+00"), 1))
	}
	c := s.boot(s.path("readme-copy"))
	defer c.stop()
	s.invariants(c.url())
	var late int
	s.query(c.url(), `select count(*) from ledger where writer = 9`, &late)
	if late != 0 {
		t.Error("the copy holds a row from after the moment asked for")
	}
}
