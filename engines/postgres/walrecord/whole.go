package walrecord

import (
	"encoding/binary"
	"hash/crc32"
)

// A record's checksum covers its body first, then its header up to the
// checksum (ValidXLogRecord in transam/xlogreader.c).
const checkedHeader = 20

// start reads from where a record begins, or in its header: all records that
// lie whole in b, which ends with its block at the latest, or else one header.
func (w *Walker) start(b []byte, visit func(*Record) error) (int, error) {
	if w.got == 0 {
		if n, err := w.whole(b, visit); n > 0 || err != nil {
			return n, err
		}
		w.rec.Start = w.pos
	}
	n := copy(w.head[w.got:], b)
	w.got += n
	if w.got < 4 {
		return n, nil
	}
	if length := binary.LittleEndian.Uint32(w.head[:]); length < recordHeader || length > maxRecord {
		if length == 0 && w.loose {
			w.phase, w.got = seeking, 0 // a segment's fill
			return n, nil
		}
		return n, w.stop(w.rec.Start, length == 0, "a record of %d bytes", length)
	}
	if w.got < recordHeader {
		return n, nil
	}
	w.crc = w.rec.parse(w.head[:])
	if err := w.link(); err != nil {
		return n, err
	}
	w.sum, w.left, w.phase = 0, uint64(w.rec.Length)-recordHeader, body
	w.keep, w.buf = wanted(w.rec.RM, w.rec.Info), w.buf[:0]
	if w.left == 0 {
		return n, w.finish(w.pos+uint64(n), visit)
	}
	return n, nil
}

// whole takes the records that lie whole in b, without copying them.
func (w *Walker) whole(b []byte, visit func(*Record) error) (int, error) {
	off := 0
	for len(b)-off >= recordHeader {
		h := b[off:]
		length := binary.LittleEndian.Uint32(h)
		if length < recordHeader || uint64(length) > uint64(len(h)) {
			break
		}
		w.rec.Start = w.pos + uint64(off)
		crc := w.rec.parse(h)
		if err := w.link(); err != nil {
			return off, err
		}
		rest := h[recordHeader:length]
		sum := crc32.Update(crc32.Update(0, w.castag, rest), w.castag, h[:checkedHeader])
		if sum != crc {
			return off, w.mismatch()
		}
		w.rec.Body = nil
		if wanted(w.rec.RM, w.rec.Info) {
			w.rec.Body = rest
		}
		if err := w.emit(w.rec.Start+uint64(length), visit); err != nil {
			return off, err
		}
		if off += int(align(uint64(length))); off >= len(b) || w.phase != starting {
			break
		}
	}
	if off > len(b) {
		w.phase, off = padding, len(b)
	}
	return off, nil
}

// body reads on in a record.
func (w *Walker) body(b []byte, visit func(*Record) error) (int, error) {
	b = b[:min(uint64(len(b)), w.left)]
	w.sum = crc32.Update(w.sum, w.castag, b)
	if w.keep && len(w.buf)+len(b) <= maxBody {
		w.buf = append(w.buf, b...)
	}
	if w.left -= uint64(len(b)); w.left > 0 {
		return len(b), nil
	}
	return len(b), w.finish(w.pos+uint64(len(b)), visit)
}

// finish judges a record that came in pieces and ends at end.
func (w *Walker) finish(end uint64, visit func(*Record) error) error {
	if crc32.Update(w.sum, w.castag, w.head[:checkedHeader]) != w.crc {
		return w.mismatch()
	}
	w.rec.Body = nil
	if w.keep {
		w.rec.Body = w.buf
	}
	err := w.emit(end, visit)
	if w.phase == starting && end%8 != 0 {
		w.phase = padding
	}
	if cap(w.buf) > keptBody {
		w.buf = nil
	}
	return err
}

// link checks that a record names the one before it as such. A record that
// begins somewhere by accident does not.
func (w *Walker) link() error {
	r := &w.rec
	if w.linked && r.Prev == w.prev || !w.linked && r.Prev < r.Start {
		return nil
	}
	return w.stop(r.Start, false, "a record that follows one at %X/%X", uint32(r.Prev>>32), uint32(r.Prev))
}

func (w *Walker) mismatch() error {
	return w.stop(w.rec.Start, false, "a record of %d bytes whose checksum is wrong", w.rec.Length)
}

// emit hands out the record that ends at end.
func (w *Walker) emit(end uint64, visit func(*Record) error) error {
	r := &w.rec
	r.Last, r.End, r.Major = end-1, align(end), w.major
	w.prev, w.linked, w.loose, w.got, w.phase = r.Start, true, false, 0, starting
	if r.RM == RMXLOG && r.Info&opMask == xlogSwitch && r.End%w.segment != 0 {
		r.End += w.segment - r.End%w.segment
		w.phase = filling
	}
	r.Next = r.End
	if r.Next%BlockSize == 0 {
		r.Next += headerSize(r.End, w.segment)
	}
	return visit(r)
}
