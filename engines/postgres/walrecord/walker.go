package walrecord

import (
	"fmt"
	"hash/crc32"
)

// phase is what the next byte belongs to.
type phase uint8

const (
	seeking  phase = iota // a block whose records cannot be told apart: go to the next
	heading               // a block's header
	skipping              // the rest of a record whose beginning was not seen
	starting              // a record's header
	body                  // a record's body
	padding               // up to the next record
	filling               // behind a segment switch: go to the next segment
)

// Bodies are kept up to maxBody (a commit of four million subtransactions);
// what a larger one took is given back afterwards.
const (
	maxBody  = 16 << 20
	keptBody = 64 << 10
)

// Walker finds the records in a stream of log. One goroutine uses it.
type Walker struct {
	segment uint64 // bytes
	castag  *crc32.Table
	err     error

	pos    uint64 // of the next byte
	phase  phase
	after  phase // behind a block's header
	unseen uint64
	major  int
	tli    uint32
	loose  bool // nothing proves yet that a record begins here: zeros may be a segment's fill
	linked bool // prev is known

	block    [longHeader]byte // a block's header, as far as it has come
	blockGot int
	head     [recordHeader]byte // a record's, likewise
	got      int
	rec      Record // being read, and the one handed out
	crc      uint32 // what its header says
	sum      uint32 // of its body so far
	left     uint64 // bytes to come of it
	keep     bool   // its body is wanted
	buf      []byte // and is here
	prev     uint64 // Start of the record before
}

// New makes a walker for log that begins at pos. atRecord says that a record
// begins exactly there; otherwise the walker begins with the first record that
// begins in a block whose header it sees.
func New(segmentSize int64, pos uint64, atRecord bool) (*Walker, error) {
	if segmentSize < 1<<20 || segmentSize > 1<<30 || segmentSize&(segmentSize-1) != 0 {
		return nil, fmt.Errorf("%d bytes is no size of a WAL segment", segmentSize)
	}
	w := &Walker{segment: uint64(segmentSize), castag: crc32.MakeTable(crc32.Castagnoli), pos: pos, loose: !atRecord}
	switch {
	case pos%BlockSize == 0:
		w.phase, w.after = heading, seeking
		if atRecord {
			w.after = starting
		}
	case atRecord && pos%8 == 0:
		w.phase = starting
	case atRecord:
		return nil, fmt.Errorf("no record begins at %X/%X", uint32(pos>>32), uint32(pos))
	}
	return w, nil
}

// Pos is the position of the byte that Walk wants next.
func (w *Walker) Pos() uint64 { return w.pos }

// InStep says that every record from here on will be seen.
func (w *Walker) InStep() bool {
	p := w.phase
	if p == heading {
		p = w.after
	}
	return w.err == nil && p != seeking && p != skipping
}

// Unseen is the end of the log in which records may have ended unseen: up to
// where the walk came in step, if it was not from the beginning; 0: none.
func (w *Walker) Unseen() uint64 { return w.unseen }

// Err is the *EndError that ended the walk; nil while it goes on.
func (w *Walker) Err() error { return w.err }

// Major is the version that wrote the log; 0: no block header seen yet.
func (w *Walker) Major() int { return w.major }

// Walk takes the next bytes and calls visit for each record whose last byte
// is among them. A record that is incomplete at the end of data is not an
// error: its rest is expected in the next call. An *EndError is final; an
// error of visit is returned as it is, and ends the walk in an undefined
// place.
func (w *Walker) Walk(data []byte, visit func(*Record) error) error {
	if w.err != nil {
		return w.err
	}
	for len(data) > 0 {
		// Nothing but a block's header crosses into the next block unnoticed.
		room := BlockSize - w.pos%BlockSize
		chunk := data[:min(uint64(len(data)), room)]
		var n int
		var err error
		switch w.phase {
		case seeking:
			n = len(chunk)
			w.unseen = w.pos + uint64(n)
		case heading:
			n, err = w.heading(chunk)
		case skipping:
			n = w.skip(chunk)
		case starting:
			n, err = w.start(chunk, visit)
		case body:
			n, err = w.body(chunk, visit)
		case padding:
			n = int(min(uint64(len(chunk)), align(w.pos)-w.pos))
			if align(w.pos+uint64(n)) == w.pos+uint64(n) {
				w.phase = starting
			}
		case filling:
			n = len(chunk)
		}
		if err != nil {
			return err
		}
		w.pos += uint64(n)
		data = data[n:]
		if w.pos%BlockSize == 0 && w.phase != heading && (w.phase != filling || w.pos%w.segment == 0) {
			w.after, w.phase = w.phase, heading
			if w.after == filling {
				w.after = starting
			}
		}
	}
	return nil
}

// stop ends the walk for good.
func (w *Walker) stop(at uint64, zero bool, format string, args ...any) error {
	w.err = &EndError{At: at, Why: fmt.Sprintf(format, args...), Zero: zero}
	return w.err
}

// Pending is where the record begins of which Walk has seen a part so far.
func (w *Walker) Pending() (start uint64, ok bool) {
	p := w.phase
	if p == heading {
		p = w.after
	}
	return w.rec.Start, w.err == nil && (p == body || p == starting && w.got > 0)
}
