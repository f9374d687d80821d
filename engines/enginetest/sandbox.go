package enginetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers"
)

// Provider makes sandboxes in plain directories whose only program is
// "fakedb", a process that waits for a signal. It counts what is left.
type Provider struct {
	// Missing makes Provision fail as if the server could not be had.
	Missing bool
	// Leftover makes Remove fail, naming this.
	Leftover string

	mu        sync.Mutex
	sandboxes []*Sandbox
}

// Sandbox is one of a Provider's sandboxes.
type Sandbox struct {
	spec     testcontainers.Spec
	dir      string
	leftover string

	mu      sync.Mutex
	procs   []*process
	removed bool
}

// Name … see testcontainers.Provider.
func (p *Provider) Name() string { return "fake" }

// Provision … see testcontainers.Provider.
func (p *Provider) Provision(ctx context.Context, s testcontainers.Spec) (testcontainers.Sandbox, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if p.Missing || s.Engine != Name {
		return nil, fmt.Errorf("looked for %s %s: %w", s.Engine, s.Version, testcontainers.ErrMissing)
	}
	dir, err := os.MkdirTemp(s.Dir, "sandbox-")
	if err != nil {
		return nil, err
	}
	sb := &Sandbox{spec: s, dir: dir, leftover: p.Leftover}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sandboxes = append(p.sandboxes, sb)
	return sb, nil
}

// Made is the number of sandboxes ever made; Left describes what of them
// still exists: directories and running processes.
func (p *Provider) Made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sandboxes)
}

// Left … see Made.
func (p *Provider) Left() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []string
	for _, sb := range p.sandboxes {
		if _, err := os.Lstat(sb.dir); err == nil {
			left = append(left, sb.dir)
		}
		sb.mu.Lock()
		for _, pr := range sb.procs {
			if pr.running() {
				left = append(left, "process of "+sb.dir)
			}
		}
		sb.mu.Unlock()
	}
	return left
}

func (s *Sandbox) Dir() string                  { return s.dir }
func (s *Sandbox) GuestPath(host string) string { return host }

func (s *Sandbox) Share(ctx context.Context, hostFile string) (string, error) { return hostFile, nil }

// Own fails for a path that is not there, as chown would.
func (s *Sandbox) Own(ctx context.Context, path string) error {
	_, err := os.Lstat(path)
	return err
}

func (s *Sandbox) Start(ctx context.Context, c testcontainers.Command) (testcontainers.Process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.removed {
		return nil, errors.New("sandbox was removed")
	}
	if c.Path != "fakedb" {
		return nil, fmt.Errorf("%s: %w", c.Path, testcontainers.ErrMissing)
	}
	p := &process{ended: make(chan struct{})}
	s.procs = append(s.procs, p)
	return p, nil
}

func (s *Sandbox) Run(ctx context.Context, c testcontainers.Command) error {
	return fmt.Errorf("%s: %w", c.Path, testcontainers.ErrMissing)
}

func (s *Sandbox) Dial(ctx context.Context, socket string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}

func (s *Sandbox) Describe() testcontainers.Description {
	return testcontainers.Description{Provider: "fake", Isolation: "none", Version: Version, User: "nobody"}
}

func (s *Sandbox) Remove(ctx context.Context, grace time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = true
	for _, p := range s.procs {
		p.end()
	}
	if s.leftover != "" {
		return fmt.Errorf("sandbox %s: left over: %s", s.dir, s.leftover)
	}
	return os.RemoveAll(s.dir)
}

// process is a pretended server process.
type process struct {
	once  sync.Once
	ended chan struct{}
}

func (p *process) end() { p.once.Do(func() { close(p.ended) }) }

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// Signal ends the process on SIGINT, SIGTERM, SIGQUIT and SIGKILL.
func (p *process) Signal(ctx context.Context, sig int) error {
	switch syscall.Signal(sig) {
	case syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGKILL:
		p.end()
	}
	return nil
}

func (p *process) Wait(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *process) PID() int { return 0 }
