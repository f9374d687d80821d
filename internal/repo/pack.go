package repo

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"
)

// Limits of the format.
const (
	PackSize     = 32 << 20 // a pack is finished when it holds this many stored bytes …
	PackRawLimit = 1 << 30  // … or frames of this many plaintext bytes …
	PackFrames   = 1 << 16  // … or this many frames
	FrameSize    = 1 << 20  // target plaintext of a frame
	BlockSpan    = 64 << 20 // plaintext a Block covers at most
	MinExtent    = 4 << 10  // least Item.Extent of a file with content; FrameSize is the most
)

// ErrPackFull is Add's answer once a pack has reached PackSize, PackRawLimit
// or PackFrames: finish it and begin another. Nothing was added.
var ErrPackFull = errors.New("the pack is full")

const (
	packMagic     = "HFPACKED" // last bytes of a pack
	packTrailer   = 4 + 8      // footer length, packMagic
	footerEntry   = 12
	footerFrame   = math.MaxUint32 // the footer's frame number
	maxFooter     = 4 + footerEntry*PackFrames
	packBufferCap = PackSize + 2*FrameSize
	// maxPack bounds a pack's bytes: one frame beyond PackSize, and a footer.
	maxPack = PackSize + maxStoredFrame + maxFooter + tagSize + packTrailer
)

// packName is what a pack's frames are bound to instead of their object key,
// which is not known before the last byte (F13).
func packName(lineage string) string { return linPrefix(lineage) + "pack" }

// Pack is a pack being assembled in memory. Add may be called concurrently.
// It holds at most PackSize, one frame more, and the footer.
type Pack struct {
	c    *frameCipher
	pool *sync.Pool

	mu     sync.Mutex
	frames []packFrame
	raw    int64
	closed bool
	// grow is held shared while frames are sealed into place, and alone while
	// buf moves or is finished. Taken only under mu.
	grow sync.RWMutex
	buf  []byte
}

// packFrame is one entry of the footer, in order of frame number.
type packFrame struct {
	offset, stored, raw uint32
}

// NewPack starts a pack with a fresh salt.
func (l *Lineage) NewPack() (*Pack, error) { return l.NewPackOf(packBufferCap) }

// NewPackOf is NewPack for a pack that is expected to hold about so many
// stored bytes: a small one takes little memory. It still grows to PackSize.
func (l *Lineage) NewPackOf(capacity int) (*Pack, error) {
	if err := l.writable(); err != nil {
		return nil, err
	}
	c, err := l.keys.newCipher(typePack, packName(l.keys.lineage))
	if err != nil {
		return nil, err
	}
	p := &Pack{c: c, pool: &l.packs}
	if capacity < packBufferCap {
		p.buf = make([]byte, 0, capacity)
	} else if b, ok := l.packs.Get().(*[]byte); ok {
		p.buf = (*b)[:0]
	} else {
		p.buf = make([]byte, 0, packBufferCap)
	}
	head := c.head.bytes()
	p.buf = append(p.buf, head[:]...)
	return p, nil
}

// Add seals an encoded payload into the pack and returns where it stands.
// raw is the payload's plaintext length. Safe for concurrent use: places are
// given out one by one, the sealing runs in parallel. ErrPackFull.
func (p *Pack) Add(payload []byte, raw int) (FrameRef, error) {
	if len(payload) == 0 || len(payload) > MaxFrame+1 || raw < 0 || raw > MaxFrame {
		return FrameRef{}, fmt.Errorf("add to pack: a frame of %d stored, %d plaintext bytes is outside the format", len(payload), raw)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return FrameRef{}, errors.New("add to pack: it is finished")
	}
	if len(p.buf) >= PackSize || p.raw >= PackRawLimit || len(p.frames) >= PackFrames {
		p.mu.Unlock()
		return FrameRef{}, ErrPackFull
	}
	off, n := len(p.buf), len(payload)+tagSize
	ref := FrameRef{Index: uint32(len(p.frames)), Offset: uint32(off), Stored: uint32(n)}
	p.frames = append(p.frames, packFrame{offset: ref.Offset, stored: ref.Stored, raw: uint32(raw)})
	p.raw += int64(raw)
	p.reserve(n)
	place := p.buf[off:off:len(p.buf)]
	p.grow.RLock()
	p.mu.Unlock()
	p.c.seal(place, ref.Index, false, payload)
	p.grow.RUnlock()
	return ref, nil
}

