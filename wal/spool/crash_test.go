package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/underrace"
)

const (
	crashSeeds = 1000
	lives      = 4 // processes a seed
)

// errKilled ends a process, not its machine.
var errKilled = errors.New("killed")

// record is one thing given to the spool. Its time is its identity.
type record struct {
	p        Piece
	end      Position // of the log, behind it
	released bool     // Forget
}

// world is one directory over several lives of machine and process, and what
// the spool has said about it.
type world struct {
	rng     *rand.Rand
	seal    Sealer
	o       Options
	disk    *crashfs.FS
	ops     int // the process may make before it is killed
	spool   *Spool
	records []record // in the order taken, without what a restart showed to be lost
	synced  int      // of them
	stored  map[string]Position
	at      Point
	n       int64
	seen    map[string]int
}

func (w *world) take(p Piece) {
	w.records = append(w.records, record{p: p, end: w.at.Pos})
}

// needed: the spool may not have given it up.
func (w *world) needed(r record) bool {
	upTo := r.end
	if r.p.Beat != nil {
		upTo++
	}
	return !r.released && w.stored[r.p.Branch] < upTo
}

// begin continues the branch, perhaps a little earlier, or starts another.
func (w *world) begin() error {
	at := w.at
	if at.Branch == "" || w.rng.IntN(4) == 0 {
		at = Point{Branch: fmt.Sprintf("b%d", w.rng.IntN(100)), Pos: Position(w.rng.IntN(1000))}
	} else {
		at.Pos -= min(at.Pos, Position(w.rng.IntN(300)))
	}
	err := w.spool.Begin(at.Branch, at.Pos)
	if err == nil {
		w.at = at
	}
	return err
}

func (w *world) append() error {
	w.n++
	n := 1 + w.rng.IntN(600)
	if w.rng.IntN(20) == 0 {
		n = 1 + w.rng.IntN(1200) // in one frame, so that it is one piece
	}
	data, sent := text(w.at.Branch, w.at.Pos, n), epoch.Add(time.Duration(w.n)*time.Microsecond)
	err := w.spool.Append(w.at.Pos, data, sent)
	if err == nil {
		p := Piece{Branch: w.at.Branch, At: w.at.Pos, Data: data, Sent: sent}
		w.at.Pos += Position(n)
		w.take(p)
	}
	return err
}

func (w *world) beat() error {
	w.n++
	b := repo.Beat{N: w.n, At: epoch.Add(time.Duration(w.n)), Pos: w.at.Pos}
	err := w.spool.Beat(b)
	if err == nil {
		w.take(Piece{Branch: w.at.Branch, At: w.at.Pos, Beat: &b})
	}
	return err
}

func (w *world) sync() error {
	p, err := w.spool.Sync()
	if err == nil {
		if p != w.at {
			return fmt.Errorf("synced to %v of %v", p, w.at)
		}
		w.synced = len(w.records)
	}
	return err
}

// trim releases a branch up to somewhere, mostly all that is synced.
func (w *world) trim() error {
	if w.synced == 0 {
		return nil
	}
	r := w.records[w.rng.IntN(w.synced)]
	if w.rng.IntN(3) > 0 {
		r = w.records[w.synced-1]
	}
	w.stored[r.p.Branch] = max(w.stored[r.p.Branch], r.end)
	return w.spool.Trim(r.p.Branch, r.end)
}

func (w *world) step() error {
	switch w.rng.IntN(40) {
	case 0, 1:
		return w.begin()
	case 2, 3:
		return w.beat()
	case 4, 5:
		return w.trim()
	case 6, 7, 8, 9, 10, 11, 12, 13, 14, 15:
		return w.sync()
	}
	return w.append()
}

// start opens the spool, holds it to what earlier ones said, and begins.
func (w *world) start(ctx context.Context) error {
	s, err := Open(ctx, &faulty{w.disk, w.mortal}, "spool", w.seal, w.o)
	if err != nil {
		return err
	}
	w.spool = s
	if err := w.check(ctx); err != nil {
		return err
	}
	if w.rng.IntN(2) == 0 {
		if err := w.forget(); err != nil {
			return err
		}
	}
	if err := w.begin(); !errors.Is(err, ErrFull) {
		return err
	}
	if err := w.forget(); err != nil {
		return err
	}
	return w.begin()
}

// mortal is what kills a process before any of its operations.
func (w *world) mortal(string) error {
	if w.ops--; w.ops < 0 {
		return errKilled
	}
	return nil
}

// forget is what follows draining into the store.
func (w *world) forget() error {
	for i := range w.records {
		w.records[i].released = true
	}
	return w.spool.Forget()
}

