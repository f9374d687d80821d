package repo

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	mapVersion  = 0
	maxPath     = 4096
	maxLink     = 4096
	maxAttr     = 1 << 20
	maxItemSize = 64 << 20 // encoded: three million blocks, an item of 190 TiB
)

func formatErr(what string, version byte) error {
	return fmt.Errorf("%w: %s version %d", ErrFormat, what, version)
}

// appendItem encodes one item of a map (F17).
func appendItem(dst []byte, it *Item) []byte {
	dst = appendText(dst, it.Path)
	dst = append(dst, byte(it.Kind))
	dst = binary.AppendUvarint(dst, uint64(it.Mode))
	dst = binary.AppendUvarint(dst, zigzag(it.ModTime.Unix()))
	dst = binary.AppendUvarint(dst, uint64(it.Size))
	dst = appendText(dst, it.Link)
	dst = binary.AppendUvarint(dst, uint64(it.Extent))
	dst = binary.AppendUvarint(dst, uint64(len(it.Attrs)))
	for _, k := range slices.Sorted(maps.Keys(it.Attrs)) {
		dst = appendText(appendText(dst, k), it.Attrs[k])
	}
	dst = binary.AppendUvarint(dst, uint64(len(it.Blocks)))
	for _, b := range it.Blocks {
		dst = binary.AppendUvarint(dst, uint64(b.Pack))
		dst = appendFrameRef(dst, b.Frame)
		dst = binary.AppendUvarint(dst, uint64(b.Off))
		dst = binary.AppendUvarint(dst, uint64(b.Len))
		dst = append(dst, b.ID[:]...)
	}
	return dst
}

// parseItem decodes one item. What it accepts, appendItem encodes to the same
// bytes.
func parseItem(data []byte) (Item, error) {
	c := &cursor{b: data}
	it := Item{Path: c.text("path", maxPath)}
	if k := c.take("kind", 1); c.err == nil {
		it.Kind = ItemKind(k[0])
	}
	it.Mode = fs.FileMode(c.uvarint("mode", uint64(fs.ModePerm)))
	it.ModTime = time.Unix(unzigzag(c.uvarint("time", math.MaxUint64)), 0).UTC()
	it.Size = int64(c.uvarint("size", math.MaxInt64))
	it.Link = c.text("link", maxLink)
	it.Extent = c.u32("extent size")
	last := ""
	for i := range c.count("attribute", 2) {
		k, v := c.text("attribute", maxAttr), c.text("attribute", maxAttr)
		if i > 0 && k <= last {
			c.fail("attributes out of order")
		}
		if it.Attrs == nil {
			it.Attrs = map[string]string{}
		}
		it.Attrs[k], last = v, k
	}
	const leastBlock = 6 + len(ExtentID{})
	if n := c.count("block", leastBlock); n > 0 {
		it.Blocks = make([]BlockRef, n)
	}
	for i := range it.Blocks {
		b := BlockRef{Pack: c.u32("pack index"), Frame: c.frameRef()}
		b.Off = uint32(c.uvarint("block offset", MaxFrame))
		b.Len = uint32(c.uvarint("block length", MaxFrame))
		copy(b.ID[:], c.take("block id", uint64(len(b.ID))))
		it.Blocks[i] = b
	}
	if err := c.end(); err != nil {
		return Item{}, err
	}
	return it, it.check()
}

// check refuses items that no restore may act on (F18), wherever they come
// from.
func (it *Item) check() error {
	if err := checkPath(it.Path); err != nil {
		return err
	}
	bad := func(why string) error {
		return fmt.Errorf("%w: item %q: %s", ErrDamaged, it.Path, why)
	}
	switch {
	case it.Kind > KindSymlink:
		return bad("unknown kind")
	case it.Size < 0:
		return bad("negative size")
	case it.Mode&^fs.ModePerm != 0:
		return bad("mode with more than permission bits")
	case it.Kind == KindSymlink && (it.Link == "" || len(it.Link) > maxLink || strings.ContainsRune(it.Link, 0)):
		return bad("bad link target")
	case it.Kind != KindSymlink && it.Link != "":
		return bad("link target on something else")
	case it.Kind != KindFile && (len(it.Blocks) > 0 || it.Size != 0):
		return bad("content on something that is not a file")
	case it.Size == 0 && len(it.Blocks) > 0:
		return bad("blocks without content")
	case it.Size > 0 && (it.Extent < MinExtent || it.Extent > FrameSize):
		return bad("extent size outside the format")
	case it.Size > 0 && int64(len(it.Blocks)) != blockCount(it.Size, it.Extent):
		return bad("not as many blocks as its size takes")
	}
	return nil
}

// blockCount is how many blocks describe size bytes: all but the last cover
// as many whole extents as fit into BlockSpan (F17).
func blockCount(size int64, extent uint32) int64 {
	span := int64(BlockSpan / extent * extent)
	n := size / span
	if size%span > 0 {
		n++
	}
	return n
}

// checkPath refuses a path that could leave the directory it is restored to.
func checkPath(path string) error {
	if path == "" || len(path) > maxPath || strings.ContainsRune(path, 0) {
		return fmt.Errorf("%w: unsafe path %q", ErrDamaged, path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%w: unsafe path %q", ErrDamaged, path)
		}
	}
	return nil
}

// pathOrder checks a map's items as they pass in order: strictly ascending,
// and nothing below a path that is not a directory, through which a restore
// would leave its target (F18). In ascending order all paths that begin with
// the same string stand together, so a stack of such beginnings is enough.
type pathOrder struct {
	last  string
	leafs []string
}

func (o *pathOrder) next(it *Item) error {
	if o.last != "" && it.Path <= o.last {
		return fmt.Errorf("%w: item %q behind %q", ErrDamaged, it.Path, o.last)
	}
	o.last = it.Path
	for len(o.leafs) > 0 && !strings.HasPrefix(it.Path, o.leafs[len(o.leafs)-1]) {
		o.leafs = o.leafs[:len(o.leafs)-1]
	}
	for _, leaf := range o.leafs {
		if it.Path[len(leaf)] == '/' {
			return fmt.Errorf("%w: item %q lies below %q, which is not a directory", ErrDamaged, it.Path, leaf)
		}
	}
	if it.Kind != KindDir {
		o.leafs = append(o.leafs, it.Path)
	}
	return nil
}

func zigzag(v int64) uint64   { return uint64(v<<1) ^ uint64(v>>63) }
func unzigzag(u uint64) int64 { return int64(u>>1) ^ -int64(u&1) }
