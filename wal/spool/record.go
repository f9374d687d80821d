package spool

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Kinds of record in a frame's plaintext (F27).
const (
	recFile  = 1
	recBegin = 2
	recLog   = 3
	recBeat  = 4

	// maxRecord is the most a record takes beside its bytes: a kind and three
	// varints.
	maxRecord = 1 + 3*binary.MaxVarintLen64
)

// link names the file before a file, and how much of it was durable.
type link struct {
	number uint64 // 0: none
	units  uint64
}

func appendFile(dst []byte, l link) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(append(dst, recFile), l.number), l.units)
}

func appendBegin(dst []byte, p Point) []byte {
	dst = binary.AppendUvarint(append(dst, recBegin), uint64(len(p.Branch)))
	return binary.AppendUvarint(append(dst, p.Branch...), uint64(p.Pos))
}

func appendLog(dst, data []byte, sent time.Time) []byte {
	dst = binary.AppendVarint(append(dst, recLog), sent.UnixMicro())
	return append(binary.AppendUvarint(dst, uint64(len(data))), data...)
}

func appendBeat(dst []byte, b repo.Beat) []byte {
	dst = binary.AppendUvarint(append(dst, recBeat), uint64(b.N))
	dst = binary.AppendVarint(dst, b.At.UnixMicro())
	return binary.AppendUvarint(dst, uint64(b.Pos))
}

var errRecord = errors.New("a frame's records make no sense")

// cursor takes a frame's plaintext apart. After the first failure everything
// is zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) varint() int64 {
	v, n := binary.Varint(c.b)
	if n <= 0 {
		c.bad, c.b = true, nil
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) bytes() []byte {
	n := c.uvarint()
	if n > uint64(len(c.b)) {
		c.bad, c.b = true, nil
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

func (c *cursor) time() time.Time { return time.UnixMicro(c.varint()).UTC() }

// decoder follows the records of one file, frame by frame, in order.
type decoder struct {
	at    Point
	prev  link
	first bool // the file's record was seen
}

// frame parses a frame's records (F27) and calls fn for each piece of log and
// each beat. It returns the frame's back.
func (d *decoder) frame(plain []byte, fn func(Piece) error) (back uint64, err error) {
	c := &cursor{b: plain}
	back = c.uvarint()
	for !c.bad && len(c.b) > 0 {
		kind := c.b[0]
		c.b = c.b[1:]
		if (kind == recFile) == d.first {
			return 0, errRecord // the file's record is the first, and only that
		}
		var p Piece
		switch kind {
		case recFile:
			d.prev = link{c.uvarint(), c.uvarint()}
			d.first = true
			continue
		case recBegin:
			d.at = Point{Branch: string(c.bytes()), Pos: Position(c.uvarint())}
			c.bad = c.bad || d.at.Branch == ""
			continue
		case recLog:
			p = Piece{Sent: c.time(), Data: c.bytes()}
		case recBeat:
			p = Piece{Beat: &repo.Beat{N: int64(c.uvarint()), At: c.time(), Pos: Position(c.uvarint())}}
		default:
			return 0, errRecord
		}
		if c.bad || d.at.Branch == "" {
			break
		}
		p.Branch, p.At = d.at.Branch, d.at.Pos
		d.at.Pos += Position(len(p.Data))
		if err := fn(p); err != nil {
			return 0, err
		}
	}
	if c.bad || !d.first || d.at.Branch == "" {
		return 0, errRecord
	}
	return back, nil
}
