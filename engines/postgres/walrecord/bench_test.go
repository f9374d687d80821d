package walrecord_test

import (
	"fmt"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
)

// BenchmarkWalk over logs of records of one length, a tenth of them commits.
func BenchmarkWalk(b *testing.B) {
	for _, size := range []int{80, 200, 8000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m := newMaker(magic18, segmentSize)
			body := make([]byte, size-24)
			commit := data(make([]byte, 8))
			for n := 0; m.out.Len() < 32<<20; n++ {
				if n%10 == 0 {
					m.record(walrecord.RMXact, 0, 1, commit)
				}
				m.record(10, 0, 1, body)
			}
			log := m.out.Bytes()
			b.SetBytes(int64(len(log)))
			b.ReportAllocs()
			for b.Loop() {
				w, err := walrecord.New(segmentSize, m.start, false)
				if err != nil {
					b.Fatal(err)
				}
				for rest := log; len(rest) > 0; rest = rest[min(len(rest), 128<<10):] {
					if err := w.Walk(rest[:min(len(rest), 128<<10)], func(*walrecord.Record) error { return nil }); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
