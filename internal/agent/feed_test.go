package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/wal"
)

const (
	pieces    = 40
	pieceSize = 3 << 16
)

func piece(n int) string { return fmt.Sprintf("P%03d", n) }

func pieceBytes(name string) []byte {
	r := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", name))))
	b := make([]byte, pieceSize)
	_, _ = r.Read(b)
	return b
}

// pieceFeed is a plan of numbered pieces. before, if set, may delay or fail.
type pieceFeed struct {
	mu     sync.Mutex
	asked  []string
	before func(ctx context.Context, name string) error
}

func (f *pieceFeed) PieceSize() int64 { return pieceSize }

func (f *pieceFeed) Run(name string, n int) (run []string) {
	for i := range pieces {
		if (len(run) > 0 || piece(i) == name) && len(run) < n {
			run = append(run, piece(i))
		}
	}
	return run
}

func (f *pieceFeed) Fetch(ctx context.Context, name string, w io.Writer) error {
	if f.Run(name, 1) == nil {
		return wal.ErrBeyondPlan
	}
	f.mu.Lock()
	f.asked = append(f.asked, name)
	f.mu.Unlock()
	b := pieceBytes(name)
	if _, err := w.Write(b[:1000]); err != nil {
		return err
	}
	if f.before != nil {
		if err := f.before(ctx, name); err != nil {
			return err
		}
	}
	_, err := w.Write(b[1000:])
	return err
}

func (f *pieceFeed) fetched() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.asked)
}

// recovery is one restored directory, with a prefetcher inside this process.
type recovery struct {
	t             *testing.T
	dir           string
	direct, ahead *pieceFeed
	files         int
	idle          time.Duration
	starts        int
	ended         chan error
}

func newRecovery(t *testing.T) *recovery {
	t.Parallel()
	r := &recovery{t: t, dir: filepath.Join(t.TempDir(), FeedDir), direct: &pieceFeed{}, ahead: &pieceFeed{}, files: 5, idle: time.Minute, ended: make(chan error, 10)}
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveFeed(filepath.Join(r.dir, planName)); err != nil {
			t.Error(err)
		}
		for range r.starts {
			r.wait()
		}
	})
	return r
}

func (r *recovery) feed(f wal.Feed) *PlanFeed {
	return &PlanFeed{
		deps: Deps{Log: slog.New(slog.DiscardHandler), Clock: time.Now}, dir: r.dir, feed: f, idle: r.idle, wait: prefetchWait,
		file:  FeedPlan{Prefetch: PrefetchLimits{Files: 100, Bytes: int64(r.files)*pieceSize + 1}},
		spool: fetched{dir: filepath.Join(r.dir, fetchedName), plan: [32]byte{1}},
	}
}

func (r *recovery) start() error {
	r.starts++
	go func() { r.ended <- r.feed(r.ahead).Prefetch(r.t.Context()) }()
	return nil
}

// wait is how a prefetcher ended.
func (r *recovery) wait() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		r.starts--
		return err
	case <-time.After(20 * time.Second):
		r.t.Fatal("the prefetcher did not end")
		return nil
	}
}

// want delivers a piece and checks every byte.
func (r *recovery) want(n int) {
	r.t.Helper()
	dst := filepath.Join(filepath.Dir(r.dir), "RECOVERYXLOG")
	if err := r.feed(r.direct).Deliver(r.t.Context(), piece(n), dst, r.start); err != nil {
		r.t.Fatalf("%s: %v", piece(n), err)
	}
	got, err := os.ReadFile(dst)
	if err != nil || !bytes.Equal(got, pieceBytes(piece(n))) {
		r.t.Fatalf("%s was delivered with other bytes (%d), %v", piece(n), len(got), err)
	}
	if err := os.Remove(dst); err != nil {
		r.t.Fatal(err)
	}
}

// until waits for a state of the directory of fetched log.
func (r *recovery) until(what string, ok func(c content) bool) content {
	r.t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		c, err := r.feed(r.direct).spool.look()
		if err == nil && ok(c) {
			return c
		}
		if time.Now().After(end) {
			r.t.Fatalf("waited in vain until %s: %v, %v", what, c, err)
		}
	}
}

// holds: exactly these pieces are ready. One that was fetched again at the
// moment it was taken may stand in for the last until the next is asked for.
func (r *recovery) holds(from, to int) {
	r.t.Helper()
	r.until(fmt.Sprintf("%d to %d are ready", from, to), func(c content) bool {
		to := to
		if c.ready[piece(from-1)] != "" {
			to--
			delete(c.ready, piece(from-1))
		}
		for i := from; i < to; i++ {
			if c.ready[piece(i)] == "" {
				return false
			}
		}
		return len(c.ready) == to-from && len(c.parts) == 0
	})
}

