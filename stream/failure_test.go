package stream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/repo"
)

var errEOF = io.EOF

// collecting is a Target in memory.
type collecting struct {
	mu    sync.Mutex
	files map[string]*memFile
}

type memFile struct {
	mu     sync.Mutex
	body   []byte
	closed int
}

func (c *collecting) Mkdir(repo.Item) error   { return nil }
func (c *collecting) Symlink(repo.Item) error { return nil }
func (c *collecting) Create(it repo.Item) (File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.files == nil {
		c.files = make(map[string]*memFile)
	}
	f := &memFile{body: make([]byte, it.Size)}
	c.files[it.Path] = f
	return f, nil
}

func (c *collecting) file(p string) []byte { return c.files[p].body }

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return copy(f.body[off:], p), nil
}

func (f *memFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed++
	return nil
}

// packFault hits puts or gets of packs.
func packFault(op faulty.Op, kind faulty.Kind, times int) faulty.Plan {
	return faulty.Script(faulty.Rule{Op: op, Key: "/pack/", Times: times, Fault: faulty.Fault{Kind: kind, At: 100}})
}

// TestTransientFaults must not show.
func TestTransientFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op   faulty.Op
		kind faulty.Kind
	}{{faulty.Create, faulty.Before}, {faulty.Create, faulty.Lost}, {faulty.Read, faulty.Before}, {faulty.Read, faulty.Cut}} {
		t.Run(string(c.op)+" "+string(c.kind), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			st := faulty.Wrap(b.store, packFault(c.op, c.kind, 3))
			l := b.through(st)
			if c.op == faulty.Create { // an exported key only reads
				st = faulty.Wrap(b.newStore(), packFault(c.op, c.kind, 3))
				l = lineageOn(t, st)
			}
			o := options(t, MinBudget)
			wl := l
			if c.op == faulty.Read {
				wl = b.l
			}
			m, _ := backup(t, wl, nil, baseTree(), o, 2)
			dir, _ := restored(t, l, m, o)
			same(t, dir, baseTree())
			if len(st.Injected()) == 0 {
				t.Error("no fault was injected")
			}
		})
	}
}

// TestPutFailures: an error for good, and a stall, end the backup with it.
func TestPutFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind faulty.Kind
		want error
	}{{faulty.Before, faulty.ErrInjected}, {faulty.Full, faulty.ErrInjected}, {faulty.Stall, ErrStalled}} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			l := lineageOn(t, faulty.Wrap(b.newStore(), packFault(faulty.Create, c.kind, -1)))
			o := options(t, MinBudget)
			o.Workers = 8
			o.Stall = 200 * time.Millisecond
			tr := tree{}
			for _, p := range strings.Split("abcdefghijklmnop", "") {
				tr[p] = noise(uint64(p[0]), 6<<20)
			}
			_, _, err := tryBackup(t, l, nil, tr, o, 16)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
			if c.kind == faulty.Full && strings.Contains(err.Error(), "attempt") {
				t.Errorf("a full disk was retried: %v", err)
			}
			if high := o.Budget.HighWater(); high > o.Budget.Size() {
				t.Errorf("%d bytes in flight, the budget is %d", high, o.Budget.Size())
			}
		})
	}
}

// slow delays every put.
func TestSlowStoreAtLeastBudget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	st := faulty.Wrap(b.newStore(), func(c faulty.Call) faulty.Fault {
		if c.Op == faulty.Create {
			time.Sleep(20 * time.Millisecond)
		}
		return faulty.Fault{}
	})
	l := lineageOn(t, st)
	o := options(t, MinBudget)
	o.Workers = 8
	tr := tree{}
	for _, p := range strings.Split("abcdefghijklmnop", "") {
		tr[p] = noise(uint64(p[0]), 6<<20+int(p[0]))
	}
	m, _ := backup(t, l, nil, tr, o, 16)
	target := &collecting{}
	if _, err := Restore(context.Background(), l, m, target, nil, o); err != nil {
		t.Fatal(err)
	}
	for p, body := range tr {
		if !bytes.Equal(target.file(p), body) {
			t.Errorf("%s differs", p)
		}
		if n := target.files[p].closed; n != 1 {
			t.Errorf("%s was closed %d times", p, n)
		}
	}
	if high := o.Budget.HighWater(); high > MinBudget {
		t.Errorf("%d bytes in flight", high)
	}
}

