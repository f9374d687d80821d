package testcontainers_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	tc "github.com/holdfastdb/holdfast/testcontainers"
)

const (
	major     = "15" // provisioned by `make test`, as are Docker and its image
	testLabel = "holdfast-test"
)

// suite is the contract of Provider and Sandbox, run by every implementation.
func suite(t *testing.T, p tc.Provider) {
	cases := map[string]func(*testing.T, tc.Sandbox){
		"describes itself":                 describes,
		"runs, streams and reports status": runs,
		"gives no environment away":        environment,
		"is unprivileged":                  unprivileged,
		"shares files read-only":           shares,
		"owns paths, and only inside":      owns,
		"a real server":                    realServer,
		"signals and deaths":               signals,
		"a cancelled run ends":             cancelled,
		"kills grandchildren":              killsAll,
		"removes everything":               removes,
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, provision(t, p, tc.Spec{Engine: "postgres", Version: major, Dir: shortDir(t), Label: testLabel}))
		})
	}
	t.Run("refuses", func(t *testing.T) { t.Parallel(); refuses(t, p) })
	t.Run("dies with its owner", func(t *testing.T) { t.Parallel(); ownerDies(t, p) })
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// shortDir is what t.TempDir is not: short enough for sockets, and enterable
// by other users.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hft")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil { // not RemoveAll: it must be empty
			t.Errorf("something was left: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	return dir
}

func provision(t *testing.T, p tc.Provider, s tc.Spec) tc.Sandbox {
	t.Helper()
	box, err := p.Provision(t.Context(), s)
	if err != nil {
		t.Fatalf("%v\n(`make test` provisions what these tests need: see testcontainers/provision)", err)
	}
	t.Cleanup(func() {
		if err := box.Remove(context.Background(), 5*time.Second); err != nil {
			t.Errorf("remove: %v", err)
		}
	})
	return box
}

// buffer may be written by a process while the test reads it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// await polls for a condition that must come true; the limit only keeps a
// broken test from hanging.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never happened: %s", what)
		}
	}
}

func output(t *testing.T, box tc.Sandbox, script string, args ...string) string {
	t.Helper()
	var out buffer
	err := box.Run(t.Context(), tc.Command{Path: "sh", Args: append([]string{"-c", script, "sh"}, args...), Stdout: &out, Stderr: &out})
	if err != nil {
		t.Fatalf("%s: %v: %s", script, err, out.String())
	}
	return strings.TrimSpace(out.String())
}

func describes(t *testing.T, box tc.Sandbox) {
	d := box.Describe()
	if !strings.HasPrefix(d.Version, major+".") || d.User == "" || d.Isolation == "" {
		t.Errorf("incomplete description: %+v", d)
	}
	info, err := os.Stat(box.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("Dir has mode %o", info.Mode().Perm())
	}
	if got := output(t, box, `echo hello > "$1"; id -u`, box.GuestPath(filepath.Join(box.Dir(), "f"))); got != strconv.Itoa(int(info.Sys().(*syscall.Stat_t).Uid)) {
		t.Errorf("processes run as %s, Dir belongs to %d", got, info.Sys().(*syscall.Stat_t).Uid)
	}
	b, err := os.ReadFile(filepath.Join(box.Dir(), "f"))
	if err != nil || string(b) != "hello\n" {
		t.Errorf("the host reads %q, %v", b, err)
	}
}

