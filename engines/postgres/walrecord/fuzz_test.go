package walrecord_test

import (
	"errors"
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
)

// FuzzWalk: whatever the bytes are, the walk neither fails in another way
// than it says nor depends on how they come, and what it hands out is whole.
func FuzzWalk(f *testing.F) {
	m := newMaker(magic18, segmentSize-blockSize)
	for n := range 12 {
		m.record(1, 0x80, uint32(n), data(cat(u64(9), u32(2), u32(1, 7), nil)))
		m.record(10, 0, 1, make([]byte, n*100))
	}
	m.record(0, 0x70, 0, data(make([]byte, 72)))
	m.record(0, 0x40, 0, nil)
	f.Add(m.out.Bytes(), uint32(0), uint16(300), false)
	f.Add(m.out.Bytes(), uint32(41), uint16(1), false)
	f.Add(m.out.Bytes()[24:], uint32(24), uint16(5000), true)
	f.Fuzz(func(t *testing.T, log []byte, skip uint32, piece uint16, atRecord bool) {
		at := uint64(segmentSize-blockSize) + uint64(skip%(4*blockSize))
		if atRecord {
			at &^= 7
		}
		var results [2][]seen
		var ends [2]error
		for i := range results {
			w := newWalker(t, at, atRecord)
			results[i], ends[i] = walk(w, log, int(piece)*i, rand.New(rand.NewPCG(uint64(piece), 1)))
			var end *walrecord.EndError
			if ends[i] != nil && !errors.As(ends[i], &end) {
				t.Fatal(ends[i])
			}
			if end != nil && (end.At < at || end.At > at+uint64(len(log)) || end.Why == "") {
				t.Fatalf("%+v", end)
			}
			last := at
			for _, s := range results[i] {
				if s.Start < last || s.Last < s.Start || s.End <= s.Last || s.Next < s.End || s.Last >= at+uint64(len(log)) {
					t.Fatalf("%+v after %x", s, last)
				}
				last = s.Next
			}
		}
		for i := range results[0] {
			results[0][i].err, results[0][i].Body = nil, nil
		}
		for i := range results[1] {
			results[1][i].err, results[1][i].Body = nil, nil
		}
		if !reflect.DeepEqual(results[0], results[1]) || (ends[0] == nil) != (ends[1] == nil) {
			t.Fatalf("at once %d records and %v, in pieces %d and %v", len(results[0]), ends[0], len(results[1]), ends[1])
		}
	})
}

// FuzzDecode: the bodies of records whose checksum is right.
func FuzzDecode(f *testing.F) {
	f.Add(uint8(1), uint8(0xB0), uint16(15), data(everything(12, allInfo)))
	f.Add(uint8(1), uint8(0x10), uint16(18), data(make([]byte, 90)))
	f.Add(uint8(0), uint8(0x10), uint16(13), data(make([]byte, 88)))
	f.Fuzz(func(t *testing.T, rm, info uint8, major uint16, body []byte) {
		r := walrecord.Record{RM: rm, Info: info, XID: 3, Length: uint32(24 + len(body)), Major: int(major), Body: body}
		e, err := r.Decode(0)
		if err != nil || e.Kind != r.Kind() {
			return
		}
		if len(e.Subs) > len(body) || len(e.GID) > len(body) || len(e.Name) > len(body) {
			t.Fatalf("%+v of %d bytes", e, len(body))
		}
		e.HasSub(7)
	})
}
