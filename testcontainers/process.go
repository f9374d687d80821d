package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Provider names, as in Spec.Provider and Description.Provider.
const (
	ProcessProvider = "process"
	DockerProvider  = "docker"
)

// NewProcess makes the provider that runs servers as ordinary processes of
// this host, with the binaries find reports. They are not isolated: they share
// the host's network and see its files as an unprivileged user does. They die
// with this process, however it ends.
func NewProcess(log *slog.Logger, find Finder) Provider {
	return &processProvider{log: log, find: find}
}

type processProvider struct {
	log  *slog.Logger
	find Finder
}

func (p *processProvider) Name() string { return ProcessProvider }

func (p *processProvider) Provision(ctx context.Context, s Spec) (Sandbox, error) {
	bins, err := p.find.Find(ctx, s.Engine, s.Version)
	if err != nil {
		return nil, err
	}
	r, _ := recipeFor(s.Engine) // Find knows it, or has failed
	user, err := serverAccount(r.users)
	if err != nil {
		return nil, err
	}
	if err := user.canEnter(bins.Dir); err != nil {
		return nil, err
	}
	h, err := newHome(s, user)
	if err != nil {
		return nil, err
	}
	p.log.Debug("made a sandbox", "dir", h.dir(), "binaries", bins.Dir, "source", bins.Source, "user", user.name)
	return &processSandbox{home: h, bins: bins, recipe: r, log: p.log, thread: newThread(), started: map[int]uint64{}}, nil
}

// processSandbox is a Sandbox of local processes.
type processSandbox struct {
	home   *home
	bins   Binaries
	recipe recipe
	log    *slog.Logger

	mu      sync.Mutex
	thread  *thread        // nil once Remove has begun
	started map[int]uint64 // start time of each process started, by its id
	running []*child

	removing sync.Mutex
	removed  bool
}

var errRemoved = errors.New("the sandbox is being removed")

func (s *processSandbox) Dir() string                  { return s.home.dir() }
func (s *processSandbox) GuestPath(host string) string { return host }

func (s *processSandbox) Share(_ context.Context, file string) (string, error) {
	return s.home.share(file)
}

func (s *processSandbox) Own(ctx context.Context, path string) error { return s.home.own(ctx, path) }

func (s *processSandbox) Describe() Description {
	return Description{
		Provider: ProcessProvider, Isolation: "none", Binaries: s.bins.Dir,
		Version: s.bins.Version, User: s.home.user.name,
	}
}

func (s *processSandbox) Dial(ctx context.Context, socket string) (net.Conn, error) {
	if err := s.home.checkSocket(socket); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}

func (s *processSandbox) Start(ctx context.Context, c Command) (Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	path, err := s.lookPath(c.Path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.thread == nil {
		return nil, errRemoved
	}
	ch := newChild(path, c, s.home, s.bins.Dir, s.recipe.quit)
	s.thread.do(func() { err = ch.cmd.Start() })
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	if st, err := readStat(ch.PID()); err == nil { // else it has ended already
		s.started[st.pid] = st.start
	}
	s.running = append(s.running, ch)
	go ch.reap()
	return ch, nil
}

// lookPath finds a bare name among the server's binaries, then the shared
// files, then the system's.
func (s *processSandbox) lookPath(name string) (string, error) {
	if strings.ContainsRune(name, '/') {
		return name, nil
	}
	for _, dir := range filepath.SplitList(searchPath(s.bins.Dir, s.home.shared())) {
		p := filepath.Join(dir, name)
		if info, err := os.Stat(p); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("%w: no %q among the server's binaries in %s", ErrMissing, name, s.bins.Dir)
}

func searchPath(dirs ...string) string {
	return strings.Join(append(dirs, "/usr/local/bin", "/usr/bin", "/bin"), ":")
}

func (s *processSandbox) Run(ctx context.Context, c Command) error {
	p, err := s.Start(ctx, c)
	if err != nil {
		return err
	}
	err = p.Wait(ctx)
	if ctx.Err() != nil {
		_ = p.Signal(context.WithoutCancel(ctx), 9)
	}
	return err
}

// killPatience is how long the kernel may take to end a process after
// SIGKILL. One that hangs longer is in uninterruptible I/O.
const killPatience = 20 * time.Second

func (s *processSandbox) KillAll(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killLocked(ctx)
}

func (s *processSandbox) killLocked(ctx context.Context) error {
	err := killResidents(ctx, s.home.root, s.started, killPatience)
	if err == nil {
		s.running = nil
	}
	return err
}

// Remove asks every server to quit, gives them grace, kills what is left in
// the sandbox and deletes it. It runs to its end even if ctx is cancelled
// midway, then without grace: a half-removed sandbox helps nobody.
func (s *processSandbox) Remove(ctx context.Context, grace time.Duration) error {
	s.removing.Lock()
	defer s.removing.Unlock()
	if s.removed {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quit(ctx, grace)
	if err := s.killLocked(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("remove the sandbox %s: %w", s.home.root, err)
	}
	if s.thread != nil {
		s.thread.close()
		s.thread = nil
	}
	if err := s.home.remove(); err != nil {
		return err
	}
	s.removed = true
	return nil
}

// quit lets the processes we started end by themselves, all at once.
func (s *processSandbox) quit(ctx context.Context, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, c := range s.running {
		if err := c.Signal(ctx, int(s.recipe.quit)); err != nil {
			s.log.Debug("could not ask a process to quit", "pid", c.PID(), "error", err)
		}
	}
	for _, c := range s.running {
		_ = c.Wait(ctx) // how it ended is of no interest any more
	}
}
