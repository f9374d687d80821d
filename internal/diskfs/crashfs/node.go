package crashfs

import (
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"
)

// node is a file or, with names, a directory: as running programs see it, and
// what of it is durable.
type node struct {
	mode  fs.FileMode
	mtime time.Time

	// A file.
	data   []byte
	synced []byte
	writes []write // since the last sync

	// A directory.
	names   map[string]*node
	durable map[string]*node
	changes []*change // since the last sync
}

type write struct {
	off     int64
	data    []byte
	sectors bool // torn anywhere, not only at its end
}

// sector is what a disk writes whole or not at all, bytes.
const sector = 512

// tear returns data with the part of w that a torn write leaves.
func (w write) tear(data []byte, rng *rand.Rand) []byte {
	if !w.sectors {
		return patch(data, w.data[:rng.IntN(len(w.data)+1)], w.off)
	}
	for from := int64(0); from < int64(len(w.data)); {
		to := min(int64(len(w.data)), (w.off+from)/sector*sector+sector-w.off)
		if rng.IntN(2) == 0 {
			data = patch(data, w.data[from:to], w.off+from)
		}
		from = to
	}
	return data
}

// change sets (or, with nil, removes) one name. A rename is a change that
// adds, and one that removes, which can only survive together with the first.
type change struct {
	name    string
	node    *node
	after   *change
	decided bool
	kept    bool
}

// survives decides once whether a change outlives the crash.
func (c *change) survives(rng *rand.Rand) bool {
	if !c.decided {
		c.decided = true
		c.kept = rng.IntN(2) == 0 && (c.after == nil || c.after.survives(rng))
	}
	return c.kept
}

func newDir(now time.Time) *node {
	return &node{mode: fs.ModeDir | 0o700, mtime: now, names: map[string]*node{}, durable: map[string]*node{}}
}

func (n *node) set(name string, to *node, after *change) *change {
	if to == nil {
		delete(n.names, name)
	} else {
		n.names[name] = to
	}
	c := &change{name: name, node: to, after: after}
	n.changes = append(n.changes, c)
	return c
}

func (n *node) syncNames() {
	n.durable = maps.Clone(n.names)
	for _, c := range n.changes {
		c.decided, c.kept = true, true
	}
	n.changes = nil
}

func (n *node) writeAt(p []byte, off int64) {
	n.data = patch(n.data, p, off)
	n.writes = append(n.writes, write{off: off, data: slices.Clone(p)})
}

func (n *node) syncData() {
	n.synced = slices.Clone(n.data)
	n.writes = nil
}

// survive returns what a crash leaves of a node and all it leads to. seen
// keeps hard links to one file one file.
func (n *node) survive(rng *rand.Rand, seen map[*node]*node) *node {
	if s := seen[n]; s != nil {
		return s
	}
	s := &node{mode: n.mode, mtime: n.mtime}
	seen[n] = s
	if n.names == nil {
		s.data = n.surviveData(rng)
		s.synced = slices.Clone(s.data)
		return s
	}
	s.names = map[string]*node{}
	kept := n.surviveNames(rng)
	for _, name := range slices.Sorted(maps.Keys(kept)) {
		s.names[name] = kept[name].survive(rng, seen)
	}
	s.durable = maps.Clone(s.names)
	return s
}

// surviveNames keeps or loses each unsynced change by itself.
func (n *node) surviveNames(rng *rand.Rand) map[string]*node {
	kept := maps.Clone(n.durable)
	for _, c := range n.changes {
		switch {
		case !c.survives(rng):
		case c.node == nil:
			delete(kept, c.name)
		default:
			kept[c.name] = c.node
		}
	}
	return kept
}

// surviveData keeps, loses or tears each unsynced write by itself. What was
// allocated but not written reads as zeros.
func (n *node) surviveData(rng *rand.Rand) []byte {
	data := slices.Clone(n.synced)
	for _, w := range n.writes {
		switch rng.IntN(4) {
		case 0: // lost
		case 1: // torn
			data = w.tear(data, rng)
		case 2: // allocated only
			data = patch(data, make([]byte, len(w.data)), w.off)
		default:
			data = patch(data, w.data, w.off)
		}
	}
	return data
}

// patch returns data with p at off, with zeros in between if need be.
func patch(data, p []byte, off int64) []byte {
	if end := off + int64(len(p)); end > int64(len(data)) {
		data = append(data, make([]byte, end-int64(len(data)))...)
	}
	copy(data[off:], p)
	return data
}

func split(name string) []string {
	if name = path.Clean(name); name == "." {
		return nil
	}
	return strings.Split(name, "/")
}

// info is a node's fs.FileInfo, as of the moment it was asked for.
type info struct {
	name  string
	size  int64
	mode  fs.FileMode
	mtime time.Time
}

func (n *node) info(name string) info {
	return info{name: path.Base(name), size: int64(len(n.data)), mode: n.mode, mtime: n.mtime}
}

func (i info) Name() string       { return i.name }
func (i info) Size() int64        { return i.size }
func (i info) Mode() fs.FileMode  { return i.mode }
func (i info) ModTime() time.Time { return i.mtime }
func (i info) IsDir() bool        { return i.mode.IsDir() }
func (i info) Sys() any           { return nil }
