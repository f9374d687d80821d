package stream

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func baseTree() tree {
	tr := tree{"base/": nil, "base/gone": text(3, 5*page), "base/empty": nil}
	tr["base/a"] = noise(1, 100*page)
	tr["base/b"] = text(2, 70*page+100)
	for i := range 50 {
		tr[fmt.Sprintf("base/s%d", i)] = text(uint64(i), page)
	}
	return tr
}

func edit(body []byte, at int, with string) []byte {
	out := bytes.Clone(body)
	copy(out[at:], with)
	return out
}

func TestUnchangedStoresNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	m1, _ := backup(t, b.l, nil, baseTree(), o, 1)
	m2, stats := backup(t, b.l, m1, baseTree(), o, 4)
	if stats.NewBytes != 0 || stats.NewStored != 0 || stats.Packs != 0 {
		t.Errorf("stored %+v", stats)
	}
	dir, _ := restored(t, b.l, m2, o)
	same(t, dir, baseTree())
}

func TestOneChangedPage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	m1, _ := backup(t, b.l, nil, baseTree(), o, 1)
	tr := baseTree()
	tr["base/a"] = edit(tr["base/a"], 41*page+5, "x")
	m2, stats := backup(t, b.l, m1, tr, o, 4)
	if stats.NewBytes != page {
		t.Errorf("%d new bytes, want one page", stats.NewBytes)
	}
	if stats.NewStored > 2*page {
		t.Errorf("%d bytes stored for one page", stats.NewStored)
	}
	dir, _ := restored(t, b.l, m2, o)
	same(t, dir, tr)
	dir, _ = restored(t, b.l, m1, o)
	same(t, dir, baseTree())
}

// TestShapes changes what is there: longer, shorter, renamed, new, gone, cut
// otherwise.
func TestShapes(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	old := baseTree()
	m1, _ := backup(t, b.l, nil, old, o, 1)
	tr := old.clone()
	tr["base/a"] = append(bytes.Clone(old["base/a"]), noise(9, 3*page+1)...)
	tr["base/b"] = old["base/b"][:30*page]
	tr["base/renamed"] = old["base/s1"]
	delete(tr, "base/s1")
	delete(tr, "base/gone")
	tr["base/s2"] = nil
	tr["base/empty"] = text(77, page+1)
	m2, stats := backup(t, b.l, m1, tr, o, 4)
	if want := int64(3*page + 1 + page + page + 1); stats.NewBytes != want {
		t.Errorf("%d new bytes, want %d", stats.NewBytes, want)
	}
	m3, _ := backup(t, b.l, m2, old, o, 4)
	for _, g := range []struct {
		m    *repo.Manifest
		want tree
	}{{m1, old}, {m2, tr}, {m3, old}} {
		dir, _ := restored(t, b.l, g.m, o)
		same(t, dir, g.want)
	}
}

// growing is a file that gets longer while it is read.
type growing struct{ left int }

func (g *growing) Read(p []byte) (int, error) {
	n := min(len(p), g.left, 1000)
	copy(p, bytes.Repeat([]byte{'g'}, n))
	g.left -= n
	if n == 0 {
		return 0, errEOF
	}
	return n, nil
}

func TestGrowingFile(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	ctx := context.Background()
	w, err := NewWriter(ctx, b.l, nil, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	it := repo.Item{Path: "f", Mode: 0o600, Size: 10, Extent: page}
	if err := w.Put(ctx, it, &growing{left: 2<<20 + 3}); err != nil {
		t.Fatal(err)
	}
	items, packs, _, err := w.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if items[0].Size != 2<<20+3 {
		t.Errorf("size %d, want what was read", items[0].Size)
	}
	m := commit(t, b.l, nil, items, packs)
	target := &collecting{}
	if _, err := Restore(ctx, b.l, m, target, nil, o); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(target.file("f"), bytes.Repeat([]byte{'g'}, 2<<20+3)) {
		t.Error("restored bytes differ")
	}
}

// TestDamagedParent stores again what the parent's unreadable map described.
func TestDamagedParent(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	m1, _ := backup(t, b.l, nil, baseTree(), o, 1)
	for _, k := range b.packs() {
		body := b.store.Bytes(k)
		if len(body) < 100<<10 { // the map's
			body[60] ^= 1
			b.store.Put(k, body)
		}
	}
	m2, stats := backup(t, b.l, m1, baseTree(), o, 2)
	if stats.NewBytes != stats.Bytes {
		t.Errorf("%d of %d bytes stored again", stats.NewBytes, stats.Bytes)
	}
	dir, _ := restored(t, b.l, m2, o)
	same(t, dir, baseTree())
}

// TestGenerations makes random changes and demands that every generation,
// however many increments on, restores exactly.
func TestGenerations(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 42))
			b := newBench(t)
			o := options(t, 2*MinBudget)
			tr := baseTree()
			var parent *repo.Manifest
			var trees []tree
			var manifests []*repo.Manifest
			for range 6 {
				m, _ := backup(t, b.l, parent, tr, o, 1+rng.IntN(6))
				trees, manifests = append(trees, tr), append(manifests, m)
				parent = manifests[rng.IntN(len(manifests))]
				tr = mutate(rng, tr)
			}
			for i, m := range manifests {
				dir, _ := restored(t, b.l, m, o)
				same(t, dir, trees[i])
			}
		})
	}
}

// mutate changes some files of a tree at random.
func mutate(rng *rand.Rand, tr tree) tree {
	out := tr.clone()
	paths := tr.paths()
	for range 1 + rng.IntN(12) {
		p := paths[rng.IntN(len(paths))]
		if rng.IntN(2) == 0 {
			p = []string{"base/a", "base/b"}[rng.IntN(2)]
		}
		body, ok := out[p]
		if !ok || p[len(p)-1] == '/' {
			continue
		}
		switch rng.IntN(12) {
		case 0:
			delete(out, p)
		case 1:
			out[p] = append(bytes.Clone(body), noise(rng.Uint64(), rng.IntN(5*page))...)
		case 2:
			out[p] = body[:rng.IntN(len(body)+1)]
		case 3:
			out[fmt.Sprintf("base/n%d", rng.IntN(100))] = text(rng.Uint64(), rng.IntN(30*page))
		default:
			if len(body) > 0 {
				out[p] = edit(body, rng.IntN(len(body)), fmt.Sprint(rng.Uint64()))
			}
		}
	}
	return out
}

// TestSparseChangesStayBounded changes one page in each of many blocks: the
// pipeline must end packs early instead of keeping every block waiting.
func TestSparseChangesStayBounded(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	tr := tree{}
	body := make([]byte, 3<<20)
	for i := range 60 {
		tr[fmt.Sprintf("f%02d", i)] = body
	}
	m1, _ := backup(t, b.l, nil, tr, o, 1)
	changed := tree{}
	for p := range tr {
		changed[p] = edit(body, 100*page, p)
	}
	ctx := context.Background()
	w, err := NewWriter(ctx, b.l, m1, o)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	w.pending.limit = 3 * (3 << 20) / page * extentCostParent
	if err := putAll(ctx, w, changed, 8); err != nil {
		t.Fatal(err)
	}
	items, packs, stats, err := w.Finish(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if stats.NewBytes != 60*page {
		t.Errorf("%d new bytes, want 60 pages", stats.NewBytes)
	}
	if stats.Packs < 10 {
		t.Errorf("%d packs: nothing was relieved", stats.Packs)
	}
	slices.SortFunc(items, func(a, b repo.Item) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
	dir, _ := restored(t, b.l, commit(t, b.l, m1, items, packs), o)
	same(t, dir, changed)
}
