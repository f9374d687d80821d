package walrecord_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
)

const magic18 = 0xD118

// places are where records begin.
func places(got []seen) (out []uint64) {
	for _, g := range got {
		out = append(out, g.Start)
	}
	return out
}

// TestRecordsOfEveryLength cross blocks in every way, fed in every way.
func TestRecordsOfEveryLength(t *testing.T) {
	m := newMaker(magic18, segmentSize-3*blockSize)
	var want []uint64
	for n := range 700 {
		want = append(want, m.record(10, 0, 1, bytes.Repeat([]byte{byte(n)}, n*37%400)))
	}
	want = append(want, m.record(10, 0, 1, make([]byte, 3*blockSize)), m.record(10, 0, 1, nil))
	rnd := rand.New(rand.NewPCG(1, 1))
	for _, piece := range []int{0, 1, 2, 30, 9000} {
		w := newWalker(t, m.start, false)
		got, err := walk(w, m.out.Bytes(), piece, rnd)
		if err != nil || !slices.Equal(places(got), want) {
			t.Fatalf("in pieces of %d: %d records of %d, %v", piece, len(got), len(want), err)
		}
		if last := got[len(got)-1]; w.Pos() != m.pos() || last.End != m.pos() || last.Last != last.Start+23 || !w.InStep() {
			t.Errorf("ended at %s of %s: %+v", show(w.Pos()), show(m.pos()), last)
		}
	}
}

// TestARecordThatFillsItsBlock: what follows begins behind the next header.
func TestARecordThatFillsItsBlock(t *testing.T) {
	m := newMaker(magic18, segmentSize-blockSize)
	first := m.record(10, 0, 1, make([]byte, blockSize-24-24))
	second := m.record(10, 0, 1, make([]byte, blockSize-40-24-4))
	third := m.record(10, 0, 1, nil)
	got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), 0, nil)
	if err != nil || !slices.Equal(places(got), []uint64{first, second, third}) {
		t.Fatalf("%v %v", places(got), err)
	}
	if got[0].End != segmentSize || got[0].Next != segmentSize+40 || got[1].End != segmentSize+blockSize || got[1].Next != third {
		t.Errorf("%+v\n%+v", got[0], got[1])
	}
}

// TestASegmentSwitch: what is behind it is no log, whatever it holds.
func TestASegmentSwitch(t *testing.T) {
	for name, fill := range map[string]func(m *maker){
		"zeros": func(m *maker) { m.fill(segmentSize) },
		"empty blocks": func(m *maker) {
			for m.fill(blockSize); m.pos()%segmentSize != 0; m.fill(blockSize) {
				m.block(0, 0)
			}
		},
		"nothing is left": func(m *maker) {},
	} {
		m := newMaker(magic18, segmentSize-4*blockSize)
		if name == "nothing is left" {
			m.start = segmentSize - blockSize
			m.record(10, 0, 1, make([]byte, blockSize-24-24-24))
		} else {
			m.record(10, 0, 1, nil)
		}
		sw := m.record(walrecord.RMXLOG, 0x40, 0, nil)
		fill(m)
		after := m.record(10, 0, 1, nil)
		for piece := range 3 {
			got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), piece, rand.New(rand.NewPCG(1, 1)))
			if err != nil || len(got) != 3 || got[1].Start != sw || got[2].Start != after {
				t.Fatalf("%s: %v %v", name, places(got), err)
			}
			if g := got[1]; g.Kind() != walrecord.Switch || g.End != segmentSize || g.Next != after || g.Last != sw+23 {
				t.Errorf("%s: %+v", name, g)
			}
		}
		// Begun in the fill, the walk finds the next segment.
		for _, at := range []uint64{segmentSize - 2*blockSize, segmentSize - blockSize - 100} {
			if at < m.start {
				continue
			}
			w := newWalker(t, at, false)
			got, err := walk(w, m.out.Bytes()[at-m.start:], 0, nil)
			if err != nil || len(got) != 1 || got[0].Start != after || !w.InStep() {
				t.Errorf("%s, from %s: %v %v", name, show(at), places(got), err)
			}
		}
	}
}

// TestARecordGivenUpByACrash: the server goes on in the next block and says
// so. A part of the lost record's header may be all that was written.
func TestARecordGivenUpByACrash(t *testing.T) {
	for _, left := range []int{8, 16, 24, 32, 800} { // bytes of the first block
		for _, further := range []int{0, 2} { // blocks
			m := newMaker(magic18, segmentSize)
			before := m.record(10, 0, 1, make([]byte, blockSize-40-24-left))
			lost := m.encode(walrecord.RMXact, 0, 7, make([]byte, 4*blockSize))
			at := m.pos()
			m.part(lost, left+further*(blockSize-24))
			m.block(8, 0)
			mark := m.record(walrecord.RMXLOG, 0xD0, 0, data(u64(at, 1_000_000)))
			next := m.record(10, 0, 1, nil)
			for piece := range 2 {
				got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), piece, rand.New(rand.NewPCG(1, 1)))
				if err != nil || !slices.Equal(places(got), []uint64{before, mark, next}) {
					t.Fatalf("%d bytes, %d blocks written: %v %v", left, further, places(got), err)
				}
				if e := got[1].event; e.Kind != walrecord.OverwriteContrecord || e.Aborted != at || e.Time.Second() != 1 {
					t.Errorf("%d bytes, %d blocks written: %+v", left, further, e)
				}
			}
			// Begun in its midst.
			got, err := walk(newWalker(t, segmentSize+blockSize, false), m.out.Bytes()[blockSize:], 0, nil)
			if err != nil || !slices.Equal(places(got), []uint64{mark, next}) {
				t.Fatalf("%d bytes, %d blocks written, from the second block: %v %v", left, further, places(got), err)
			}
		}
	}
}