// reserve lengthens buf by n bytes, waiting for the sealers when it must move.
func (p *Pack) reserve(n int) {
	need := len(p.buf) + n
	if need > cap(p.buf) {
		p.grow.Lock()
		bigger := make([]byte, len(p.buf), need)
		copy(bigger, p.buf)
		p.buf = bigger
		p.grow.Unlock()
	}
	p.buf = p.buf[:need]
}

// Size is the number of stored bytes so far; Raw the plaintext bytes.
func (p *Pack) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.buf)
}

// Raw is the number of plaintext bytes added so far.
func (p *Pack) Raw() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw
}

// Finish writes the sealed footer and returns the pack's name and bytes. The
// bytes are valid until Release, which returns the buffer for reuse.
func (p *Pack) Finish() (PackInfo, []byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return PackInfo{}, nil, errors.New("finish pack: it is finished already")
	}
	p.closed = true
	p.grow.Lock() // every frame is in place
	defer p.grow.Unlock()
	footer := appendFooter(nil, p.frames)
	p.buf = p.c.seal(p.buf, footerFrame, true, footer)
	p.buf = binary.BigEndian.AppendUint32(p.buf, uint32(len(footer)+tagSize))
	p.buf = append(p.buf, packMagic...)
	return PackInfo{ID: sha256.Sum256(p.buf), Size: int64(len(p.buf))}, p.buf, nil
}

// Release returns the buffer. A pack that is given up is released without
// Finish. No other method may run or follow.
func (p *Pack) Release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.grow.Lock()
	defer p.grow.Unlock()
	if cap(p.buf) >= packBufferCap && cap(p.buf) <= 2*packBufferCap {
		b := p.buf
		p.pool.Put(&b)
	}
	p.buf, p.frames = nil, nil
}

// appendFooter encodes a pack's frame list (F13).
func appendFooter(dst []byte, frames []packFrame) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(frames)))
	for _, f := range frames {
		dst = binary.BigEndian.AppendUint32(dst, f.offset)
		dst = binary.BigEndian.AppendUint32(dst, f.stored)
		dst = binary.BigEndian.AppendUint32(dst, f.raw)
	}
	return dst
}

// parseFooter decodes a frame list and checks that the frames fill the pack
// from the header to the footer at end, without gap or overlap. They lie in
// order of number: places and numbers are given out together.
func parseFooter(b []byte, end int) ([]packFrame, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%w: footer of %d bytes", ErrDamaged, len(b))
	}
	n := binary.BigEndian.Uint32(b)
	b = b[4:]
	if n > PackFrames || len(b) != int(n)*footerEntry {
		return nil, fmt.Errorf("%w: footer of %d frames in %d bytes", ErrDamaged, n, len(b))
	}
	frames := make([]packFrame, n)
	next := uint64(headerSize)
	for i := range frames {
		f := packFrame{
			offset: binary.BigEndian.Uint32(b),
			stored: binary.BigEndian.Uint32(b[4:]),
			raw:    binary.BigEndian.Uint32(b[8:]),
		}
		if uint64(f.offset) != next || f.stored <= tagSize || f.stored > maxStoredFrame || f.raw > MaxFrame {
			return nil, fmt.Errorf("%w: footer entry %d: %d bytes at %d", ErrDamaged, i, f.stored, f.offset)
		}
		frames[i], next, b = f, next+uint64(f.stored), b[footerEntry:]
	}
	if next != uint64(end) {
		return nil, fmt.Errorf("%w: frames end at %d, the footer begins at %d", ErrDamaged, next, end)
	}
	return frames, nil
}

// splitPack finds the sealed footer of a pack's bytes: it stands at
// [start, start+n).
func splitPack(body []byte) (start, n int, err error) {
	if len(body) < headerSize+packTrailer+tagSize || string(body[len(body)-len(packMagic):]) != packMagic {
		return 0, 0, fmt.Errorf("%w: no pack trailer", ErrDamaged)
	}
	if len(body) > maxPack {
		return 0, 0, fmt.Errorf("%w: a pack of %d bytes", ErrDamaged, len(body))
	}
	end := len(body) - packTrailer
	size := binary.BigEndian.Uint32(body[end:])
	if size < tagSize+4 || uint64(size) > uint64(end-headerSize) {
		return 0, 0, fmt.Errorf("%w: footer of %d bytes", ErrDamaged, size)
	}
	return end - int(size), int(size), nil
}
