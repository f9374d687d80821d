package stream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const page = 8192

// bench is a repository to test on.
type bench struct {
	t     testing.TB
	store *memstore.Store
	l     *repo.Lineage
}

func newBench(t testing.TB) *bench {
	t.Helper()
	st := memstore.New(time.Now)
	return &bench{t: t, store: st, l: lineageOn(t, st)}
}

func lineageOn(t testing.TB, st blob.Store) *repo.Lineage {
	t.Helper()
	r, _, err := repo.Init(context.Background(), st, repo.InitOptions{
		Options: repo.Options{Clock: time.Now}, Passphrase: secret.New("pass"), ScryptWork: 10,
		Capabilities: blob.Capabilities{CreateOnly: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.EnsureLineage(context.Background(), repo.LineageInfo{ID: "pg-1", Engine: "postgres", Database: "db"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// through opens the same lineage over another store, such as a faulty one.
func (b *bench) through(st blob.Store) *repo.Lineage {
	b.t.Helper()
	l, err := repo.OpenLineage(context.Background(), st, "pg-1", b.l.ExportKey(), repo.Options{Clock: time.Now})
	if err != nil {
		b.t.Fatal(err)
	}
	return l
}

func options(t testing.TB, bytes int64) Options {
	t.Helper()
	b, err := NewBudget(bytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if used := b.InUse(); used != 0 {
			t.Errorf("%d bytes of the budget were never given back", used)
		}
	})
	return Options{Budget: b, Workers: 4, backoff: time.Millisecond}
}

// tree is what a backup holds: files by path; a directory ends in "/", a link
// has its target as content and begins with "->".
type tree map[string][]byte

func (tr tree) paths() []string {
	out := make([]string, 0, len(tr))
	for p := range tr {
		out = append(out, p)
	}
	slices.Sort(out)
	return out
}

func (tr tree) clone() tree {
	out := make(tree, len(tr))
	for p, b := range tr {
		out[p] = b
	}
	return out
}

func (tr tree) item(p string) (repo.Item, io.Reader) {
	body := tr[p]
	when := time.Unix(1_700_000_000+int64(len(p)), 0)
	switch {
	case p[len(p)-1] == '/':
		return repo.Item{Path: p[:len(p)-1], Kind: repo.KindDir, Mode: 0o750, ModTime: when}, nil
	case bytes.HasPrefix(body, []byte("->")):
		return repo.Item{Path: p, Kind: repo.KindSymlink, Link: string(body[2:])}, nil
	}
	return repo.Item{Path: p, Mode: 0o640, ModTime: when, Size: int64(len(body)), Extent: page}, bytes.NewReader(body)
}

// backup takes a backup of tr with so many concurrent Puts.
func backup(t testing.TB, l *repo.Lineage, parent *repo.Manifest, tr tree, o Options, streams int) (*repo.Manifest, Stats) {
	t.Helper()
	m, stats, err := tryBackup(t, l, parent, tr, o, streams)
	if err != nil {
		t.Fatal(err)
	}
	return m, stats
}

func tryBackup(t testing.TB, l *repo.Lineage, parent *repo.Manifest, tr tree, o Options, streams int) (*repo.Manifest, Stats, error) {
	t.Helper()
	ctx := context.Background()
	w, err := NewWriter(ctx, l, parent, o)
	if err != nil {
		return nil, Stats{}, err
	}
	defer w.Close()
	if err := putAll(ctx, w, tr, streams); err != nil {
		return nil, Stats{}, err
	}
	items, packs, stats, err := w.Finish(ctx)
	if err != nil {
		return nil, Stats{}, err
	}
	return commit(t, l, parent, items, packs), stats, nil
}

func putAll(ctx context.Context, w *Writer, tr tree, streams int) error {
	paths := make(chan string)
	errs := make(chan error, streams)
	var wg sync.WaitGroup
	for range streams {
		wg.Go(func() {
			for p := range paths {
				it, r := tr.item(p)
				if err := w.Put(ctx, it, r); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var err error
	for _, p := range tr.paths() {
		select {
		case paths <- p:
			continue
		case err = <-errs:
		}
		break
	}
	close(paths)
	wg.Wait()
	select {
	case e := <-errs:
		return e
	default:
		return err
	}
}

func commit(t testing.TB, l *repo.Lineage, parent *repo.Manifest, items []repo.Item, packs []repo.PackInfo) *repo.Manifest {
	t.Helper()
	id := ""
	if parent != nil {
		id = parent.ID
	}
	bw, err := l.BeginBackup(context.Background(), id)
	if err != nil {
		t.Fatal(err)
	}
	m := &repo.Manifest{Engine: "postgres", Database: "db", Branch: "b", Packs: packs}
	if err := bw.Commit(context.Background(), m, items); err != nil {
		t.Fatal(err)
	}
	m, err = l.Backup(context.Background(), bw.ID())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// restored restores into a new directory.
func restored(t testing.TB, l *repo.Lineage, m *repo.Manifest, o Options) (string, Stats) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	stats, err := restoreTo(l, m, dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return dir, stats
}

func restoreTo(l *repo.Lineage, m *repo.Manifest, dir string, o Options) (Stats, error) {
	target, err := NewDirTarget(dir, DirOptions{})
	if err != nil {
		return Stats{}, err
	}
	defer target.Close()
	return Restore(context.Background(), l, m, target, nil, o)
}

// same compares a restored directory with what was backed up: names, kinds,
// modes, times, and every byte.
func same(t testing.TB, dir string, want tree) {
	t.Helper()
	got := make(map[string]bool)
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		name := filepath.ToSlash(rel)
		if d.IsDir() {
			name += "/"
		}
		if _, ok := want[name]; !ok && !d.IsDir() {
			t.Errorf("%s was restored, and never backed up", name)
		}
		got[name] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for p := range want {
		if !got[p] {
			t.Errorf("%s is missing", p)
			continue
		}
		if err := sameItem(dir, p, want); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func sameItem(dir, p string, want tree) error {
	it, r := want.item(p)
	at := filepath.Join(dir, filepath.FromSlash(it.Path))
	if it.Kind == repo.KindSymlink {
		if link, err := os.Readlink(at); err != nil || link != it.Link {
			return fmt.Errorf("links to %q (%v), want %q", link, err, it.Link)
		}
		return nil
	}
	info, err := os.Lstat(at)
	if err != nil {
		return err
	}
	if info.Mode().Perm() != it.Mode || !info.ModTime().Equal(it.ModTime) {
		return fmt.Errorf("mode %o time %s, want %o %s", info.Mode().Perm(), info.ModTime(), it.Mode, it.ModTime)
	}
	if r == nil {
		return nil
	}
	body, err := os.ReadFile(at)
	if err != nil {
		return err
	}
	if !bytes.Equal(body, want[p]) {
		return fmt.Errorf("%d bytes, want %d; first difference at %d", len(body), len(want[p]), firstDifference(body, want[p]))
	}
	return nil
}

func firstDifference(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// noise does not compress, text does.
func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2], key[3] = byte(seed), byte(seed>>8), byte(seed>>16), byte(seed>>24)
	b := make([]byte, n)
	_, _ = rand.NewChaCha8(key).Read(b)
	return b
}

func text(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, 0, n+40)
	for len(b) < n {
		b = fmt.Appendf(b, "row %d of account %d;", rng.IntN(1e6), rng.IntN(1000))
	}
	return b[:n]
}

// packs lists the keys of stored packs.
func (b *bench) packs() []string {
	var out []string
	for _, k := range b.store.Keys() {
		if strings.Contains(k, "/pack/") {
			out = append(out, k)
		}
	}
	return out
}

// frames counts a pack's frames, checking each.
func (b *bench) frames(key string) (int, error) {
	n := 0
	err := b.l.CheckPack(b.store.Bytes(key), func(repo.FrameRef, []byte) error {
		n++
		return nil
	})
	return n, err
}

func (b *bench) newStore() *memstore.Store { return memstore.New(time.Now) }
