package repo

import (
	"encoding/binary"
	"fmt"
	"math"
)

// cursor reads the compact binary forms (F16, F17). Its first error sticks;
// reads after it give zeros, and the caller asks once, at the end.
type cursor struct {
	b   []byte
	err error
}

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
		c.b = nil
	}
}

// uvarint reads an unsigned varint of at most limit. Only the shortest form
// is accepted, so that every value has one encoding.
func (c *cursor) uvarint(what string, limit uint64) uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 || n > 1 && c.b[n-1] == 0 || v > limit {
		c.fail("bad %s", what)
		return 0
	}
	c.b = c.b[n:]
	return v
}

func (c *cursor) u32(what string) uint32 { return uint32(c.uvarint(what, math.MaxUint32)) }

// take reads n bytes; they alias the input.
func (c *cursor) take(what string, n uint64) []byte {
	if n > uint64(len(c.b)) {
		c.fail("%s is cut off", what)
		return nil
	}
	out := c.b[:n]
	c.b = c.b[n:]
	return out
}

// text reads a length of at most limit and so many bytes.
func (c *cursor) text(what string, limit uint64) string {
	return string(c.take(what, c.uvarint(what+" length", limit)))
}

// count reads how many elements of at least size bytes follow: never more
// than the input can hold, so a count cannot make the reader allocate.
func (c *cursor) count(what string, size int) int {
	return int(c.uvarint(what+" count", uint64(len(c.b)/size)))
}

// end reports the first error, or bytes that nobody read.
func (c *cursor) end() error {
	if len(c.b) > 0 {
		c.fail("%d bytes behind the end", len(c.b))
	}
	return c.err
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendFrameRef(dst []byte, f FrameRef) []byte {
	dst = binary.AppendUvarint(dst, uint64(f.Index))
	dst = binary.AppendUvarint(dst, uint64(f.Offset))
	return binary.AppendUvarint(dst, uint64(f.Stored))
}

// frameRef reads a reference no larger than a pack can be.
func (c *cursor) frameRef() FrameRef {
	f := FrameRef{
		Index:  uint32(c.uvarint("frame number", PackFrames-1)),
		Offset: uint32(c.uvarint("frame offset", maxPack)),
		Stored: uint32(c.uvarint("frame size", maxStoredFrame)),
	}
	if c.err == nil && (f.Offset < headerSize || f.Stored <= tagSize) {
		c.fail("frame of %d bytes at %d", f.Stored, f.Offset)
	}
	return f
}