// check: what is replayed is, record for record, a stretch of what was taken,
// that begins before whatever is needed and ends behind what was synced.
func (w *world) check(ctx context.Context) error {
	if d := w.spool.Held().Damage; d != nil {
		return fmt.Errorf("undamaged, yet: %w", d)
	}
	first, got := -1, 0
	err := w.spool.Replay(ctx, func(p Piece) error {
		if first < 0 {
			for first = 0; first < len(w.records) && !same(w.records[first].p, p); first++ {
			}
		}
		if i := first + got; i >= len(w.records) || !same(w.records[i].p, p) {
			return fmt.Errorf("piece %d (%s at %d) was not taken there", got, p.Branch, p.At)
		}
		got++
		return nil
	})
	if err != nil {
		return err
	}
	first = max(first, 0)
	for i, r := range w.records[:w.synced] {
		if w.needed(r) && (i < first || i >= first+got) {
			return fmt.Errorf("lost: record %d of %d synced (%s at %d); replayed %d from %d", i, w.synced, r.p.Branch, r.p.At, got, first)
		}
	}
	if got > 0 {
		w.seen["replayed"]++
		if first+got < len(w.records) {
			w.seen["unsynced lost"]++
		}
		if first+got > w.synced {
			w.seen["unsynced kept"]++
		}
		if first > 0 {
			w.seen["trimmed"]++
		}
		w.records = w.records[:first+got]
	} else {
		w.records = w.records[:w.synced] // which nobody needs
	}
	w.synced = len(w.records)
	return w.onDisk()
}

func same(a, b Piece) bool {
	if (a.Beat == nil) != (b.Beat == nil) || a.Branch != b.Branch || a.At != b.At {
		return false
	}
	if a.Beat != nil {
		return a.Beat.N == b.Beat.N
	}
	return a.Sent.Equal(b.Sent) && bytes.Equal(a.Data, b.Data)
}

// onDisk compares the limit with the directory.
func (w *world) onDisk() error {
	total := int64(0)
	err := w.disk.Entries(".", func(e fs.DirEntry) error {
		info, err := e.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if err == nil && total > w.o.Limit {
		err = fmt.Errorf("%d bytes on disk", total)
	}
	return err
}

// life is one process, until the machine crashes, it is killed, or it ends.
func (w *world) life(ctx context.Context) error {
	if err := w.start(ctx); err != nil {
		return err
	}
	for range w.rng.IntN(400) {
		err := w.step()
		if errors.Is(err, ErrFull) {
			w.seen["full"]++
			for _, do := range []func() error{w.sync, w.onDisk, w.trim} {
				if err := do(); err != nil {
					return err
				}
			}
			continue
		}
		if err != nil {
			return err
		}
	}
	err := w.spool.Close()
	if err == nil {
		w.synced = len(w.records)
	}
	return err
}

// TestCrash: whatever the machine forgets at a crash, what Sync returned is
// replayed byte for byte and in order, nothing else is, and the spool works on.
func TestCrash(t *testing.T) {
	seal, seen := lineage(t, true), map[string]int{}
	for seed := range underrace.Fewer(uint64(crashSeeds)) {
		rng := rand.New(rand.NewPCG(seed, 2))
		w := &world{rng: rng, seal: seal, o: manyFrames(), disk: crashfs.New(seed, nil), stored: map[string]Position{}, seen: seen}
		if seed%3 == 0 {
			w.o.Limit = MinLimit
		}
		for life := range lives {
			w.disk.CrashAt(w.disk.Ops() + rng.IntN(300))
			w.ops = rng.IntN(300)
			err := w.life(t.Context())
			switch {
			case errors.Is(err, errKilled):
				seen["killed"]++
				if w.spool != nil {
					kill(w.spool)
				}
			case err != nil && !errors.Is(err, crashfs.ErrCrashed):
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			if w.disk.Crashed() || rng.IntN(4) == 0 {
				seen["crashed"]++
				w.disk = w.disk.Restart()
			}
		}
		w.disk.CrashAt(-1)
		w.ops = 1 << 30
		if w.disk.Crashed() {
			w.disk = w.disk.Restart()
		}
		if err := w.start(t.Context()); err != nil {
			t.Fatalf("seed %d, at last: %v", seed, err)
		}
	}
	for _, what := range []string{"crashed", "replayed", "unsynced lost", "unsynced kept", "trimmed", "full", "killed"} {
		if seen[what] < 20 {
			t.Errorf("%s: only %d times; the test proves little", what, seen[what])
		}
	}
	t.Log(seen)
}

// TestFullDisk: wherever the disk's space ends, what Sync returned stays.
func TestFullDisk(t *testing.T) {
	seal, seen := lineage(t, true), map[string]int{}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 3))
		w := &world{rng: rng, seal: seal, o: manyFrames(), disk: crashfs.New(seed, nil), stored: map[string]Position{}, seen: seen}
		for life := range lives {
			w.ops = 1 << 30
			w.disk.SetFree(int64(rng.IntN(100 << 10)))
			err := w.life(t.Context())
			if errors.Is(err, ErrFailed) {
				seen["failed"]++
				if _, again := w.spool.Sync(); !errors.Is(again, ErrFailed) && !errors.Is(again, ErrClosed) {
					t.Fatalf("seed %d: after a failure Sync says %v", seed, again)
				}
				_ = w.spool.Close() // says so again
			} else if err != nil {
				t.Fatalf("seed %d, life %d: %v", seed, life, err)
			}
			if rng.IntN(2) == 0 {
				w.disk = w.disk.Restart()
			}
		}
		w.disk.SetFree(-1)
		if err := w.start(t.Context()); err != nil {
			t.Fatalf("seed %d, at last: %v", seed, err)
		}
	}
	if seen["failed"] < 100 || seen["replayed"] < 100 {
		t.Errorf("%v: the test proves little", seen)
	}
}

func dirNames(fsys diskfs.FS) (map[string]bool, error) {
	all := map[string]bool{}
	err := fsys.Entries(".", func(e fs.DirEntry) error {
		all[e.Name()] = true
		return nil
	})
	return all, err
}
