package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

// receiverName is the application_name of `holdfast stream --name bench`.
const receiverName = "holdfast_bench"

// streamSite is a server whose disk really syncs, and a host with holdfast
// beside it.
type streamSite struct {
	server *pgserver.Server
	dir    string
	binary string
	sql    *pgx.Conn // superuser; for set-up between measurements
}

const benchPassphrase = "a passphrase for the benchmark"

// newStreamSite starts a server as in production: it syncs its log, and
// acknowledges a commit once it has.
func newStreamSite(ctx context.Context, o options) (s *streamSite, err error) {
	s = &streamSite{}
	if s.binary, err = filepath.Abs(o.binary); err != nil {
		return nil, err
	}
	if s.dir, err = os.MkdirTemp("/tmp", "hf-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	if err := os.WriteFile(s.path("pass"), []byte(benchPassphrase+"\n"), 0o600); err != nil {
		return nil, err
	}
	s.server, err = pgserver.Start(ctx, pgserver.Options{
		Major: o.major, Role: "holdfast", Log: discard,
		Conf: map[string]string{
			"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
			"shared_buffers": "256MB", "max_wal_size": "2GB", "min_wal_size": "1GB",
		},
		SQL: []string{"create database holdfast owner holdfast", "grant pg_monitor to holdfast"},
	})
	if err != nil {
		return nil, err
	}
	s.sql, err = s.connect(ctx)
	return s, err
}

func (s *streamSite) path(name string) string { return filepath.Join(s.dir, name) }

func (s *streamSite) connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, s.socketURL())
}

func (s *streamSite) socketURL() string {
	return fmt.Sprintf("postgres://postgres@/postgres?host=%s&port=%d&sslmode=disable", s.server.SocketDir(), s.server.Port())
}

func (s *streamSite) close(ctx context.Context) error {
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	var err error
	if s.sql != nil {
		err = s.sql.Close(cctx)
	}
	if s.server != nil {
		err = errors.Join(err, s.server.Close(cctx))
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *streamSite) exec(ctx context.Context, statements ...string) error {
	for _, q := range statements {
		if _, err := s.sql.Exec(ctx, q); err != nil {
			return fmt.Errorf("%.60s…: %w", q, err)
		}
	}
	return nil
}

// until asks a yes-or-no question until the answer is yes.
func (s *streamSite) until(ctx context.Context, limit time.Duration, question string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		var yes bool
		if err := s.sql.QueryRow(ctx, question, args...).Scan(&yes); err != nil {
			return fmt.Errorf("%.60s…: %w", question, err)
		}
		if yes {
			return nil
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%.60s…: %w", question, err)
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *streamSite) repo() string { return s.path("repo") }

// emptyRepo makes a new repository, and forgets spool and slots.
func (s *streamSite) emptyRepo(ctx context.Context) error {
	if err := errors.Join(os.RemoveAll(s.repo()), os.RemoveAll(s.path("spool"))); err != nil {
		return err
	}
	if err := s.until(ctx, time.Minute, `select not exists (select from pg_replication_slots where active)`); err != nil {
		return err
	}
	if err := s.exec(ctx, `select pg_drop_replication_slot(slot_name) from pg_replication_slots`, `checkpoint`); err != nil {
		return err
	}
	st, err := file.Open(s.repo(), file.Options{})
	if err != nil {
		return err
	}
	_, _, err = repo.Init(ctx, st, repo.InitOptions{Passphrase: secret.New(benchPassphrase)})
	return errors.Join(err, st.Close())
}

// receiver is a process that follows the log.
type receiver struct {
	cmd  *exec.Cmd
	out  *bytes.Buffer
	name string // application_name
}

// stream starts holdfast stream into an empty repository, with the arguments
// given, and waits until it streams.
func (s *streamSite) stream(ctx context.Context, args ...string) (*receiver, error) {
	if err := s.emptyRepo(ctx); err != nil {
		return nil, err
	}
	u, err := url.Parse(s.server.URL())
	if err != nil {
		return nil, err
	}
	u.User = url.User(u.User.Username()) // a password never stands in an argument
	if err := os.WriteFile(s.path("pg.pass"), []byte(s.server.Password()+"\n"), 0o600); err != nil {
		return nil, err
	}
	all := append([]string{"stream", u.String(), "--password-file", s.path("pg.pass"), "--name", "bench", "--quiet"}, args...)
	return s.receiver(ctx, receiverName, exec.Command(s.binary, all...)) //nolint:noctx // ended by SIGINT
}

func (s *streamSite) spoolArgs() []string {
	return []string{"--durability", "spool", "--spool", s.path("spool")}
}

func (s *streamSite) receiver(ctx context.Context, name string, cmd *exec.Cmd) (*receiver, error) {
	r := &receiver{cmd: cmd, out: new(bytes.Buffer), name: name}
	cmd.Stdout, cmd.Stderr = r.out, r.out
	cmd.Env = append(os.Environ(), "HOLDFAST_REPO=file://"+s.repo(), "HOLDFAST_PASSPHRASE_FILE="+s.path("pass"))
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	err := s.until(ctx, time.Minute, `select exists (select from pg_stat_replication where application_name = $1 and state = 'streaming')`, name)
	if err != nil {
		return nil, errors.Join(err, r.stop())
	}
	return r, nil
}

// stop ends it as a person would, and fails if it does not end well.
func (r *receiver) stop() error {
	if err := r.cmd.Process.Signal(syscall.SIGINT); err != nil {
		return fmt.Errorf("%w\n%s", err, r.out)
	}
	kill := time.AfterFunc(time.Minute, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	if err := r.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w\n%s", r.name, err, r.out)
	}
	return nil
}

// usage is what a process has used so far: CPU in seconds, and its peak of
// resident memory in bytes (proc(5): utime and stime; VmHWM).
func (r *receiver) usage() (cpu float64, peak int64, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(r.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, 0, fmt.Errorf("%w\n%s", err, r.out)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	if v := strings.Fields(rest); len(v) > 12 {
		for _, f := range v[11:13] {
			n, _ := strconv.ParseInt(f, 10, 64)
			cpu += float64(n) / 100 // USER_HZ
		}
	}
	_, rest, _ = strings.Cut(string(status), "VmHWM:")
	if v := strings.Fields(rest); len(v) > 0 {
		peak, _ = strconv.ParseInt(v[0], 10, 64)
	}
	return cpu, peak << 10, nil
}