type failing struct {
	n   int
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if f.n <= 0 {
		return 0, f.err
	}
	n := min(len(p), f.n)
	f.n -= n
	return n, nil
}

func TestReaderError(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	ctx := context.Background()
	w, err := NewWriter(ctx, b.l, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cause := errors.New("the disk went away")
	err = w.Put(ctx, repo.Item{Path: "dir/f", Extent: page}, &failing{n: 3 << 20, err: cause})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "dir/f") {
		t.Errorf("%v", err)
	}
	if err := w.Put(ctx, repo.Item{Path: "g", Kind: repo.KindDir}, nil); !errors.Is(err, cause) {
		t.Errorf("a later Put: %v", err)
	}
	if _, _, _, err := w.Finish(ctx); !errors.Is(err, cause) {
		t.Errorf("Finish: %v", err)
	}
}

func TestBadItems(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	for _, it := range []repo.Item{
		{Path: "../x"}, {Path: "/x"}, {Path: ""}, {Path: "."}, {Path: "a//b"},
		{Path: "x", Extent: 100}, {Path: "x", Extent: 2 << 20}, {Path: "twice"},
	} {
		w, err := NewWriter(context.Background(), b.l, nil, options(t, MinBudget))
		if err != nil {
			t.Fatal(err)
		}
		if it.Path == "twice" {
			if err := w.Put(context.Background(), it, strings.NewReader("x")); err != nil {
				t.Error(err)
			}
		}
		if err := w.Put(context.Background(), it, strings.NewReader("x")); err == nil {
			t.Errorf("%+v was taken", it)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	cause := errors.New("the user said stop")
	for _, where := range []string{"writer", "put"} {
		t.Run(where, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			ctx, cancel := context.WithCancelCause(context.Background())
			wctx, pctx := ctx, context.Background()
			if where == "put" {
				wctx, pctx = pctx, wctx
			}
			w, err := NewWriter(wctx, b.l, nil, options(t, MinBudget))
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			pr, pw := io.Pipe()
			go func() {
				_, _ = pw.Write(noise(1, 3<<20))
				cancel(cause)
				_, _ = pw.Write(noise(1, 60<<20))
				_ = pw.Close()
			}()
			err = w.Put(pctx, repo.Item{Path: "f", Extent: page}, pr)
			_ = pr.Close()
			if !errors.Is(err, cause) {
				t.Errorf("Put: %v", err)
			}
			if _, _, _, err := w.Finish(context.Background()); !errors.Is(err, cause) {
				t.Errorf("Finish: %v", err)
			}
		})
	}
}

// TestFlippedBytes flips one byte at many places of every pack: a restore
// either fails with ErrDamaged or is exact (the footer is not read by it).
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	tr := tree{"a": noise(1, 9*page+3), "b": text(2, 40*page), "c": make([]byte, 20*page)}
	m, _ := backup(t, b.l, nil, tr, o, 1)
	detected := 0
	for _, k := range b.packs() {
		whole := b.store.Bytes(k)
		for _, at := range positions(len(whole)) {
			bad := bytes.Clone(whole)
			bad[at] ^= 0x10
			b.store.Put(k, bad)
			target := &collecting{}
			_, err := Restore(context.Background(), b.l, m, target, nil, o)
			switch {
			case errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrFormat):
				detected++
				if !strings.Contains(err.Error(), "pack") {
					t.Errorf("byte %d: the error names no pack: %v", at, err)
				}
			case err != nil:
				t.Errorf("%s byte %d: %v", k, at, err)
			default:
				for p, body := range tr {
					if !bytes.Equal(target.file(p), body) {
						t.Errorf("%s byte %d: %s was restored wrong, silently", k, at, p)
					}
				}
			}
		}
		b.store.Put(k, whole)
	}
	if detected < 20 {
		t.Errorf("%d flips detected", detected)
	}
}

