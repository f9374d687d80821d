package stream

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// frame is one frame on its way into a pack: extents of items, or encoded
// blocks.
type frame struct {
	raw      int // plaintext bytes
	segments []segment
	blocks   []blockSlot
	digest   repo.ExtentID // of a frame of blocks, to check it by
	ref      repo.FrameRef // set when packed
}

// packer fills one pack after the other. Each finished pack gets a goroutine
// that names, checks and puts it; slots bound how many there are.
type packer struct {
	w     *Writer
	limit int // stored bytes
	bytes int // of memory for one pack
	slots *packSlots

	mu   sync.Mutex // held while add waits for a slot: who frees one must not need it
	open *openPack

	unnamed atomic.Int32 // packs taken out and not named yet
}

// maxFrames keeps a pack's footer small (12 bytes a frame), should many
// frames be flushed before they are full.
const maxFrames = 1 << 14

type openPack struct {
	pack   *repo.Pack
	frames []frame
}

func newPacker(w *Writer, limit, bytes, most int) *packer {
	return &packer{w: w, limit: limit, bytes: bytes, slots: newPackSlots(w.o.Budget, int64(bytes), most)}
}

// add seals a payload into the open pack, and sends the pack on its way if the
// next frame might not fit. It may wait until an earlier pack is stored.
func (p *packer) add(ctx context.Context, payload []byte, f frame) (err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		if err := p.slots.acquire(ctx); err != nil {
			return err
		}
		pack, err := p.w.l.NewPackOf(p.bytes)
		if err != nil {
			p.slots.release()
			return err
		}
		p.open = &openPack{pack: pack}
	}
	if f.ref, err = p.open.pack.Add(payload, f.raw); err != nil {
		return fmt.Errorf("add a frame to a pack: %w", err)
	}
	p.open.frames = append(p.open.frames, f)
	if p.open.pack.Size()+frameReserve > p.limit || p.open.pack.Raw()+repo.FrameSize > repo.PackRawLimit || len(p.open.frames) == maxFrames {
		p.rotateLocked()
	}
	return nil
}

// rotate sends the open pack on its way, however little it holds.
func (p *packer) rotate() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rotateLocked()
}

func (p *packer) rotateLocked() {
	op := p.open
	if op == nil {
		return
	}
	p.open = nil
	p.unnamed.Add(1)
	p.w.uploads.Go(func() {
		if err := p.deliver(op); err != nil {
			p.w.fail(err)
		}
	})
}

// naming says whether a pack is on its way and has no name yet.
func (p *packer) naming() bool { return p.unnamed.Load() > 0 }

// deliver takes a pack from its last frame to durable.
func (p *packer) deliver(op *openPack) error {
	err := p.send(op)
	op.pack.Release()
	p.slots.release()
	if err != nil {
		return err
	}
	// Only now: relieving may open a pack, which may need this one's slot.
	return p.w.relieve()
}

func (p *packer) send(op *openPack) error {
	w := p.w
	info, body, err := p.name(op)
	if err != nil {
		return err
	}
	err = w.retry.do(w.ctx, "put pack "+info.ID.String(), func(ctx context.Context) error {
		return w.l.PutPack(ctx, info, body)
	})
	if err != nil {
		return err
	}
	w.stored.Add(info.Size)
	w.packsPut.Add(1)
	w.o.Progress.Stored(info.Size)
	return nil
}

// name finishes and checks a pack, and tells its blocks where they are. It
// needs no store, except where that completes blocks enough for a map pack.
func (p *packer) name(op *openPack) (repo.PackInfo, []byte, error) {
	defer p.unnamed.Add(-1)
	w := p.w
	info, body, err := op.pack.Finish()
	if err != nil {
		return info, nil, fmt.Errorf("finish a pack: %w", err)
	}
	if !w.o.NoSelfCheck {
		if err := w.check(info, body, op.frames); err != nil {
			return info, nil, err
		}
	}
	index := w.packs.add(info)
	for _, f := range op.frames {
		for _, s := range f.segments {
			s.part.block.place(info.ID, f.ref, s)
			w.unref(s.part.block)
		}
		for _, s := range f.blocks {
			s.item.setRef(s.index, repo.BlockRef{Pack: index, Frame: f.ref, Off: s.off, Len: s.len, ID: s.id})
		}
	}
	op.frames = nil
	return info, body, nil
}

// place notes where a segment went.
func (b *block) place(id repo.PackID, ref repo.FrameRef, s segment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.placed = append(b.placed, placed{
		first: s.part.first + s.from,
		pack:  id,
		run:   repo.Run{Frame: ref, Skip: uint32(s.skip), Count: uint32(s.to - s.from)},
	})
}

// close frees what never left. The pipeline must have stopped.
func (p *packer) close() {
	if p.open != nil {
		p.open.pack.Release()
		p.open = nil
		p.slots.release()
	}
	p.slots.close()
}

// packTable is the manifest's pack list in the making.
type packTable struct {
	mu    sync.Mutex
	at    map[repo.PackID]uint32
	packs []repo.PackInfo
}

func newPackTable() *packTable { return &packTable{at: make(map[repo.PackID]uint32)} }

// add lists a pack, once, and returns its index.
func (t *packTable) add(info repo.PackInfo) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i, ok := t.at[info.ID]; ok {
		return i
	}
	i := uint32(len(t.packs))
	t.at[info.ID] = i
	t.packs = append(t.packs, info)
	return i
}

func (t *packTable) has(id repo.PackID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.at[id]
	return ok
}

func (t *packTable) index(id repo.PackID) uint32 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.at[id]
}

func (t *packTable) list() []repo.PackInfo { return t.packs }