// TestTheEndOfTheLogIsNamed with its place and reason, wherever it is.
func TestTheEndOfTheLogIsNamed(t *testing.T) {
	type spoil func(b []byte, last, block int)
	for want, c := range map[string]spoil{
		"checksum is wrong":         func(b []byte, last, _ int) { b[last+30] ^= 1 },
		"that follows one at":       func(b []byte, last, _ int) { b[last+9] ^= 1 },
		"a record of 0 bytes":       func(b []byte, last, _ int) { clear(b[last:]) },
		"a record of 23 bytes":      func(b []byte, last, _ int) { copy(b[last:], u32(23)) },
		"a record of 1073741824":    func(b []byte, last, _ int) { copy(b[last:], u32(1<<30)) },
		"magic number is 0000":      func(b []byte, _, block int) { clear(b[block:]) },
		"magic number is D0FF":      func(b []byte, _, block int) { b[block], b[block+1] = 0xFF, 0xD0 },
		"of version 17, those":      func(b []byte, _, block int) { b[block] = 0x16 },
		"of timeline 0":             func(b []byte, _, block int) { b[block+4] = 0 },
		"its flags are 0101":        func(b []byte, _, block int) { b[block+3] = 1 },
		"it belongs at 0/3002000":   func(b []byte, _, block int) { b[block+11] = 3 },
		"header is wrong for":       func(b []byte, _, block int) { b[block+2] |= 2 },
		"bytes are left of the":     func(b []byte, _, block int) { b[block+16] ^= 1 },
		"a record runs into the":    func(b []byte, _, block int) { b[block+2] &^= 1; clear(b[block+16 : block+20]) },
		"bytes are left of the rec": func(b []byte, _, block int) { clear(b[block+16 : block+20]) },
	} {
		m := newMaker(magic18, segmentSize)
		m.record(10, 0, 1, make([]byte, 100))
		last := m.record(10, 0, 1, make([]byte, blockSize))
		m.record(10, 0, 1, nil)
		at := uint64(segmentSize + blockSize)
		if strings.HasPrefix(want, "a record of") || want == "checksum is wrong" || want == "that follows one at" {
			at = last
		}
		b := m.out.Bytes()
		c(b, int(last-m.start), blockSize)
		for _, piece := range []int{0, 1} {
			w := newWalker(t, m.start, false)
			got, err := walk(w, b, piece, rand.New(rand.NewPCG(1, 1)))
			var end *walrecord.EndError
			if !errors.As(err, &end) || end.At != at || !strings.Contains(end.Why, want) || len(got) != 1 || w.InStep() {
				t.Errorf("%s: %v after %v", want, err, places(got))
				continue
			}
			if again := w.Walk(b, nil); !errors.Is(again, err) || w.Err() != err {
				t.Errorf("%s: then %v", want, again)
			}
			if zero := want == "a record of 0 bytes" || want == "magic number is 0000"; end.Zero != zero {
				t.Errorf("%s: zeros %t", want, end.Zero)
			}
		}
	}
}

func TestTimelinesOnlyRise(t *testing.T) {
	m := newMaker(magic18, segmentSize)
	m.record(10, 0, 1, make([]byte, blockSize))
	m.timeline = 3
	m.record(10, 0, 1, make([]byte, blockSize))
	m.timeline = 2
	m.record(10, 0, 1, make([]byte, blockSize))
	got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), 0, nil)
	if len(got) != 2 || err == nil || !strings.Contains(err.Error(), "timeline 2") {
		t.Errorf("%v %v", places(got), err)
	}
}

func TestWrongBeginnings(t *testing.T) {
	for _, c := range []struct {
		size int64
		at   uint64
	}{{16<<20 + 1, 0}, {0, 0}, {2 << 30, 0}, {segmentSize, segmentSize + 41}} {
		if _, err := walrecord.New(c.size, c.at, true); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

// TestUninterestingRecordsMakeNoGarbage, nor does a gigabyte's record take
// memory.
func TestUninterestingRecordsMakeNoGarbage(t *testing.T) {
	m := newMaker(magic18, segmentSize)
	for n := range 2000 {
		m.record(10, 0, 1, make([]byte, n))
	}
	m.record(walrecord.RMXLOG, 0xB0, 1, make([]byte, 8<<20)) // full-page images
	b, visit := m.out.Bytes(), func(*walrecord.Record) error { return nil }
	w := newWalker(t, m.start, false)
	if allocs := testing.AllocsPerRun(1, func() {
		*w = *newWalker(t, m.start, false)
		if err := w.Walk(b, visit); err != nil {
			t.Fatal(err)
		}
	}); allocs > 4 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestACommitOfMillions keeps of its subtransactions what fits, and says so.
func TestACommitOfMillions(t *testing.T) {
	m := newMaker(magic18, segmentSize)
	const subs = 6_000_000
	list := make([]byte, 4*subs)
	copy(list, u32(501))
	m.record(walrecord.RMXact, 0x80, 500, data(cat(u64(5_000_000), u32(2), u32(subs), list)))
	m.record(10, 0, 1, nil)
	got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), 50_000, rand.New(rand.NewPCG(1, 1)))
	if err != nil || len(got) != 2 || got[0].err != nil {
		t.Fatal(len(got), err, got[0].err)
	}
	if e := got[0].event; !e.Truncated || e.XID != 500 || !e.HasSub(501) || e.HasSub(502) || fmt.Sprint(e.Time) != "2000-01-01 00:00:05 +0000 UTC" || len(e.Subs) > 16<<20 {
		t.Errorf("%v %d %v %d", e.Truncated, e.XID, e.Time, len(e.Subs))
	}
}
