package spool

import (
	"errors"
	"fmt"
	"io"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// opener opens a file's frames; *repo.SpoolFile is one.
type opener interface {
	Open(dst []byte, unit uint32, frame []byte) ([]byte, error)
}

var errNoFrame = errors.New("no frame opens here")

// frames reads the frames of a file one behind the other.
type frames struct {
	src   io.ReaderAt
	size  int64
	open  opener
	at    int64 // of the next frame
	frame []byte
	plain []byte
	close func()
}

// next opens the frame at r.at and moves behind it. errNoFrame if none is
// there; other errors are the disk's. The bytes are valid until the next call.
func (r *frames) next() ([]byte, error) {
	if r.at+unit > r.size {
		return nil, errNoFrame
	}
	if err := r.read(0, unit); err != nil {
		return nil, err
	}
	n := repo.SpoolFrameSize(r.frame)
	if n == 0 || r.at+int64(n) > r.size {
		return nil, errNoFrame
	}
	if err := r.read(unit, n); err != nil {
		return nil, err
	}
	plain, err := r.open.Open(r.plain[:0], uint32(r.at/unit), r.frame)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoFrame, err)
	}
	r.plain = plain
	r.at += int64(n)
	return plain, nil
}

// read fills r.frame[from:to] from the frame's place.
func (r *frames) read(from, to int) error {
	if cap(r.frame) < to {
		r.frame = append(make([]byte, 0, to), r.frame[:from]...)
	}
	r.frame = r.frame[:to]
	if from == to {
		return nil // a reader may say EOF to that
	}
	_, err := r.src.ReadAt(r.frame[from:to], r.at+int64(from))
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // it was there when the file was measured
	}
	return err
}

// scanned is what a file holds.
type scanned struct {
	facts  facts
	prev   link
	end    int64 // byte where what can be read ends
	damage error // what is behind end was durable once; nil: nothing says so
}

// scan reads a file's frames (F27). Where they end it looks on for a frame
// that proves that more was durable. An error is the disk's.
func scan(r *frames) (*scanned, error) {
	out, d := &scanned{}, &decoder{}
	for r.at = unit; ; {
		out.end = r.at
		plain, err := r.next()
		if errors.Is(err, errNoFrame) {
			out.prev = d.prev
			out.damage, err = proof(r, out.end)
			return out, err
		}
		if err != nil {
			return nil, err
		}
		back, err := d.frame(plain, func(p Piece) error {
			out.note(p)
			return nil
		})
		if err != nil || back >= uint64(out.end/unit) {
			// It opened, so these are the bytes that were written.
			out.prev, out.damage = d.prev, errRecord
			return out, nil
		}
	}
}

func (s *scanned) note(p Piece) {
	at := Point{Branch: p.Branch, Pos: p.At}
	if p.Beat != nil {
		s.facts.beat(at)
		return
	}
	s.facts.log(at, len(p.Data), p.Sent)
}

// proof looks behind end for a frame that says that the place end was durable
// before it was written. A frame of the same write proves nothing: a crash
// keeps any part of a write that was not synced.
func proof(r *frames, end int64) (damage, err error) {
	for at := end + unit; at+unit <= r.size; at += unit {
		r.at = at
		plain, err := r.next()
		if errors.Is(err, errNoFrame) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c := &cursor{b: plain}
		if back := int64(min(c.uvarint(), uint64(at/unit))); !c.bad && at-back*unit > end {
			return fmt.Errorf("a frame that was durable is missing: the one at byte %d was written after it", at), nil
		}
	}
	return nil, nil
}
