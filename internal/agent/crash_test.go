package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/internal/underrace"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// crashRuns is how many seeded runs there are, over store and spool each.
func crashRuns(t *testing.T) uint64 {
	n := underrace.Fewer(uint64(1000))
	if s := os.Getenv("HOLDFAST_TEST_CRASHES"); s != "" {
		var err error
		if n, err = strconv.ParseUint(s, 10, 32); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// TestCrashesLoseNothing: archive, commit, restart, over disks that forget at
// a crash whatever was not fsynced, directory entries included. Whatever was
// acknowledged is in the archive afterwards, byte for byte; every backup that
// was committed is there whole; what the server was allowed to remove is held
// even if the spool's disk is lost as well.
func TestCrashesLoseNothing(t *testing.T) {
	for _, durability := range []string{"store", "spool"} {
		t.Run(durability, func(t *testing.T) {
			t.Parallel()
			var total crashTotals
			for seed := range crashRuns(t) / 2 {
				synctest.Test(t, func(t *testing.T) {
					c := newCrashRun(t, seed, durability == "spool")
					for range 3 {
						c.life()
					}
					total.add(c.crashTotals)
				})
				if t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
			t.Logf("%+v", total)
			if total.Acked == 0 || total.Crashes == 0 || total.Committed == 0 || durability == "spool" && (total.Ahead == 0 || total.Drained == 0) {
				t.Errorf("the runs prove nothing: %+v", total)
			}
		})
	}
}

type crashTotals struct{ Acked, Crashes, Committed, Ahead, Drained, Lost int }

func (c *crashTotals) add(o crashTotals) {
	c.Acked += o.Acked
	c.Crashes += o.Crashes
	c.Committed += o.Committed
	c.Ahead += o.Ahead
	c.Drained += o.Drained
	c.Lost += o.Lost
}

// crashRun is one machine with its disks through several lives.
type crashRun struct {
	crashTotals
	t          *testing.T
	rng        *rand.Rand
	disk       *crashfs.FS // the store's
	local      *crashfs.FS // the spool's; nil without one
	acked      repo.Position
	stored     repo.Position // what the server may have removed
	backups    map[string][]byte
	publicKeys repo.Unlock
}

var crashBranch = repo.Branch{ID: "00000001-root", Number: 1}

func newCrashRun(t *testing.T, seed uint64, spooled bool) *crashRun {
	t.Helper()
	c := &crashRun{t: t, rng: rand.New(rand.NewPCG(seed, 7)), disk: crashfs.New(seed, time.Now), backups: map[string][]byte{},
		publicKeys: repo.Unlock{Passphrase: secret.New("pass")}}
	if spooled {
		c.local = crashfs.New(seed+1<<32, time.Now)
	}
	init := repo.InitOptions{Passphrase: secret.New("pass"), ScryptWork: 10}
	if _, _, err := repo.Init(t.Context(), file.New(c.disk, "crashfs", file.Options{}), init); err != nil {
		t.Fatal(err)
	}
	return c
}

// logAt is the server's log: the same whenever it is asked for.
func logAt(from, to repo.Position) []byte {
	out := make([]byte, 0, to-from+16)
	for p := from &^ 7; p < to; p += 8 {
		out = binary.BigEndian.AppendUint64(out, uint64(p)*0x9e3779b97f4a7c15)
	}
	return out[from&7:][:to-from]
}

// life is what happens between two starts of the machine.
func (c *crashRun) life() {
	c.t.Helper()
	if n := c.rng.IntN(6); n != 0 { // one life in six ends by itself
		c.disk.CrashAt(c.disk.Ops() + c.rng.IntN(700))
		if c.local != nil && n > 2 {
			c.local.CrashAt(c.local.Ops() + c.rng.IntN(200))
		}
	}
	if err := c.work(); err != nil && !errors.Is(err, crashfs.ErrCrashed) && !errors.Is(err, context.Canceled) {
		c.t.Errorf("before the crash: %v", err)
	}
	if c.disk.Crashed() || c.local != nil && c.local.Crashed() {
		c.Crashes++
	}
	c.disk = c.disk.Restart()
	lostSpool := false
	if c.local != nil {
		c.local = c.local.Restart()
		if lostSpool = c.rng.IntN(5) == 0; lostSpool {
			c.local = crashfs.New(c.rng.Uint64(), time.Now) // the disk is gone
			c.Lost++
			c.acked = c.stored
		}
	}
	c.check()
}

// open opens what is on the disks, and drains the spool as a stream does.
func (c *crashRun) open(ctx context.Context) (*repo.Lineage, *spool.Spool, error) {
	d, err := c.deps(ctx)
	if err != nil {
		return nil, nil, err
	}
	l, err := d.Repo.EnsureLineage(ctx, repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "orders"})
	if err != nil || c.local == nil {
		return l, nil, err
	}
	c.local.Hook(func(op crashfs.Op) {
		if strings.HasSuffix(op.Kind, "sync") && op.N%3 == 0 {
			time.Sleep(5 * time.Millisecond) // log arrives meanwhile, and must not count as synced
		}
	})
	s, err := spool.Open(ctx, c.local, "crashfs", l, spool.Options{Limit: 1 << 20, FileBytes: 16 << 10})
	if err != nil {
		return nil, nil, err
	}
	n, err := d.drainSpool(ctx, l, s, nil)
	c.Drained += int(n)
	return l, s, err
}

func (c *crashRun) deps(ctx context.Context) (Deps, error) {
	r, err := repo.Open(ctx, file.New(c.disk, "crashfs", file.Options{}), c.publicKeys, repo.Options{Clock: time.Now})
	return Deps{Repo: r, Log: slog.New(slog.DiscardHandler), Clock: time.Now, Tool: "test"}, err
}

// work streams and takes backups until the machine crashes or enough is done.
func (c *crashRun) work() error {
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Hour) // of the bubble's time
	defer cancel()
	l, s, err := c.open(ctx)
	if err != nil {
		return err
	}
	o := wal.ArchiverOptions{FlushEvery: 50 * time.Millisecond, MaxSegment: 64 + c.rng.IntN(4000), MaxPending: 16 << 10, Retry: time.Second}
	if s != nil {
		o.Spool = s
	}
	arch := wal.NewArchiver(l, o)
	// A machine that crashed says no goodbye.
	defer func() {
		gone, cancel := context.WithCancel(ctx)
		cancel()
		_ = arch.Close(gone, "shutdown")
	}()
	refs, err := l.Segments(ctx, crashBranch.ID, 0)
	if err != nil {
		return err
	}
	at := wal.FirstMissing(wal.Coverage(refs), 0)
	if err := arch.Begin(ctx, crashBranch, at, nil); err != nil {
		return err
	}
	for range c.rng.IntN(60) {
		next := at + repo.Position(1+c.rng.IntN(2000))
		if err := arch.Write(ctx, wal.Chunk{Pos: at, Data: logAt(at, next), SentTime: time.Now()}); err != nil {
			return err
		}
		at = next
		switch c.rng.IntN(12) {
		case 3, 4, 5:
			time.Sleep(time.Millisecond)
		case 0:
			time.Sleep(time.Duration(c.rng.IntN(200)) * time.Millisecond)
		case 1:
			if err := arch.Flush(ctx); err != nil {
				return err
			}
		case 2:
			if err := c.backup(ctx, l); err != nil {
				return err
			}
		}
		if c.rng.IntN(2) == 0 {
			synctest.Wait() // else an fsync may be under way while more is written
		}
		c.note(arch)
	}
	return nil
}

// note remembers what the server was told.
func (c *crashRun) note(arch *wal.Archiver) {
	durable, stored := arch.Durable(), arch.Stored()
	if durable > c.acked {
		c.Acked++
	}
	if durable > stored {
		c.Ahead++
	}
	c.acked, c.stored = max(c.acked, durable), max(c.stored, stored)
}

func (c *crashRun) backup(ctx context.Context, l *repo.Lineage) error {
	bw, err := l.BeginBackup(ctx, "")
	if err != nil {
		return err
	}
	b, err := stream.NewBudget(stream.MinBudget)
	if err != nil {
		return err
	}
	w, err := stream.NewWriter(ctx, l, nil, stream.Options{Budget: b, Workers: 1, Clock: time.Now})
	if err != nil {
		return err
	}
	defer w.Close()
	body := logAt(0, repo.Position(c.rng.IntN(20000)))
	if err := w.Put(ctx, repo.Item{Path: "data", Mode: 0o600, Size: int64(len(body)), Extent: 8192}, bytes.NewReader(body)); err != nil {
		return err
	}
	items, packs, _, err := w.Finish(ctx)
	if err != nil {
		return err
	}
	m := &repo.Manifest{Format: repo.Format, ID: bw.ID(), Lineage: l.Info().ID, Packs: packs, Engine: "fake", Database: "orders",
		Branch: crashBranch.ID, Stop: 1, StopTime: time.Now(), Items: 1, Bytes: int64(len(body))}
	if err := bw.Commit(ctx, m, items); err != nil {
		return err
	}
	c.backups[bw.ID()] = body
	c.Committed++
	return nil
}

// check opens the repository of a machine that has come up again.
func (c *crashRun) check() {
	c.t.Helper()
	ctx := c.t.Context()
	l, s, err := c.open(ctx)
	if err != nil {
		c.t.Fatalf("after the crash: %v", err)
	}
	if s != nil {
		if err := s.Close(); err != nil {
			c.t.Fatalf("close the spool: %v", err)
		}
	}
	refs, err := l.Segments(ctx, crashBranch.ID, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	if end := wal.FirstMissing(wal.Coverage(refs), 0); end < c.acked {
		c.t.Fatalf("acknowledged through %d, held through %d", c.acked, end)
	}
	if c.acked > 0 {
		got, err := wal.ReadRange(ctx, l, crashBranch.ID, 0, c.acked)
		if err != nil || !bytes.Equal(got, logAt(0, c.acked)) {
			c.t.Fatalf("the archive's bytes differ from the server's: %v", err)
		}
	}
	c.checkBackups(ctx, l)
}

func (c *crashRun) checkBackups(ctx context.Context, l *repo.Lineage) {
	c.t.Helper()
	all, err := l.Backups(ctx)
	if err != nil {
		c.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, m := range all {
		seen[m.ID] = true
		for _, p := range m.Packs { // committed or not known to be: each one listed is whole
			if err := l.StatPack(ctx, p); err != nil {
				c.t.Fatalf("backup %s: %v", m.ID, err)
			}
		}
	}
	for id := range c.backups {
		if !seen[id] {
			c.t.Fatalf("backup %s was committed and is gone", id)
		}
	}
}
