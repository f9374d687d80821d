package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// spooled is a lineage with a spool, over a store that can be full.
type spooled struct {
	t     *testing.T
	d     Deps
	l     *repo.Lineage
	full  atomic.Bool
	spool *spool.Spool
	dir   string
}

func newSpooled(t *testing.T) *spooled {
	t.Helper()
	t.Parallel()
	w := &spooled{t: t, dir: filepath.Join(t.TempDir(), "spool")}
	st := faulty.Wrap(memstore.New(time.Now), func(c faulty.Call) faulty.Fault {
		if w.full.Load() && c.Op == faulty.Create {
			return faulty.Fault{Kind: faulty.Full}
		}
		return faulty.Fault{}
	})
	r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Unencrypted: true})
	w.must(err)
	w.l, err = r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "db"})
	w.must(err)
	w.d = Deps{Repo: r, Log: slog.New(slog.DiscardHandler), Clock: time.Now}
	w.open()
	return w
}

func (w *spooled) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *spooled) open() {
	w.t.Helper()
	var err error
	w.spool, err = spool.OpenDir(w.t.Context(), w.dir, w.l, spool.Options{Limit: 1 << 26})
	w.must(err)
}

// write sends log to an archiver that has begun.
func (w *spooled) write(a *wal.Archiver, at repo.Position, data []byte) {
	w.t.Helper()
	w.must(a.Write(w.t.Context(), wal.Chunk{Pos: at, Data: data, SentTime: time.Now()}))
}

