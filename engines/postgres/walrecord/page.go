package walrecord

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// BlockSize is the size of a block of log, XLOG_BLCKSZ as every package is
// built. A server built otherwise is refused by its segments' headers.
const BlockSize = 8192

// Block headers: XLogPageHeaderData, and XLogLongPageHeaderData in the first
// block of a segment (access/xlog_internal.h).
const (
	shortHeader = 24
	longHeader  = 40
)

// Flags of a block's header.
const (
	firstIsContrecord          = 0x0001
	isLong                     = 0x0002
	bkpRemovable               = 0x0004
	firstIsOverwriteContrecord = 0x0008
	allFlags                   = firstIsContrecord | isLong | bkpRemovable | firstIsOverwriteContrecord
)

// page is a block's header.
type page struct {
	magic    uint16 // XLOG_PAGE_MAGIC, another one in each major version
	flags    uint16
	timeline uint32
	addr     uint64
	rest     uint32 // bytes of a record from an earlier block that are left from here on
	segment  uint32 // bytes; long headers only
	block    uint32 // bytes; long headers only
}

// parsePage reads a block's header: 24 bytes, or 40 of a segment's first.
func parsePage(b []byte) page {
	p := page{
		magic:    binary.LittleEndian.Uint16(b),
		flags:    binary.LittleEndian.Uint16(b[2:]),
		timeline: binary.LittleEndian.Uint32(b[4:]),
		addr:     binary.LittleEndian.Uint64(b[8:]),
		rest:     binary.LittleEndian.Uint32(b[16:]),
	}
	if len(b) >= longHeader {
		p.segment = binary.LittleEndian.Uint32(b[32:])
		p.block = binary.LittleEndian.Uint32(b[36:])
	}
	return p
}

// magics are XLOG_PAGE_MAGIC of the versions known, seen on each server.
var magics = [...]struct {
	magic uint16
	major int
}{{0xD118, 18}, {0xD116, 17}, {0xD113, 16}, {0xD110, 15}, {0xD10D, 14}, {0xD106, 13}}

// majorOf is the version that writes blocks with this magic; 0: unknown.
func majorOf(magic uint16) int {
	for _, m := range magics {
		if m.magic == magic {
			return m.major
		}
	}
	return 0
}

// check finds what is wrong with the header of the block at pos.
func (p *page) check(pos, segmentSize uint64) error {
	long := pos%segmentSize == 0
	switch {
	case majorOf(p.magic) == 0:
		return fmt.Errorf("its magic number is %04X, which no version known writes", p.magic)
	case p.flags&^allFlags != 0:
		return fmt.Errorf("its flags are %04X", p.flags)
	case p.addr != pos:
		return fmt.Errorf("it belongs at %X/%X", uint32(p.addr>>32), uint32(p.addr))
	case p.timeline == 0:
		return errors.New("it is of timeline 0")
	case long != (p.flags&isLong != 0):
		return errors.New("the length of its header is wrong for its place")
	case long && uint64(p.segment) != segmentSize:
		return fmt.Errorf("it is of a server with segments of %d bytes, not %d", p.segment, segmentSize)
	case long && p.block != BlockSize:
		return fmt.Errorf("it is of a server with blocks of %d bytes, not %d", p.block, BlockSize)
	case (p.flags&firstIsContrecord != 0) != (p.rest != 0):
		return fmt.Errorf("its flags are %04X, though %d bytes are left of the record before it", p.flags, p.rest)
	case p.flags&firstIsContrecord != 0 && p.flags&firstIsOverwriteContrecord != 0:
		return fmt.Errorf("its flags are %04X", p.flags)
	}
	return nil
}

// headerSize is the length of the header of the block that begins at pos.
func headerSize(pos, segmentSize uint64) uint64 {
	if pos%segmentSize == 0 {
		return longHeader
	}
	return shortHeader
}

// SegmentHeader is the length of the header a segment begins with.
const SegmentHeader = longHeader

// SegmentSize reads the size of a server's segments from the header of the
// one that begins at pos.
func SegmentSize(pos uint64, header []byte) (int64, error) {
	if len(header) < longHeader {
		return 0, fmt.Errorf("a segment's header of %d bytes", len(header))
	}
	p := parsePage(header[:longHeader])
	size := uint64(p.segment)
	if size < 1<<20 || size > 1<<30 || size&(size-1) != 0 {
		return 0, fmt.Errorf("segments of %d bytes", size)
	}
	if err := p.check(pos, size); err != nil {
		return 0, fmt.Errorf("no segment begins there: %w", err)
	}
	return int64(size), nil
}