func positions(n int) []int {
	out := []int{0, 7, 20, 40, n / 2, n - 1, n - 20}
	for i := 64; i < n; i += n/20 + 1 {
		out = append(out, i)
	}
	slices.Sort(out)
	return slices.DeleteFunc(out, func(i int) bool { return i < 0 || i >= n })
}

func TestRestoreFailures(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	o.Stall = 200 * time.Millisecond
	m, _ := backup(t, b.l, nil, baseTree(), o, 1)
	for _, c := range []struct {
		kind faulty.Kind
		want error
	}{{faulty.Stall, ErrStalled}, {faulty.StallBody, ErrStalled}, {faulty.Before, faulty.ErrInjected}} {
		l := b.through(faulty.Wrap(b.store, packFault(faulty.Read, c.kind, -1)))
		_, err := restoreTo(l, m, filepath.Join(t.TempDir(), "out"), o)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.kind, err, c.want)
		}
	}
	for _, k := range b.packs() {
		if err := b.store.Delete(context.Background(), k); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := restoreTo(b.l, m, filepath.Join(t.TempDir(), "out"), o); !errors.Is(err, repo.ErrNotFound) {
		t.Errorf("missing packs: %v", err)
	}
}

// TestSelfCheck spoils ids, as a bad memory cell would, and expects the pack
// to be held back.
func TestSelfCheck(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	ctx := context.Background()
	w, err := NewWriter(ctx, b.l, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.Put(ctx, repo.Item{Path: "f", Extent: page}, bytes.NewReader(noise(1, page))); err != nil {
		t.Fatal(err)
	}
	for {
		w.collect.mu.Lock()
		ready := len(w.collect.segments) > 0
		if ready {
			w.collect.buf[17] ^= 1
		}
		w.collect.mu.Unlock()
		if ready {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if _, _, _, err := w.Finish(ctx); !errors.Is(err, repo.ErrDamaged) || !strings.Contains(err.Error(), "extent 0 of f") {
		t.Errorf("%v", err)
	}
	if n := len(b.packs()); n != 0 {
		t.Errorf("%d packs were put", n)
	}
}

// TestSwappedPacks answers with another pack of the lineage, one that
// authenticates and has frames at the same places: data or map.
func TestSwappedPacks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	var manifests []*repo.Manifest
	for seed := range uint64(2) {
		m, _ := backup(t, b.l, nil, tree{"f": noise(seed, 20*page)}, o, 1)
		manifests = append(manifests, m)
	}
	for i := range manifests[0].Packs {
		mine, other := packKey(b, manifests[0].Packs[i].ID), packKey(b, manifests[1].Packs[i].ID)
		if mine == "" || other == "" {
			t.Fatal("packs not found")
		}
		whole := b.store.Bytes(mine)
		b.store.Put(mine, b.store.Bytes(other))
		_, err := Restore(context.Background(), b.l, manifests[0], &collecting{}, nil, o)
		if !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("pack %d swapped: %v", i, err)
		}
		b.store.Put(mine, whole)
	}
}

func packKey(b *bench, id repo.PackID) string {
	for _, k := range b.packs() {
		if strings.HasSuffix(k, id.String()) {
			return k
		}
	}
	return ""
}

// TestTransfersShareABudget: a restore that does not fit beside a backup waits
// for it, and neither stops the other.
func TestTransfersShareABudget(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	m, _ := backup(t, b.l, nil, baseTree(), o, 1)
	ctx := context.Background()
	w, err := NewWriter(ctx, b.l, m, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	target := &collecting{}
	done := make(chan error, 1)
	go func() {
		_, err := Restore(ctx, b.l, m, target, nil, o)
		done <- err
	}()
	for !o.Budget.contended() {
		time.Sleep(time.Millisecond)
	}
	if err := putAll(ctx, w, baseTree(), 3); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(target.file("base/a"), baseTree()["base/a"]) {
		t.Error("restored bytes differ")
	}
}