func (w *spooled) durable(a *wal.Archiver, at repo.Position) {
	w.t.Helper()
	for range 5000 {
		if a.Durable() >= at {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatalf("durable through %d, want %d", a.Durable(), at)
}

// countingIndexer counts bytes as commits.
type countingIndexer struct{ n int64 }

func (c *countingIndexer) Add(_ repo.Position, data []byte) { c.n += int64(len(data)) }
func (c *countingIndexer) Cut() repo.LogIndex {
	n := c.n
	c.n = 0
	return repo.LogIndex{Complete: true, Commits: n}
}

// A connection that is lost and made again behind the very byte that was
// received last brings an indexer of its own, which has not seen what is still
// in the open segment.
func TestAReconnectKeepsTheIndexWhole(t *testing.T) {
	w := newSpooled(t)
	var got []repo.SegmentMeta
	a := wal.NewArchiver(w.l, wal.ArchiverOptions{Spool: w.spool, OnDurable: func(m repo.SegmentMeta) { got = append(got, m) }})
	w.must(a.Begin(t.Context(), crashBranch, 100, &countingIndexer{}))
	w.write(a, 100, make([]byte, 10))
	w.must(a.Begin(t.Context(), crashBranch, 110, &countingIndexer{}))
	w.write(a, 110, make([]byte, 5))
	w.must(a.Flush(t.Context()))
	for _, m := range got {
		if m.Index.Commits != int64(m.End-m.Start) {
			t.Errorf("[%d, %d): the index counts %d bytes", m.Start, m.End, m.Index.Commits)
		}
	}
	w.must(a.Close(t.Context(), "shutdown"))
}

// Log that is missing between a fork and where a branch's archive begins is a
// hole like any other.
func TestAHoleBehindAForkShows(t *testing.T) {
	w := newSpooled(t)
	a := wal.NewArchiver(w.l, wal.ArchiverOptions{})
	w.must(a.Begin(t.Context(), crashBranch, 0, nil))
	w.write(a, 0, make([]byte, 100))
	w.must(a.Close(t.Context(), "shutdown"))
	a = wal.NewArchiver(w.l, wal.ArchiverOptions{})
	child := repo.Branch{ID: "00000002-aa", Number: 2, Parent: crashBranch.ID, Fork: 200}
	w.must(a.Begin(t.Context(), child, 300, nil))
	if h := a.Status().Hole; h == nil || h.Branch != child.ID || h.Start != 100 || h.End != 300 {
		t.Errorf("hole %+v, want [100, 300)", h)
	}
	w.must(a.Close(t.Context(), "shutdown"))
}

// What the spool has acknowledged is never thrown away because the store holds
// the same place: it may be another server's.
func TestDrainKeepsAnotherHistory(t *testing.T) {
	w := newSpooled(t)
	a := wal.NewArchiver(w.l, wal.ArchiverOptions{Spool: w.spool})
	w.must(a.Begin(t.Context(), crashBranch, 0, nil))
	w.full.Store(true)
	w.write(a, 0, []byte("acknowledged"))
	w.durable(a, 12)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_ = a.Close(gone, "shutdown")
	w.must(w.spool.Close())
	w.full.Store(false)

	other := wal.NewArchiver(w.l, wal.ArchiverOptions{})
	w.must(other.Begin(t.Context(), crashBranch, 0, nil))
	w.write(other, 0, []byte("other history"))
	w.must(other.Close(t.Context(), "shutdown"))
	w.open()
	n, err := w.d.drainSpool(t.Context(), w.l, w.spool, nil)
	if n != 0 || !errors.Is(err, repo.ErrFork) || hferr.HintOf(err) == "" {
		t.Errorf("drained %d, %v", n, err)
	}
	if h := w.spool.Held(); len(h.Ranges) != 1 || h.Ranges[0].End != 12 {
		t.Errorf("the spool holds %+v", h)
	}
	w.must(w.spool.Close())
}

// What the job says it holds it can also show, wherever the parts of it are.
func TestHeldIsArchived(t *testing.T) {
	w := newSpooled(t)
	first := wal.NewArchiver(w.l, wal.ArchiverOptions{})
	w.must(first.Begin(t.Context(), crashBranch, 0, nil))
	w.write(first, 0, logAt(0, 100))
	w.must(first.Close(t.Context(), "shutdown"))
	j := w.d.newStreamJob(StreamRequest{Events: func(StreamEvent) {}})
	j.lineage, j.spool = w.l, w.spool
	j.arch = wal.NewArchiver(w.l, wal.ArchiverOptions{Spool: w.spool})
	w.must(j.arch.Begin(t.Context(), crashBranch, 100, nil))
	w.full.Store(true) // puts fail, reads do not
	w.write(j.arch, 100, logAt(100, 150))
	w.durable(j.arch, 150)
	held, err := j.held(t.Context(), crashBranch.ID)
	if err != nil || len(held) != 1 || held[0].Start != 0 || held[0].End != 150 {
		t.Fatalf("held %v, %v", held, err)
	}
	if b, err := j.archived(t.Context(), crashBranch.ID, 64, 150); err != nil || !bytes.Equal(b, logAt(64, 150)) {
		t.Errorf("archived %d bytes, %v", len(b), err)
	}
	w.full.Store(false)
	w.must(j.arch.Close(t.Context(), "shutdown"))
}

// impostor is a source whose system changes between sessions.
type impostor struct {
	engines.Source
	engines.LogSource
	id string
}

func (i *impostor) Identify(context.Context) (engines.Identity, error) {
	return engines.Identity{Lineage: repo.LineageInfo{ID: i.id, Engine: "fake"}}, nil
}
func (i *impostor) Close() error                             { return nil }
func (i *impostor) Log() engines.LogSource                   { return i }
func (i *impostor) Clock(context.Context) (time.Time, error) { return time.Now(), nil }
func (i *impostor) Prepare(context.Context) error            { return nil }
func (i *impostor) Guarantee(context.Context) (engines.Guarantee, error) {
	return engines.Guarantee{}, nil
}
func (i *impostor) Tail(ctx context.Context, o engines.TailOptions, in wal.Intake) error {
	if err := in.Begin(ctx, crashBranch, 0, nil); err != nil {
		return err
	}
	o.Ready(0)
	return os.ErrDeadlineExceeded
}

// A stream that has begun is never led on to another system, whatever it was
// told to accept at its start.
func TestAStreamStaysWithItsSystem(t *testing.T) {
	w := newSpooled(t)
	ids := []string{"pg-1", "pg-2"}
	err := w.d.Stream(t.Context(), StreamRequest{Database: "db", NewLineage: true,
		Connect: func(context.Context) (engines.Source, error) {
			id := ids[0]
			ids = ids[1:]
			return &impostor{id: id}, nil
		}})
	if engines.ConditionOf(err) != engines.ConditionOtherSystem {
		t.Errorf("%v", err)
	}
}

// Ctrl-C is no failure: neither in what Stream returns nor in status.
func TestACleanStopLeavesNoCondition(t *testing.T) {
	l := newLab(t, nil)
	stop := l.streaming(nil)
	time.Sleep(300 * time.Millisecond)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	st, err := l.deps.Status(t.Context(), "orders", l.lineage(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range st.Findings {
		if f.Code != "no-backup" && f.Code != "never-drilled" {
			t.Errorf("%+v", f)
		}
	}
}
