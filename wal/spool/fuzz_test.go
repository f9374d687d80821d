package spool

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// FuzzScan reads any bytes as a file whose frames authenticate without a key:
// the parser gets past the seal.
func FuzzScan(f *testing.F) {
	disk := crashfs.New(1, nil)
	s := open(f, disk, lineage(f, false), small())
	must(f, s.Begin("b", 3))
	add(f, s, 100)
	add(f, s, 5000)
	kill(s)
	f.Add(clearFile(f, s), 0)
	f.Add(clearFile(f, s), 600)
	f.Add(clearFile(f, s)[:unit], 0) // ends with its last frame
	f.Fuzz(func(t *testing.T, data []byte, lost int) {
		if lost > 0 && lost < len(data) {
			clear(data[:lost])
		}
		r := &frames{src: bytes.NewReader(append(make([]byte, unit), data...)), size: int64(unit + len(data)), open: clearOpener{}}
		found, err := scan(r)
		if err != nil {
			t.Fatal(err) // memory does not fail
		}
		if found.end%unit != 0 || found.end < unit || found.end > max(r.size, unit) {
			t.Fatalf("end %d of %d", found.end, r.size)
		}
		for _, g := range found.facts.ranges {
			if g.Branch == "" || g.Start == g.End || uint64(g.End-g.Start) > uint64(len(data)) {
				t.Fatalf("range %+v out of %d bytes", g, len(data))
			}
		}
	})
}

// clearFile is a real file's frames, as clearOpener takes them.
func clearFile(f *testing.F, s *Spool) (out []byte) {
	r, err := s.openFile(1)
	must(f, err)
	defer r.close()
	for {
		plain, err := r.next()
		if err != nil {
			return out
		}
		frame := append(binary.BigEndian.AppendUint32(nil, uint32(len(plain))), plain...)
		out = append(out, append(frame, make([]byte, unit-len(frame)%unit)...)...)
	}
}

// FuzzRecords parses any plaintext of a frame.
func FuzzRecords(f *testing.F) {
	rec := appendBeat(appendLog(appendBegin(appendFile([]byte{0}, link{1, 9}), Point{Branch: "b", Pos: 5}), []byte("log"), epoch), beatOne)
	f.Add(rec)
	f.Add(rec[:len(rec)-1])
	f.Fuzz(func(t *testing.T, plain []byte) {
		d, total := &decoder{}, 0
		_, err := d.frame(plain, func(p Piece) error {
			if p.Branch == "" || (p.Beat != nil && p.Data != nil) {
				t.Fatalf("%+v", p)
			}
			total += len(p.Data)
			return nil
		})
		if total > len(plain) || err == nil && (!d.first || d.at.Branch == "") {
			t.Fatalf("%d bytes out of %d, %v", total, len(plain), err)
		}
	})
}

var beatOne = repo.Beat{N: 1, At: epoch, Pos: 8}

// clearOpener takes length ‖ plaintext for a frame.
type clearOpener struct{}

func (clearOpener) Open(dst []byte, _ uint32, frame []byte) ([]byte, error) {
	n := binary.BigEndian.Uint32(frame)
	return append(dst, frame[4:4+n]...), nil
}