func runs(t *testing.T, box tc.Sandbox) {
	var stdout, stderr buffer
	in, feed := io.Pipe()
	p, err := box.Start(t.Context(), tc.Command{
		Path: "sh", Args: []string{"-c", `echo ready; read -r x; echo "got $x" >&2; exit 3`},
		Stdin: in, Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the output arrives while the process runs", func() bool { return stdout.String() == "ready\n" })
	if p.PID() <= 0 {
		t.Errorf("PID = %d", p.PID())
	}
	short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := p.Wait(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Wait past its time: %v", err)
	}
	if _, err := io.WriteString(feed, "a line\n"); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // Wait may be asked again
		var exit *tc.ExitError
		if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.Code != 3 {
			t.Errorf("Wait = %v, want exit status 3", err)
		}
	}
	if got := stderr.String(); got != "got a line\n" {
		t.Errorf("standard error = %q", got)
	}
	if err := p.Signal(t.Context(), 15); err != nil {
		t.Errorf("signal after the end: %v", err)
	}
	if err := box.Run(t.Context(), tc.Command{Path: "true"}); err != nil {
		t.Errorf("true: %v", err)
	}
	if err := box.Run(t.Context(), tc.Command{Path: "no-such-program"}); err == nil {
		t.Error("a missing program ran")
	}
	big := strings.Repeat("0123456789abcdef", 1<<14)
	var back buffer
	err = box.Run(t.Context(), tc.Command{Path: "cat", Stdin: strings.NewReader(big), Stdout: &back})
	if err != nil || back.String() != big {
		t.Errorf("cat gave %d of %d bytes back, %v", len(back.String()), len(big), err)
	}
}

func environment(t *testing.T, box tc.Sandbox) {
	var out buffer
	err := box.Run(t.Context(), tc.Command{Path: "env", Env: []string{"GIVEN=a b"}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		k, v, _ := strings.Cut(line, "=")
		env[k] = v
	}
	if env["GIVEN"] != "a b" || env["LANG"] != "C.UTF-8" || env["PATH"] == "" || env["HOME"] != box.GuestPath(box.Dir()) {
		t.Errorf("environment: %v", env)
	}
	if v, ok := env[secretVariable]; ok {
		t.Errorf("the caller's secret %q came through", v)
	}
}

func unprivileged(t *testing.T, box tc.Sandbox) {
	status := output(t, box, `cat /proc/self/status`)
	for _, line := range strings.Split(status, "\n") {
		k, v, _ := strings.Cut(line, ":")
		v = strings.TrimSpace(v)
		if k == "Uid" && strings.HasPrefix(v, "0\t") {
			t.Error("processes run as root")
		}
		if k == "CapEff" && strings.Trim(v, "0") != "" {
			t.Errorf("processes have capabilities: %s", v)
		}
		if k == "Groups" && os.Geteuid() == 0 {
			for _, g := range strings.Fields(v) {
				if g == "0" {
					t.Error("processes are in root's group")
				}
			}
		}
	}
}

func shares(t *testing.T, box tc.Sandbox) {
	file := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(file, []byte("#!/bin/sh\necho shared \"$1\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	guest, err := box.Share(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	again, err := box.Share(t.Context(), file)
	if err != nil || again != guest {
		t.Errorf("shared again: %q, %v", again, err)
	}
	if got := output(t, box, `"$1" x`, guest); got != "shared x" {
		t.Errorf("the shared program printed %q", got)
	}
	if got := output(t, box, `tool y`); got != "shared y" {
		t.Errorf("found by name, it printed %q", got)
	}
	if os.Geteuid() == 0 {
		if got := output(t, box, `echo evil 2>/dev/null >"$1" && echo written || echo refused`, guest); got != "refused" {
			t.Error("a process could change a shared file")
		}
	}
	other := filepath.Join(t.TempDir(), "tool")
	if err := os.WriteFile(other, []byte("another, longer than the first one was"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Share(t.Context(), other); err == nil {
		t.Error("another file of the same name replaced the first")
	}
	if _, err := box.Share(t.Context(), t.TempDir()); err == nil {
		t.Error("a directory was shared")
	}
}

func owns(t *testing.T, box tc.Sandbox) {
	outside := filepath.Join(t.TempDir(), "outside")
	sub := filepath.Join(box.Dir(), "a", "b")
	for _, err := range []error{
		os.MkdirAll(sub, 0o700),
		os.WriteFile(filepath.Join(sub, "f"), []byte("x"), 0o600),
		os.WriteFile(outside, nil, 0o600),
		os.Symlink(outside, filepath.Join(sub, "link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Own(t.Context(), filepath.Join(box.Dir(), "a")); err != nil {
		t.Fatal(err)
	}
	output(t, box, `echo y >"$1/f" && echo z >"$1/g"`, box.GuestPath(sub))
	after, err := os.Stat(outside)
	if err != nil {
		t.Fatal(err)
	}
	if before.Sys().(*syscall.Stat_t).Uid != after.Sys().(*syscall.Stat_t).Uid {
		t.Error("Own went through a symbolic link")
	}
	for _, bad := range []string{outside, filepath.Dir(box.Dir()), filepath.Join(box.Dir(), "..", "x"), "/", "relative"} {
		if err := box.Own(t.Context(), bad); err == nil {
			t.Errorf("Own accepted %s", bad)
		}
	}
}

// startPostgres starts a real server in the sandbox and returns a way in.
func startPostgres(t *testing.T, box tc.Sandbox, log io.Writer) (tc.Process, func() (*pgx.Conn, error)) {
	t.Helper()
	data := box.GuestPath(filepath.Join(box.Dir(), "data"))
	err := box.Run(t.Context(), tc.Command{Path: "initdb", Args: []string{"-D", data, "-U", "postgres", "-N", "--locale=C"}, Stdout: log, Stderr: log})
	if err != nil {
		t.Fatalf("initdb: %v", err)
	}
	p, err := box.Start(t.Context(), tc.Command{
		Path:   "postgres",
		Args:   []string{"-D", data, "-k", box.GuestPath(box.Dir()), "-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=mmap"},
		Stdout: log, Stderr: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, func() (*pgx.Conn, error) {
		conf, err := pgx.ParseConfig("sslmode=disable user=postgres dbname=postgres host=" + box.Dir())
		if err != nil {
			return nil, err
		}
		conf.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return box.Dial(ctx, filepath.Join(box.Dir(), ".s.PGSQL.5432"))
		}
		return pgx.ConnectConfig(context.Background(), conf)
	}
}

func realServer(t *testing.T, box tc.Sandbox) {
	var log buffer
	defer func() {
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	p, connect := startPostgres(t, box, &log)
	var conn *pgx.Conn
	await(t, "the server accepts a connection", func() (ok bool) {
		var err error
		conn, err = connect()
		return err == nil
	})
	var version, addr string
	err := conn.QueryRow(t.Context(), "select current_setting('server_version'), coalesce(inet_server_addr()::text, 'socket')").Scan(&version, &addr)
	if err != nil || !strings.HasPrefix(version, major+".") || addr != "socket" {
		t.Errorf("the server says %q, %q, %v", version, addr, err)
	}
	if err := p.Signal(t.Context(), 2); err != nil { // fast shutdown
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("fast shutdown: %v", err)
	}
	if !strings.Contains(log.String(), "database system is shut down") {
		t.Error("the log has no orderly shutdown")
	}
	for _, outside := range []string{"/var/run/docker.sock", filepath.Join(box.Dir(), "..", "x")} {
		if c, err := box.Dial(t.Context(), outside); err == nil {
			_ = c.Close()
			t.Errorf("Dial reached %s", outside)
		}
	}
}

func refuses(t *testing.T, p tc.Provider) {
	dir := shortDir(t)
	for _, s := range []tc.Spec{
		{Engine: "postgres", Version: "99", Dir: dir},
		{Engine: "nonesuch", Version: "1", Dir: dir},
		{Engine: "postgres", Dir: dir},
	} {
		_, err := p.Provision(t.Context(), s)
		if !errors.Is(err, tc.ErrMissing) {
			t.Errorf("%s %q: %v, want ErrMissing", s.Engine, s.Version, err)
		}
	}
	long := filepath.Join(dir, strings.Repeat("d", 90))
	if err := os.Mkdir(long, 0o711); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", filepath.Join(dir, "absent"), long} {
		if box, err := p.Provision(t.Context(), tc.Spec{Engine: "postgres", Version: major, Dir: bad}); err == nil {
			t.Errorf("accepted directory %q", bad)
			_ = box.Remove(t.Context(), 0)
		}
	}
	if err := os.Remove(long); err != nil {
		t.Errorf("a refused sandbox left something: %v", err)
	}
	if os.Geteuid() == 0 {
		closed := filepath.Join(dir, "closed")
		if err := os.Mkdir(closed, 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := p.Provision(t.Context(), tc.Spec{Engine: "postgres", Version: major, Dir: closed})
		if err == nil || !strings.Contains(err.Error(), "may not enter "+closed) {
			t.Errorf("a directory that the server cannot enter: %v", err)
		}
		if err := os.Remove(closed); err != nil {
			t.Errorf("a refused sandbox left something: %v", err)
		}
	}
}
