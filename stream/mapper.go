package stream

import (
	"context"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// blockSlot is where an encoded block stands in a map frame, and whose it is.
type blockSlot struct {
	item     *itemState
	index    int
	off, len uint32
	id       repo.ExtentID // of the encoded block
}

// mapper encodes finished blocks into frames of map packs.
type mapper struct {
	l    *repo.Lineage
	maps *packer

	mu    sync.Mutex
	press press
	buf   []byte
	slots []blockSlot
}

func newMapper(l *repo.Lineage, maps *packer) (*mapper, error) {
	enc, err := repo.NewEncoder()
	if err != nil {
		return nil, err
	}
	return &mapper{l: l, maps: maps, press: press{enc: enc}}, nil
}

func (m *mapper) close() { m.press.enc.Close() }

// add encodes one block. It may wait until an earlier map pack is stored.
func (m *mapper) add(ctx context.Context, b *block, content *repo.Block) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	start := len(m.buf)
	m.buf = repo.AppendBlock(m.buf, content)
	n := len(m.buf) - start
	if len(m.buf) > repo.FrameSize && start > 0 {
		if err := m.flushLocked(ctx, start); err != nil {
			return err
		}
		start = 0
	}
	m.slots = append(m.slots, blockSlot{item: b.item, index: b.index, off: uint32(start), len: uint32(n), id: m.l.ExtentID(m.buf[start:])})
	return nil
}

// flush packs what has been gathered.
func (m *mapper) flush(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.slots) == 0 {
		return nil
	}
	return m.flushLocked(ctx, len(m.buf))
}

// flushLocked makes a frame of the first n gathered bytes, which end with the
// last slot.
func (m *mapper) flushLocked(ctx context.Context, n int) error {
	plain := m.buf[:n]
	f := frame{raw: n, blocks: m.slots, digest: m.l.ExtentID(plain)}
	if err := m.maps.add(ctx, m.press.encode(plain), f); err != nil {
		return err
	}
	m.buf = append(m.buf[:0], m.buf[n:]...)
	m.slots = nil
	return nil
}
