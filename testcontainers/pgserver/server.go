// Package pgserver runs throwaway PostgreSQL servers as fixtures: sources to
// back up in tests, in the demo and in benchmarks. A server is made by initdb
// in a process sandbox, listens on a unix socket and on 127.0.0.1, can be
// killed and restarted, and leaves nothing behind.
//
// It knows nothing of backups and restores (engines/postgres does), and is no
// part of the product: drills start their servers themselves. Tests use
// package pgtest, which wraps it.
package pgserver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers"
)

// Options describe the server wanted. Only Major is required.
type Options struct {
	Major string // "15"
	// Dir is an existing directory for the sandbox, short, and enterable by
	// the user servers run as; default: the system's temporary directory.
	Dir string
	// Conf adds to, and overrides, the settings in Defaults.
	Conf map[string]string
	// Env adds to the server's environment, which is otherwise empty but for
	// what every command has: a library that is loaded first, for example.
	Env []string
	// Role, when not empty, is made with LOGIN, REPLICATION and a random
	// password; URL then connects as it.
	Role string
	// SQL is run as superuser in database postgres once the server is up,
	// one statement a string.
	SQL []string
	Log *slog.Logger // default: discarded
	// Provider makes the sandbox; default: local processes found through
	// this process's environment. Only a provider of local processes can
	// serve TCP.
	Provider testcontainers.Provider
}

// Defaults are the settings of every server, unless Options.Conf says
// otherwise. fsync is off: a process that is killed loses no page cache, and
// the servers are thrown away.
func Defaults() map[string]string {
	return map[string]string{
		"listen_addresses":    "127.0.0.1",
		"wal_level":           "replica",
		"fsync":               "off",
		"shared_buffers":      "64MB",
		"password_encryption": "scram-sha-256",
		"log_line_prefix":     "%m [%p] ",
		// Files in the data directory, not in /dev/shm, where a SIGKILL would
		// leave them.
		"dynamic_shared_memory_type": "mmap",
	}
}

const admin = "postgres"

// Server is a running (or killed, or stopped) server. Its methods may be
// called concurrently.
type Server struct {
	opts     Options
	sandbox  testcontainers.Sandbox
	password string
	log      tail

	mu   sync.Mutex
	port int
	proc testcontainers.Process // nil when not running
}

// Start makes a new cluster, with data checksums, and starts it. Close must
// be called in any case where it succeeds. An error carries the end of the
// server's log.
func Start(ctx context.Context, o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		o.Dir = os.TempDir()
	}
	if o.Provider == nil {
		o.Provider = testcontainers.NewProcess(o.Log, testcontainers.Finder{Getenv: os.Getenv})
	}
	box, err := o.Provider.Provision(ctx, testcontainers.Spec{
		Engine: "postgres", Version: o.Major, Dir: o.Dir, Label: "pgserver",
	})
	if err != nil {
		return nil, err
	}
	s := &Server{opts: o, sandbox: box, password: rand.Text()}
	if err := s.create(ctx); err != nil {
		err = fmt.Errorf("make a PostgreSQL %s: %w\nits log:\n%s", o.Major, err, s.Log())
		return nil, errors.Join(err, s.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

func (s *Server) create(ctx context.Context) error {
	if err := s.initdb(ctx); err != nil {
		return err
	}
	if err := s.firstStart(ctx); err != nil {
		return err
	}
	return s.setUp(ctx)
}

// firstStart picks the port. Between our finding it free and the server's
// taking it somebody else may, so it tries a few.
func (s *Server) firstStart(ctx context.Context) error {
	for try := 1; ; try++ {
		port, err := freePort(ctx)
		if err != nil {
			return err
		}
		s.port = port
		err = s.launch(ctx)
		if err == nil || try == 5 || !s.log.contains("could not create any TCP/IP sockets") {
			return err
		}
		s.log.reset()
	}
}

func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startLimit covers crash recovery after Kill9 on a busy machine.
const startLimit = 2 * time.Minute

// launch starts the server and waits until it accepts connections.
func (s *Server) launch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	proc, err := s.sandbox.Start(ctx, testcontainers.Command{
		Path:   "postgres",
		Args:   []string{"-D", s.sandbox.GuestPath(s.DataDir()), "-p", strconv.Itoa(s.port), "-k", s.sandbox.GuestPath(s.SocketDir())},
		Env:    s.opts.Env,
		Stdout: &s.log, Stderr: &s.log,
	})
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- proc.Wait(ctx) }()
	for {
		err := s.ping(ctx)
		if err == nil {
			s.proc = proc
			return nil
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("the server did not start"), err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// DataDir is the server's data directory, owned by the user it runs as.
func (s *Server) DataDir() string { return filepath.Join(s.sandbox.Dir(), "data") }

// SocketDir is the directory of the unix socket; local connections need no
// password.
func (s *Server) SocketDir() string { return s.sandbox.Dir() }

// Port is the TCP port on 127.0.0.1, the same for the server's whole life.
func (s *Server) Port() int { return s.port }

// PID is the postmaster's process id, 0 when the server is not running.
func (s *Server) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		return 0
	}
	return s.proc.PID()
}

// Password is that of Options.Role and of the superuser.
func (s *Server) Password() string { return s.password }

// URL connects over TCP as Options.Role, or as superuser without one, with
// the password in it.
func (s *Server) URL() string {
	if s.opts.Role == "" {
		return s.AdminURL()
	}
	return s.url(s.opts.Role)
}

// AdminURL connects over TCP as superuser.
func (s *Server) AdminURL() string { return s.url(admin) }

func (s *Server) url(role string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(role, s.password),
		Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)), Path: "/postgres",
		RawQuery: "sslmode=disable",
	}
	return u.String()
}

// Log is the end of everything the server and initdb have printed.
func (s *Server) Log() string { return s.log.String() }

// Describe says which server it is.
func (s *Server) Describe() testcontainers.Description { return s.sandbox.Describe() }

// Kill9 ends all the server's processes by SIGKILL, and returns when they are
// gone. The data directory stays as it is then.
func (s *Server) Kill9(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	killer, ok := s.sandbox.(testcontainers.Killer)
	if !ok {
		return errors.New("this sandbox cannot kill its processes")
	}
	if err := killer.KillAll(ctx); err != nil {
		return err
	}
	if s.proc != nil {
		_ = s.proc.Wait(ctx) // "killed" is what was wanted
	}
	s.proc = nil
	return nil
}

// StopFast shuts the server down in its fast mode (checkpoint, clients cut
// off) and returns when it has ended; not running is fine.
func (s *Server) StopFast(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopLocked(ctx)
}

func (s *Server) stopLocked(ctx context.Context) error {
	if s.proc == nil {
		return nil
	}
	if err := s.proc.Signal(ctx, int(syscall.SIGINT)); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	if err := s.proc.Wait(ctx); err != nil {
		return fmt.Errorf("stop the server: %w", err)
	}
	s.proc = nil
	return nil
}

// Restart stops the server if it runs and starts it, on the same port.
func (s *Server) Restart(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.stopLocked(ctx); err != nil {
		return err
	}
	if err := s.launch(ctx); err != nil {
		return fmt.Errorf("restart PostgreSQL %s: %w\nits log:\n%s", s.opts.Major, err, s.Log())
	}
	return nil
}

// Close ends the server and deletes everything; it may be called again.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc == nil {
		freeSharedMemory(s.DataDir())
	}
	s.proc = nil
	return s.sandbox.Remove(ctx, 10*time.Second)
}
