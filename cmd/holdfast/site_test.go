package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
)

// holdfastBinary is the binary under test, built once.
var holdfastBinary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("/tmp", "hf-bin-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		holdfastBinary = filepath.Join(dir, "holdfast")
		args, cgo := []string{"build", "-trimpath", "-o", holdfastBinary}, "CGO_ENABLED=0"
		if os.Getenv("HOLDFAST_TEST_RACE") != "" { // a binary that ends with 66 at a race
			args, cgo = append(args, "-race"), "CGO_ENABLED=1"
		}
		build := exec.Command("go", append(args, ".")...)
		build.Env = append(os.Environ(), cgo)
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build holdfast: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// majors are the PostgreSQL versions the end-to-end tests run on.
func majors() []string {
	if v := strings.Fields(os.Getenv("HOLDFAST_TEST_PG")); len(v) > 0 {
		return v
	}
	return []string{"15", "18"}
}

// onEach runs a test on every version, in parallel with other tests.
func onEach(t *testing.T, fn func(t *testing.T, major string)) {
	for _, v := range majors() {
		t.Run("pg"+v, func(t *testing.T) {
			t.Parallel()
			fn(t, v)
		})
	}
}

// site is what a user has: a server, a host with holdfast on it, a repository.
// All holdfast processes run as an unprivileged user.
type site struct {
	t      *testing.T
	ctx    context.Context
	server *pgserver.Server
	host   testcontainers.Sandbox
	bin    string
	repo   string
	env    []string
	url    string // of the server, without a password

	publicKey string // age recipient of the identity that opens the repository
}

const databaseName = "shop"

func newSite(t *testing.T, major string) *site {
	t.Helper()
	return newSiteWith(t, major, nil)
}

// newSiteWith has a server with these settings.
func newSiteWith(t *testing.T, major string, conf map[string]string, env ...string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute) // exact targets take four on an idle machine
	t.Cleanup(cancel)
	s := &site{t: t, ctx: ctx}
	s.server = pgtest.Start(t, major, pgserver.Options{
		Role: "holdfast", Conf: conf, Env: env,
		SQL: []string{"CREATE DATABASE holdfast OWNER holdfast", "GRANT pg_monitor TO holdfast"},
	})
	s.newHost(major)
	u, err := url.Parse(s.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(u.User.Username())
	s.url = u.String()
	s.must("init", "--recipient", s.identity())
	return s
}

func (s *site) newHost(major string) {
	s.t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hf-e2e-")
	if err != nil {
		s.t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	s.host, err = testcontainers.NewProcess(slog.New(slog.DiscardHandler), testcontainers.Finder{Getenv: os.Getenv}).
		Provision(s.ctx, testcontainers.Spec{Engine: "postgres", Version: major, Dir: dir, Label: "e2e"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.host.Remove(ctx, 5*time.Second); err != nil {
			s.t.Errorf("remove the test's host: %v", err)
		}
	})
	if s.bin, err = s.host.Share(s.ctx, holdfastBinary); err != nil {
		s.t.Fatal(err)
	}
	s.repo = s.path("repo")
}

func (s *site) path(elem ...string) string {
	return filepath.Join(append([]string{s.host.Dir()}, elem...)...)
}

// identity makes the user's age key, whose slot opens at once (a passphrase
// costs a second on purpose), and the environment of every command.
func (s *site) identity() string {
	s.t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		s.t.Fatal(err)
	}
	s.file("identity", id.String())
	s.file("pg.pass", s.server.Password())
	s.env = []string{"HOLDFAST_REPO=file://" + s.repo, "HOLDFAST_IDENTITY_FILE=" + s.path("identity")}
	s.publicKey = id.Recipient().String()
	return s.publicKey
}

// file writes a file that only the holdfast user can read.
func (s *site) file(name, text string) string {
	s.t.Helper()
	p := s.path(name)
	if err := os.WriteFile(p, []byte(text+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if err := s.host.Own(s.ctx, p); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// source are the arguments that name the server.
func (s *site) source() []string {
	return []string{s.url, "--name", databaseName, "--password-file", s.path("pg.pass")}
}

// outcome is one finished command.
type outcome struct {
	code        int
	stdout, err string
}

func (o outcome) all() string { return o.stdout + o.err }

// run runs one holdfast command to its end.
func (s *site) run(args ...string) outcome {
	s.t.Helper()
	var out, errb bytes.Buffer
	err := s.host.Run(s.ctx, testcontainers.Command{Path: s.bin, Args: args, Env: s.env, Stdout: &out, Stderr: &errb})
	o := outcome{stdout: out.String(), err: errb.String()}
	var exit *testcontainers.ExitError
	if errors.As(err, &exit) {
		o.code = exit.Code
	} else if err != nil {
		s.t.Fatalf("holdfast %v: %v", args, err)
	}
	for _, secret := range []string{s.server.Password()} {
		if strings.Contains(o.all(), secret) {
			s.t.Errorf("holdfast %v printed a password:\n%s", args, o.all())
		}
	}
	return o
}

// must runs a command that has to succeed.
func (s *site) must(args ...string) outcome {
	s.t.Helper()
	o := s.run(args...)
	if o.code != 0 {
		s.t.Fatalf("holdfast %v: exit %d\n%s", args, o.code, o.all())
	}
	return o
}

// mustJSON runs a command with --output json and decodes its document.
func (s *site) mustJSON(into any, args ...string) {
	s.t.Helper()
	o := s.must(append(args, "--output", "json")...)
	if err := json.Unmarshal([]byte(o.stdout), into); err != nil {
		s.t.Fatalf("holdfast %v: not one JSON document: %v\n%s", args, err, o.stdout)
	}
}

// background is a holdfast command that goes on running.
type background struct {
	s    *site
	proc testcontainers.Process
	out  *transcript
}

func (s *site) start(args ...string) *background {
	s.t.Helper()
	b := &background{s: s, out: &transcript{changed: make(chan struct{})}}
	var err error
	b.proc, err = s.host.Start(s.ctx, testcontainers.Command{Path: s.bin, Args: args, Env: s.env, Stdout: b.out, Stderr: b.out})
	if err != nil {
		s.t.Fatal(err)
	}
	return b
}

// stream starts `holdfast stream` and waits until it streams.
func (s *site) stream(extra ...string) *background {
	s.t.Helper()
	b := s.start(append(append([]string{"stream"}, s.source()...), extra...)...)
	b.waitFor("streaming from")
	return b
}

func (b *background) signal(sig syscall.Signal) {
	b.s.t.Helper()
	if err := b.proc.Signal(b.s.ctx, int(sig)); err != nil {
		b.s.t.Fatal(err)
	}
}

// wait returns the exit code.
func (b *background) wait() int {
	b.s.t.Helper()
	ctx, cancel := context.WithTimeout(b.s.ctx, time.Minute)
	defer cancel()
	err := b.proc.Wait(ctx)
	var exit *testcontainers.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case err != nil:
		b.s.t.Fatalf("wait: %v\n%s", err, b.out)
	}
	return 0
}

func (b *background) waitFor(text string) {
	b.s.t.Helper()
	if err := b.out.wait(b.s.ctx, text); err != nil {
		b.s.t.Fatalf("%v\n%s", err, b.out)
	}
}

// transcript collects output in which a text can be waited for.
type transcript struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{}
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	close(w.changed)
	w.changed = make(chan struct{})
	return w.buf.Write(p)
}

func (w *transcript) String() string { w.mu.Lock(); defer w.mu.Unlock(); return w.buf.String() }

// wait returns when text has come; giveUp, if it comes first, ends the wait.
func (w *transcript) wait(ctx context.Context, text string, giveUp ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	for {
		w.mu.Lock()
		found, changed := strings.Contains(w.buf.String(), text), w.changed
		w.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain for %q", text)
		case <-changed:
		}
		for _, end := range giveUp {
			if s := w.String(); strings.Contains(s, end) && !strings.Contains(s, text) {
				return fmt.Errorf("%q, and no %q", end, text)
			}
		}
	}
}

// serverEnded is a server's last line.
const serverEnded = "database system is shut down"

// copyServer is a restored directory running under the user's own server.
type copyServer struct {
	s       *site
	sockets string
	proc    testcontainers.Process
	log     *transcript
}

// boot starts a restored directory and waits until recovery has ended.
func (s *site) boot(dir string) *copyServer {
	s.t.Helper()
	c := s.tryBoot(dir)
	if err := c.log.wait(s.ctx, "archive recovery complete", serverEnded); err != nil {
		s.t.Fatalf("%v; the server says:\n%s", err, c.log)
	}
	return c
}

func (s *site) tryBoot(dir string) *copyServer {
	s.t.Helper()
	return s.bootOn(dir, s.host.Dir())
}

// bootOn starts a restored directory that listens in a directory of its own,
// so that several may run.
func (s *site) bootOn(dir, sockets string) *copyServer {
	s.t.Helper()
	c := &copyServer{s: s, sockets: sockets, log: &transcript{changed: make(chan struct{})}}
	var err error
	c.proc, err = s.host.Start(s.ctx, testcontainers.Command{Path: "postgres", Stdout: c.log, Stderr: c.log, Args: []string{
		"-D", dir, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + sockets, "-c", "logging_collector=off"}})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (c *copyServer) stop() {
	c.s.t.Helper()
	if err := errors.Join(c.proc.Signal(c.s.ctx, int(syscall.SIGINT)), c.proc.Wait(c.s.ctx)); err != nil {
		c.s.t.Fatalf("stop the copy: %v\n%s", err, c.log)
	}
}

func (c *copyServer) url() string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("postgres", c.s.server.Password()), Path: "/postgres",
		RawQuery: url.Values{"host": {c.sockets}}.Encode()}
	return u.String()
}

