package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
	"github.com/holdfastdb/holdfast/wal"
)

// site is a throwaway source with an administrator's connection to it.
type site struct {
	t      *testing.T
	server *pgserver.Server
	admin  *pgx.Conn
	logs   *syncBuffer
}

const siteRole = "backup"

func newSite(t *testing.T, major string, conf map[string]string, sql ...string) *site {
	t.Helper()
	server := pgtest.Start(t, major, pgserver.Options{Role: siteRole, Conf: conf, SQL: sql})
	s := &site{t: t, server: server, admin: connectTo(t, server.AdminURL()), logs: &syncBuffer{}}
	t.Cleanup(func() {
		if strings.Contains(s.logs.String(), server.Password()) {
			t.Error("the password is in the log")
		}
	})
	return s
}

// options connect as siteRole, the password apart from the URL.
func (s *site) options() engines.ConnectOptions {
	s.t.Helper()
	u, err := url.Parse(s.server.URL())
	if err != nil {
		s.t.Fatal(err)
	}
	u.User = url.User(siteRole)
	return engines.ConnectOptions{
		URL: u.String(), Password: secret.New(s.server.Password()), Database: "Orders-1",
		Log: slog.New(slog.NewTextHandler(s.logs, nil)), Clock: time.Now,
	}
}

func (s *site) source() engines.Source {
	s.t.Helper()
	src, err := New().Connect(s.t.Context(), s.options())
	if err != nil {
		s.t.Fatal(err)
	}
	// Check need not wait for a log that does not grow.
	src.(*source).pause = func(ctx context.Context, _ time.Duration) error { return pause(ctx, 10*time.Millisecond) }
	return src
}

