package repo

import "encoding/binary"

// blockVersion is the first byte of an encoded block.
const blockVersion = 0

// maxExtents is the most a block describes.
const maxExtents = BlockSpan / MinExtent

// AppendBlock encodes a block (F16) and appends it to dst. The sum of the
// runs' counts must be the number of ids.
func AppendBlock(dst []byte, b *Block) []byte {
	dst = append(dst, blockVersion)
	dst = binary.AppendUvarint(dst, uint64(len(b.Packs)))
	for _, id := range b.Packs {
		dst = append(dst, id[:]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Runs)))
	for _, r := range b.Runs {
		dst = binary.AppendUvarint(dst, uint64(r.Pack))
		dst = appendFrameRef(dst, r.Frame)
		dst = binary.AppendUvarint(dst, uint64(r.Skip))
		dst = binary.AppendUvarint(dst, uint64(r.Count))
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.IDs)))
	for _, id := range b.IDs {
		dst = append(dst, id[:]...)
	}
	return dst
}

// ParseBlock decodes a block. What it accepts, AppendBlock encodes to the
// same bytes. ErrDamaged, ErrFormat.
func ParseBlock(data []byte) (*Block, error) {
	c := &cursor{b: data}
	if v := c.take("version", 1); c.err == nil && v[0] != blockVersion {
		return nil, formatErr("block", v[0])
	}
	b := &Block{Packs: make([]PackID, c.count("pack", len(PackID{})))}
	for i := range b.Packs {
		copy(b.Packs[i][:], c.take("pack", uint64(len(PackID{}))))
	}
	const leastRun = 6 // six varints
	b.Runs = make([]Run, c.count("run", leastRun))
	var extents uint64
	for i := range b.Runs {
		r := Run{Pack: c.u32("pack index"), Frame: c.frameRef()}
		r.Skip = uint32(c.uvarint("skip", MaxFrame))
		r.Count = uint32(c.uvarint("extents in a run", maxExtents))
		if c.err == nil && (uint64(r.Pack) >= uint64(len(b.Packs)) || r.Count == 0) {
			c.fail("run %d of %d extents in pack %d of %d", i, r.Count, r.Pack, len(b.Packs))
		}
		extents += uint64(r.Count)
		b.Runs[i] = r
	}
	b.IDs = make([]ExtentID, c.count("extent", len(ExtentID{})))
	for i := range b.IDs {
		copy(b.IDs[i][:], c.take("extent id", uint64(len(ExtentID{}))))
	}
	if c.err == nil && (extents != uint64(len(b.IDs)) || extents > maxExtents) {
		c.fail("runs of %d extents, %d ids", extents, len(b.IDs))
	}
	if err := c.end(); err != nil {
		return nil, err
	}
	return b, nil
}
