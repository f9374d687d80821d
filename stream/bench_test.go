package stream

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// benchTree is 256 MiB that compresses like a database does, about fourfold.
func benchTree() tree {
	tr := tree{}
	mixed := append(text(1, 7<<20), noise(1, 1<<20)...)
	for i := range 4 {
		big := make([]byte, 0, 64<<20)
		for len(big) < 64<<20 {
			big = append(big, mixed...)
		}
		tr[fmt.Sprintf("f%d", i)] = big
	}
	return tr
}

// BenchmarkWriter measures the pipeline into memory: cutting, hashing,
// compressing, encrypting, packing, and (or not) checking its own output.
func BenchmarkWriter(b *testing.B) {
	for _, check := range []bool{true, false} {
		b.Run(fmt.Sprintf("check=%t", check), func(b *testing.B) {
			tr := benchTree()
			o := options(b, 2*MinBudget)
			o.Workers, o.NoSelfCheck = 0, !check
			b.SetBytes(256 << 20)
			for b.Loop() {
				benchBackup(b, newBench(b).l, nil, tr, o)
			}
		})
	}
}

// BenchmarkUnchanged measures a backup in which nothing changed.
func BenchmarkUnchanged(b *testing.B) {
	tr, fx := benchTree(), newBench(b)
	o := options(b, 2*MinBudget)
	m, _ := backup(b, fx.l, nil, tr, o, 1)
	b.SetBytes(256 << 20)
	for b.Loop() {
		benchBackup(b, fx.l, m, tr, o)
	}
}

// BenchmarkRestore measures the way back from memory to nowhere.
func BenchmarkRestore(b *testing.B) {
	tr, fx := benchTree(), newBench(b)
	o := options(b, 2*MinBudget)
	o.Workers = 0
	m, _ := backup(b, fx.l, nil, tr, o, 1)
	b.SetBytes(256 << 20)
	for b.Loop() {
		if _, err := Restore(context.Background(), fx.l, m, nowhere{}, nil, o); err != nil {
			b.Fatal(err)
		}
	}
}

func benchBackup(b *testing.B, l *repo.Lineage, parent *repo.Manifest, tr tree, o Options) {
	w, err := NewWriter(context.Background(), l, parent, o)
	if err != nil {
		b.Fatal(err)
	}
	if err := putAll(context.Background(), w, tr, 1); err != nil {
		b.Fatal(err)
	}
	if _, _, _, err := w.Finish(context.Background()); err != nil {
		b.Fatal(err)
	}
}

// nowhere is a Target that keeps nothing.
type nowhere struct{}

func (nowhere) Mkdir(repo.Item) error          { return nil }
func (nowhere) Symlink(repo.Item) error        { return nil }
func (nowhere) Create(repo.Item) (File, error) { return nowhereFile{io.Discard}, nil }

type nowhereFile struct{ io.Writer }

func (nowhereFile) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (nowhereFile) Close() error                           { return nil }
