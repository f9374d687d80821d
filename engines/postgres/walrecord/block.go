package walrecord

import "encoding/binary"

// heading collects and judges a block's header.
func (w *Walker) heading(b []byte) (int, error) {
	at := w.pos - uint64(w.blockGot)
	size := int(headerSize(at, w.segment))
	n := copy(w.block[w.blockGot:size], b)
	if w.blockGot += n; w.blockGot < size {
		return n, nil
	}
	w.blockGot = 0
	p := parsePage(w.block[:size])
	return n, w.enter(at, &p)
}

// enter decides how the walk goes on behind a block's header.
func (w *Walker) enter(at uint64, p *page) error {
	if *p == (page{}) && w.loose {
		w.phase, w.unseen = seeking, at+headerSize(at, w.segment) // a segment's fill
		return nil
	}
	if err := p.check(at, w.segment); err != nil {
		return w.stop(at, *p == (page{}), "the block there is none: %v", err)
	}
	major := majorOf(p.magic)
	switch {
	case w.major != 0 && major != w.major:
		return w.stop(at, false, "the block there is of version %d, those before it of %d", major, w.major)
	case p.timeline < w.tli:
		return w.stop(at, false, "the block there is of timeline %d, those before it of %d", p.timeline, w.tli)
	}
	w.major, w.tli = major, p.timeline
	continued := p.flags&firstIsContrecord != 0
	inside := w.after == body || w.after == skipping || w.after == starting && w.got > 0
	switch {
	case w.after == seeking:
		w.phase, w.left = starting, uint64(p.rest)
		if continued {
			w.phase = skipping
		}
	case inside && p.flags&firstIsOverwriteContrecord != 0:
		// A crash left the record incomplete; the server has given it up
		// and goes on here (XLP_FIRST_IS_OVERWRITE_CONTRECORD).
		w.phase, w.got = starting, 0
	case inside != continued:
		return w.stop(at, false, "a record runs into the block there (%t), but the block's flags are %04X", inside, p.flags)
	case inside && uint64(p.rest) != w.missing():
		return w.stop(at, false, "%d bytes are left of the record that runs into the block there, by the block's header %d", w.missing(), p.rest)
	default:
		w.phase = w.after
	}
	return nil
}

// missing is how much is to come of the record being read.
func (w *Walker) missing() uint64 {
	if w.after == starting {
		return uint64(binary.LittleEndian.Uint32(w.head[:])) - uint64(w.got)
	}
	return w.left
}

// skip passes over what is left of a record whose beginning was not seen.
func (w *Walker) skip(b []byte) int {
	n := min(uint64(len(b)), w.left)
	w.left -= n
	if w.left == 0 {
		w.unseen = w.pos + n
		w.phase = padding
		if (w.pos+n)%8 == 0 {
			w.phase = starting
		}
	}
	return int(n)
}
