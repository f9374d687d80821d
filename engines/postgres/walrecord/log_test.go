package walrecord_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

const blockSize = 8192

// maker makes a log by hand, the way a server would.
type maker struct {
	magic    uint16
	timeline uint32
	start    uint64
	prev     uint64
	out      bytes.Buffer
}

func newMaker(magic uint16, start uint64) *maker {
	return &maker{magic: magic, timeline: 1, start: start}
}

func (m *maker) pos() uint64 { return m.start + uint64(m.out.Len()) }

// block writes a block's header if one is due.
func (m *maker) block(flags uint16, rest int) {
	if m.pos()%blockSize != 0 {
		return
	}
	long := m.pos()%segmentSize == 0
	if long {
		flags |= 2
	}
	if rest > 0 {
		flags |= 1
	}
	h := binary.LittleEndian.AppendUint16(nil, m.magic)
	h = binary.LittleEndian.AppendUint16(h, flags)
	h = binary.LittleEndian.AppendUint32(h, m.timeline)
	h = binary.LittleEndian.AppendUint64(h, m.pos())
	h = binary.LittleEndian.AppendUint64(h, uint64(rest))
	if long {
		h = binary.LittleEndian.AppendUint64(h, 42)
		h = binary.LittleEndian.AppendUint32(h, segmentSize)
		h = binary.LittleEndian.AppendUint32(h, blockSize)
	}
	m.out.Write(h)
}

// encode is a record's bytes.
func (m *maker) encode(rm, info uint8, xid uint32, body []byte) []byte {
	h := binary.LittleEndian.AppendUint32(nil, uint32(24+len(body)))
	h = binary.LittleEndian.AppendUint32(h, xid)
	h = binary.LittleEndian.AppendUint64(h, m.prev)
	h = append(h, info, rm, 0, 0)
	table := crc32.MakeTable(crc32.Castagnoli)
	h = binary.LittleEndian.AppendUint32(h, crc32.Update(crc32.Checksum(body, table), table, h))
	return append(h, body...)
}

// record writes a record and says where it begins.
func (m *maker) record(rm, info uint8, xid uint32, body []byte) uint64 {
	m.block(0, 0)
	at := m.pos()
	b := m.encode(rm, info, xid, body)
	m.part(b, len(b))
	m.prev = at
	for m.pos()%8 != 0 {
		m.out.WriteByte(0)
	}
	return at
}

// part writes the first n bytes of a record.
func (m *maker) part(b []byte, n int) {
	total := len(b)
	for b = b[:n]; len(b) > 0; {
		m.block(0, total)
		k := min(len(b), blockSize-int(m.pos()%blockSize))
		m.out.Write(b[:k])
		b, total = b[k:], total-k
	}
}

// fill writes zeros to the end of the block or the segment.
func (m *maker) fill(size uint64) {
	if rest := m.pos() % size; rest != 0 {
		m.out.Write(make([]byte, size-rest))
	}
}

// data is main data as a record's body holds it.
func data(b []byte) []byte {
	if len(b) < 256 {
		return append([]byte{255, byte(len(b))}, b...)
	}
	return append(binary.LittleEndian.AppendUint32([]byte{254}, uint32(len(b))), b...)
}

func u32(v ...uint32) (b []byte) {
	for _, n := range v {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

func u64(v ...uint64) (b []byte) {
	for _, n := range v {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func cat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