// query runs a query on a server and scans its one row; it retries for a
// little while, since a promoted server opens a moment after it says so.
func (s *site) query(dsn, sql string, into ...any) {
	s.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := tryQuery(s.ctx, dsn, sql, into...)
		var refused *pgx.ScanArgError
		if err == nil {
			return
		}
		if errors.As(err, &refused) || time.Now().After(deadline) || s.ctx.Err() != nil {
			s.t.Fatalf("%s: %v", sql, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func tryQuery(ctx context.Context, dsn, sql string, into ...any) error {
	c, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	if len(into) == 0 {
		_, err = c.Exec(ctx, sql)
		return err
	}
	return c.QueryRow(ctx, sql).Scan(into...)
}

// exec runs statements on the source as superuser.
func (s *site) exec(statements ...string) {
	s.t.Helper()
	for _, q := range statements {
		if err := tryQuery(s.ctx, s.server.AdminURL(), q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

// fingerprint is every user table's row count and content hash.
func (s *site) fingerprint(dsn string) string {
	s.t.Helper()
	c, err := pgx.Connect(s.ctx, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(s.ctx))
	rows, err := c.Query(s.ctx, `select format('%I.%I', schemaname, tablename) from pg_tables
		where schemaname not in ('pg_catalog', 'information_schema') order by 1`)
	if err != nil {
		s.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	for _, tab := range tables {
		var n int64
		var sum string
		q := fmt.Sprintf(`select count(*), coalesce(sum(hashtextextended(t::text, 7)::numeric), 0)::text from %s t`, tab)
		if err := c.QueryRow(s.ctx, q).Scan(&n, &sum); err != nil {
			s.t.Fatalf("%s: %v", tab, err)
		}
		fmt.Fprintf(&out, "%s %d %s\n", tab, n, sum)
	}
	return out.String()
}

var _ io.Writer = (*transcript)(nil)