func TestPiecesAreReadyBeforeTheyAreAskedFor(t *testing.T) {
	r := newRecovery(t)
	r.ahead.before = func(context.Context, string) error {
		c, err := r.feed(r.direct).spool.look()
		if n := len(c.ready) + len(c.parts); err != nil || n > r.files {
			t.Errorf("%d pieces on disk, %d allowed (%v)", n, r.files, err)
		}
		return nil
	}
	r.want(0)
	for n := 1; n < pieces; n++ {
		r.holds(n, min(n+r.files, pieces))
		r.want(n)
	}
	if got := r.direct.fetched(); !slices.Equal(got, []string{piece(0)}) {
		t.Errorf("fetched while the server waited: %v", got)
	}
	if got := r.ahead.fetched(); len(got) != pieces-1 {
		t.Errorf("%d pieces were fetched ahead in %d fetches", pieces-1, len(got))
	}
	if err := r.wait(); err != nil || r.starts != 0 { // the plan is done
		t.Errorf("the prefetcher ended with %v, %d more were started", err, r.starts)
	}
	dst := filepath.Join(filepath.Dir(r.dir), "x")
	err := r.feed(r.direct).Deliver(t.Context(), "P999", dst, r.start)
	if _, serr := os.Stat(dst); !errors.Is(err, wal.ErrBeyondPlan) || !errors.Is(serr, fs.ErrNotExist) || r.starts != 0 {
		t.Errorf("beyond the plan: %v, %v, %d prefetchers", err, serr, r.starts)
	}
}

// A recovery that is as fast as it can be, and one that asks for files twice
// or goes back.
func TestPrefetchFollowsWhatIsAskedFor(t *testing.T) {
	r := newRecovery(t)
	for n := range 20 {
		r.want(n)
	}
	for _, n := range []int{30, 7, 7, 8} {
		r.want(n)
		r.holds(n+1, n+1+r.files)
	}
	before := len(r.direct.fetched())
	for n := 9; n < 13; n++ {
		r.want(n)
	}
	if got := len(r.direct.fetched()); got != before {
		t.Errorf("%d pieces that were ready were fetched again", got-before)
	}
}