func (s *site) exec(queries ...string) {
	s.t.Helper()
	for _, q := range queries {
		if _, err := s.admin.Exec(s.t.Context(), q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

func (s *site) text(query string, args ...any) (v string) {
	s.t.Helper()
	if err := s.admin.QueryRow(s.t.Context(), query, args...).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return v
}

func (s *site) position(query string) repo.Position {
	s.t.Helper()
	p, err := ParseLSN(s.text(query))
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// flushLog makes everything written so far streamable and says where it ends.
func (s *site) flushLog() repo.Position {
	s.t.Helper()
	s.exec("select pg_switch_wal()")
	return s.position("select pg_current_wal_flush_lsn()::text")
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// memorySink keeps a backup in memory.
type memorySink struct {
	mu    sync.Mutex
	items map[string]repo.Item
	data  map[string][]byte
	fail  func(path string) error
}

func newMemorySink() *memorySink {
	return &memorySink{items: map[string]repo.Item{}, data: map[string][]byte{}}
}

func (m *memorySink) Put(ctx context.Context, item repo.Item, r io.Reader) error {
	if m.fail != nil {
		if err := m.fail(item.Path); err != nil {
			return err
		}
	}
	var data []byte
	if r != nil {
		var err error
		if data, err = io.ReadAll(r); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, twice := m.items[item.Path]; twice {
		return fmt.Errorf("item %q twice", item.Path)
	}
	m.items[item.Path], m.data[item.Path] = item, data
	return ctx.Err()
}

// memoryIntake is an archive in memory: what it holds by branch, and what of
// it counts as durable.
type memoryIntake struct {
	mu       sync.Mutex
	branches map[string]repo.Branch
	order    []string
	runs     []memoryRun
	durable  repo.Position
	lag      bool // nothing becomes durable by itself
	block    bool // Write blocks
	ticks    int
	failure  error
	changed  chan struct{}
}

// memoryRun is a stretch written without a break.
type memoryRun struct {
	branch string
	start  repo.Position
	data   []byte
}

func (r memoryRun) end() repo.Position { return r.start + repo.Position(len(r.data)) }

func newMemoryIntake() *memoryIntake {
	return &memoryIntake{branches: map[string]repo.Branch{}, changed: make(chan struct{})}
}

func (m *memoryIntake) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *memoryIntake) Begin(_ context.Context, b repo.Branch, at repo.Position, _ wal.Indexer) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	// What was not durable is lost with the process, as after a kill.
	if n := len(m.runs); n > 0 {
		last := &m.runs[n-1]
		last.data = last.data[:max(last.start, min(m.durable, last.end()))-last.start]
	}
	m.branches[b.ID] = b
	m.order = append(m.order, b.ID)
	m.runs = append(m.runs, memoryRun{branch: b.ID, start: at})
	m.durable = at
	m.broadcast()
	return nil
}

func (m *memoryIntake) Write(ctx context.Context, c wal.Chunk) error {
	for {
		m.mu.Lock()
		if !m.block {
			break
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	defer m.mu.Unlock()
	r := &m.runs[len(m.runs)-1]
	if c.Pos != r.end() {
		return fmt.Errorf("chunk at %s, want %s", FormatLSN(c.Pos), FormatLSN(r.end()))
	}
	r.data = append(r.data, c.Data...)
	if !m.lag {
		m.durable = r.end()
		m.broadcast()
	}
	return nil
}

func (m *memoryIntake) Tick(time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ticks++
}

func (m *memoryIntake) Stored() repo.Position { return m.Durable() }

func (m *memoryIntake) Durable() repo.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.durable
}

func (m *memoryIntake) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failure
}

func (m *memoryIntake) Changed() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

// set changes the intake's behaviour and tells waiters.
func (m *memoryIntake) set(f func(*memoryIntake)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
	m.broadcast()
}

func (m *memoryIntake) received() repo.Position {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.runs) == 0 {
		return 0
	}
	return m.runs[len(m.runs)-1].end()
}

func (m *memoryIntake) durableRanges(branch string) []wal.Range {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []wal.Range
	for i, r := range m.runs {
		end := r.end()
		if i == len(m.runs)-1 {
			end = min(end, m.durable)
		}
		if r.branch == branch && r.start < end {
			out = append(out, wal.Range{Branch: branch, Start: r.start, End: end})
		}
	}
	slices.SortFunc(out, func(a, b wal.Range) int { return int(int64(a.Start) - int64(b.Start)) })
	var merged []wal.Range
	for _, r := range out {
		if n := len(merged); n > 0 && r.Start <= merged[n-1].End {
			merged[n-1].End = max(merged[n-1].End, r.End)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

func (m *memoryIntake) held(_ context.Context, branch string) ([]wal.Range, error) {
	return m.durableRanges(branch), nil
}

// bytes assembles [from, to) of a branch; later runs win.
func (m *memoryIntake) bytes(t *testing.T, branch string, from, to repo.Position) []byte {
	t.Helper()
	if ranges := m.durableRanges(branch); nextMissing(asHeld(ranges), from) < to {
		t.Fatalf("branch %s lacks log between %s and %s: %v", branch, FormatLSN(from), FormatLSN(to), ranges)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]byte, to-from)
	for _, r := range m.runs {
		if lo, hi := max(r.start, from), min(r.end(), to); r.branch == branch && lo < hi {
			copy(out[lo-from:], r.data[lo-r.start:hi-r.start])
		}
	}
	return out
}

func asHeld(ranges []wal.Range) (out []heldRange) {
	for _, r := range ranges {
		out = append(out, heldRange{r.Start, r.End})
	}
	return out
}

// waitFor polls for a condition of the server or the intake.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never happened: %s", what)
}

// background runs Tail until stop, which returns what Tail returned.
func background(t *testing.T, l engines.LogSource, o engines.TailOptions, in wal.Intake) (stop func() error, ready <-chan repo.Position) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	begun := make(chan repo.Position, 1)
	o.Ready = func(p repo.Position) { begun <- p }
	done := make(chan error, 1)
	go func() {
		err := l.Tail(ctx, o, in)
		done <- err
		close(begun)
	}()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() { cancel(); result = <-done })
		return result
	}
	t.Cleanup(func() { _ = stop() })
	return stop, begun
}

var errTest = errors.New("made to fail")

func chownLike(t *testing.T, path string, like os.FileInfo) {
	t.Helper()
	st, ok := like.Sys().(*syscall.Stat_t)
	if !ok {
		t.Fatal("no owner")
	}
	if err := os.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		t.Fatal(err)
	}
}

func flipByte(t *testing.T, file string, at int64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 0x40
	if _, err := f.WriteAt(b, at); err != nil {
		t.Fatal(err)
	}
}
