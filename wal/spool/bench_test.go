package spool

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs"
)

// BenchmarkCommit is what a synchronous commit of one client waits for:
// Append and Sync. HOLDFAST_BENCH_DIR chooses the disk.
func BenchmarkCommit(b *testing.B) {
	for _, n := range []int{300, 8 << 10, 128 << 10} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := benchSpool(b)
			data := noise(n)
			each := make([]time.Duration, 0, b.N)
			b.SetBytes(int64(n))
			for b.Loop() {
				start := time.Now()
				must(b, s.Append(s.at.Pos, data, start))
				if _, err := s.Sync(); err != nil {
					b.Fatal(err)
				}
				each = append(each, time.Since(start))
				if s.bytes > 1<<30 {
					must(b, s.Trim("b", s.at.Pos))
				}
			}
			report(b, each)
		})
	}
}

// BenchmarkStream is a busy log: Sync runs beside Append all the time.
func BenchmarkStream(b *testing.B) {
	s := benchSpool(b)
	data := noise(128 << 10)
	b.SetBytes(int64(len(data)))
	stop, done, at := make(chan struct{}), make(chan error), Position(0)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
				if p, err := s.Sync(); err != nil || s.Trim("b", p.Pos) != nil {
					done <- err
					return
				}
			}
		}
	}()
	for b.Loop() {
		must(b, s.Append(at, data, epoch))
		at += Position(len(data))
	}
	close(stop)
	must(b, <-done)
	_, err := s.Sync()
	must(b, err)
}

// BenchmarkFsync compares the ways to make 512 bytes durable that the design
// chose between: at the end of a growing file, or in place of zeros.
func BenchmarkFsync(b *testing.B) {
	fsys, err := diskfs.OpenOS(benchDir(b), false)
	must(b, err)
	defer fsys.Close()
	for name, c := range map[string]struct {
		zeros int
		sync  func(diskfs.File) error
	}{
		"append+fsync":      {0, diskfs.File.Sync},
		"append+fdatasync":  {0, diskfs.File.Datasync},
		"replace+fsync":     {64 << 20, diskfs.File.Sync},
		"replace+fdatasync": {64 << 20, diskfs.File.Datasync},
	} {
		b.Run(name, func(b *testing.B) {
			h, err := fsys.Create("fsync", 0o600)
			must(b, err)
			_, err = h.WriteAt(make([]byte, c.zeros), 0)
			must(b, err)
			must(b, h.Sync())
			block, each := make([]byte, unit), make([]time.Duration, 0, b.N)
			for i := int64(0); b.Loop(); i++ {
				start := time.Now()
				_, err := h.WriteAt(block, i*unit)
				must(b, err)
				must(b, c.sync(h))
				each = append(each, time.Since(start))
			}
			must(b, h.Close())
			must(b, fsys.Unlink("fsync"))
			report(b, each)
		})
	}
}

// noise does not compress, so the bytes written are those counted.
func noise(n int) []byte {
	b := make([]byte, 0, n+8)
	for rng := rand.New(rand.NewPCG(1, 6)); len(b) < n; {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n]
}

func report(b *testing.B, each []time.Duration) {
	slices.Sort(each)
	for name, at := range map[string]int{"p50-µs": len(each) / 2, "p99-µs": len(each) * 99 / 100} {
		b.ReportMetric(float64(each[at].Microseconds()), name)
	}
}

func benchDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp(os.Getenv("HOLDFAST_BENCH_DIR"), "spool-bench-")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func benchSpool(b *testing.B) *Spool {
	b.Helper()
	s, err := OpenDir(b.Context(), benchDir(b), lineage(b, true), Options{Limit: 2 << 30})
	must(b, err)
	b.Cleanup(func() { _ = s.Close() })
	must(b, s.Begin("b", 0))
	return s
}