// What a crash of the machine, a bad disk or another plan leave under a ready
// piece's name is not delivered.
func TestADamagedPieceIsNeverDelivered(t *testing.T) {
	whole := pieceBytes(piece(1))
	for what, text := range map[string][]byte{
		"empty": {}, "truncated": whole[:pieceSize-1], "half": whole[:pieceSize/2], "longer": append(slices.Clone(whole), 0),
		"zeroed": make([]byte, pieceSize), "its end zeroed": append(slices.Clone(whole[:pieceSize-4096]), make([]byte, 4096)...),
		"another piece": pieceBytes(piece(2)), "a bit flipped": append([]byte{whole[0] ^ 1}, whole[1:]...),
		"another plan's": nil, "another name's": nil,
	} {
		t.Run(what, func(t *testing.T) {
			r := newRecovery(t)
			r.want(0)
			r.holds(1, 1+r.files)
			spool := r.feed(r.direct).spool
			c, err := spool.look()
			if err != nil {
				t.Fatal(err)
			}
			unlock, err := spool.stop() // it would make good what we take away
			if err != nil || r.wait() != nil {
				t.Fatal(err)
			}
			unlock()
			switch file := spool.path(c.ready[piece(1)]); what {
			case "another plan's":
				other := fetched{dir: spool.dir, plan: [32]byte{2}}
				if err := errors.Join(os.Remove(file), other.write(piece(1), func(w io.Writer) error { _, err := w.Write(whole); return err })); err != nil {
					t.Fatal(err)
				}
			case "another name's":
				moved := spool.path(piece(1) + c.ready[piece(2)][len(piece(2)):])
				if err := errors.Join(os.Remove(file), os.Rename(spool.path(c.ready[piece(2)]), moved)); err != nil {
					t.Fatal(err)
				}
			default:
				if err := os.WriteFile(file, text, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r.want(1)
			if got := r.direct.fetched(); !slices.Equal(got, []string{piece(0), piece(1)}) {
				t.Errorf("fetched now: %v", got)
			}
		})
	}
}

// A piece the prefetcher is on is waited for, but not for ever, and not if
// the prefetcher was killed.
func TestAPieceBeingFetchedIsWaitedFor(t *testing.T) {
	r := newRecovery(t)
	release := make(chan struct{})
	r.ahead.before = func(_ context.Context, name string) error {
		if name == piece(1) {
			<-release
		}
		return nil
	}
	r.want(0)
	r.until("it is on the next", func(c content) bool { return slices.Contains(c.parts, piece(1)) })
	time.AfterFunc(100*time.Millisecond, func() { close(release) })
	r.want(1)
	if got := r.direct.fetched(); len(got) != 1 {
		t.Errorf("fetched twice: %v", got)
	}
	stuck := r.feed(r.direct)
	stuck.wait = 50 * time.Millisecond
	if err := os.WriteFile(stuck.spool.path(piece(9)+partSuffix), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "x")
	if stuck.spool.take(t.Context(), piece(9), dst, stuck.wait) {
		t.Error("a piece that is not there was taken")
	}
}

func TestPrefetchEnds(t *testing.T) {
	t.Run("nobody asks", func(t *testing.T) {
		r := newRecovery(t)
		r.idle = 50 * time.Millisecond
		r.want(0)
		if err := r.wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("an error", func(t *testing.T) {
		r := newRecovery(t)
		outage := errors.New("503")
		fail := func(_ context.Context, name string) error {
			if name == piece(2) {
				return outage
			}
			return nil
		}
		r.ahead.before, r.direct.before = fail, fail
		r.want(0)
		if err := r.wait(); !errors.Is(err, outage) {
			t.Errorf("it ended with %v", err)
		}
		r.want(1)
		dst := filepath.Join(t.TempDir(), "x")
		if err := r.feed(r.direct).Deliver(t.Context(), piece(2), dst, r.start); !errors.Is(err, outage) || errors.Is(err, wal.ErrBeyondPlan) {
			t.Errorf("the next direct fetch: %v", err)
		}
		if _, err := os.Stat(dst); err == nil {
			t.Error("a short file was delivered")
		}
	})
	t.Run("recovery has ended", func(t *testing.T) {
		r := newRecovery(t)
		r.ahead.before = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		r.want(0)
		r.until("it works", func(c content) bool { return len(c.parts) > 0 })
		for range 2 {
			if err := RemoveFeed(filepath.Join(r.dir, planName)); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(r.dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left behind: %v", err)
			}
		}
		if err := r.wait(); err != nil {
			t.Error(err)
		}
	})
}

// A killed fetch leaves its temporary file, a killed prefetcher its part;
// both are removed, but not what a living one writes.
func TestLeftoversOfKillsAreRemoved(t *testing.T) {
	r := newRecovery(t)
	spool := r.feed(r.direct).spool
	old := time.Now().Add(-time.Hour)
	if err := spool.ask(piece(0)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{tempPrefix + "dead", tempPrefix + "alive", piece(3) + partSuffix} {
		if err := errors.Join(os.WriteFile(spool.path(name), []byte("x"), 0o600), os.Chtimes(spool.path(name), old, old)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(spool.path(tempPrefix + "alive"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !tryLock(f, unix.LOCK_EX) {
		t.Fatal("no lock")
	}
	r.want(0)
	r.holds(1, 1+r.files)
	if c, err := spool.look(); err != nil || !slices.Equal(c.temps, []string{tempPrefix + "alive"}) {
		t.Errorf("temporary files: %v, %v", c.temps, err)
	}
}

// The whole way with an engine whose log has no order: a plan file, its key,
// and a store that is out for a while.
func TestPlanFeedOutlastsAnOutage(t *testing.T) {
	l := newLab(t, nil)
	if _, err := l.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	plan, err := engines.PlanRestore(t.Context(), l.engine, l.lineage(), engines.Goal{})
	if err != nil {
		t.Fatal(err)
	}
	outage, opened := errors.New("503"), 0
	feed := func(patience int) *PlanFeed {
		t.Helper()
		before := opened
		file, err := WriteFeed(t.Context(), l.lineage(), FeedPlan{Engine: l.engine.Name(), Repo: "mem://", Plan: plan, Patience: patience}, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		f, err := l.deps.OpenFeed(file, func(string) (engines.Engine, error) { return l.engine, nil }, func(context.Context, string) (blob.Store, error) {
			if opened++; opened < 3 {
				return nil, outage
			}
			return l.store, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if opened != before {
			t.Error("the store was opened before it was needed")
		}
		return f
	}
	start := func() error { t.Error("a prefetcher for a log without an order"); return nil }
	dst := filepath.Join(t.TempDir(), "x")
	leg := plan.Log.Legs[0]
	const span = 4 << 10 // enginetest's pieces
	if err := feed(30).Deliver(t.Context(), fmt.Sprintf("%s/%d", leg.Branch.ID, leg.From/span), dst, start); err != nil || opened != 3 {
		t.Errorf("after an outage of two attempts: %v, opened %d times", err, opened)
	}
	if got, err := os.ReadFile(dst); err != nil || len(got) != int(min(leg.To, (leg.From/span+1)*span)-leg.From) {
		t.Errorf("%d bytes were delivered, %v", len(got), err)
	}
	opened = -1 << 30
	if err := feed(30).Deliver(t.Context(), "elsewhere", dst, start); !errors.Is(err, wal.ErrBeyondPlan) {
		t.Errorf("beyond the plan, while the store is out: %v", err)
	}
	opened = -1 << 30
	f := feed(30)
	f.file.Patience = 0
	if _, err := f.openLineage(t.Context()); !errors.Is(err, outage) {
		t.Errorf("an outage that lasts: %v", err)
	}
	opened = 0
	f = feed(30)
	f.open = func(context.Context, string) (blob.Store, error) {
		opened++
		return nil, hferr.NewUsage("repository URL", errors.New("bad"), "")
	}
	if _, err := f.openLineage(t.Context()); err == nil || opened != 1 {
		t.Errorf("what no patience helps was tried %d times: %v", opened, err)
	}
}
