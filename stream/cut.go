package stream

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// minExtent keeps an encoded block under a frame: 16,384 ids of 16 bytes, and
// their runs.
const minExtent = 4096

// blockSpan is the plaintext bytes every block of an item but its last
// covers: as many whole extents as fit into repo.BlockSpan. Block k begins at
// k·blockSpan, so that a block has the same place in the next backup.
func blockSpan(extent uint32) int64 {
	return int64(repo.BlockSpan / extent * extent)
}

// block is what is known of one block of an item until every pack its extents
// are in has a name. refs counts what it still waits for: one for the reader,
// one a job, one a segment in a pack without a name. Who drops the last one
// completes the block.
type block struct {
	item   *itemState
	index  int
	refs   atomic.Int32
	charge int64

	extents int     // written by Put alone
	parts   []*part // written by Put alone, in order of offset

	old    *repo.Block // the parent's block of this place, or nil
	oldRef repo.BlockRef
	oldID  repo.PackID // of the pack oldRef is in

	mu     sync.Mutex
	placed []placed // extents stored by this backup
}

// part is the extents of one input buffer; its worker fills in the ids.
type part struct {
	block *block
	first int // extent's number in the block
	ids   []repo.ExtentID
}

// placed is a run of extents and where they went.
type placed struct {
	first int // extent's number in the block
	pack  repo.PackID
	run   repo.Run // Run.Pack is not set
}

// job is one input buffer for the workers.
type job struct {
	part *part
	buf  []byte // whole, to be handed back
	n    int
}

// charge is what the block at pos will keep in memory, by the item's size
// estimate.
func (w *Writer) charge(it *itemState, pos, estimate int64) int64 {
	extent := int64(it.extent)
	expect := blockSpan(it.item.Extent) / extent
	if rest := estimate - pos; rest > 0 {
		expect = min(expect, (rest+extent-1)/extent)
	}
	return blockOverhead + expect*w.extentCost()
}

// openBlock begins the block at pos, which has been admitted with charge.
func (w *Writer) openBlock(it *itemState, pos, charge int64) (*block, error) {
	b := &block{item: it, index: int(pos / blockSpan(it.item.Extent)), charge: charge}
	if w.parent != nil {
		if err := w.parent.lookup(w.ctx, b); err != nil {
			return nil, fmt.Errorf("look up %s at %d in the parent backup: %w", it.item.Path, pos, err)
		}
	}
	b.refs.Store(1)
	it.mu.Lock()
	it.refs = append(it.refs, repo.BlockRef{})
	it.mu.Unlock()
	return b, nil
}

// job takes the first n bytes of buf into the block.
func (b *block) job(buf []byte, n int) job {
	count := (n + b.item.extent - 1) / b.item.extent
	p := &part{block: b, first: b.extents, ids: make([]repo.ExtentID, count)}
	b.parts = append(b.parts, p)
	b.extents += count
	b.refs.Add(1)
	return job{part: p, buf: buf, n: n}
}

// unref drops one reference, and completes the block with the last.
func (w *Writer) unref(b *block) {
	if b.refs.Add(-1) > 0 {
		return
	}
	if err := w.complete(b); err != nil {
		w.fail(err)
	}
	w.pending.release(b.charge)
}

// complete refers to the parent's block if nothing changed, and else hands a
// new one to the mapper.
func (w *Writer) complete(b *block) error {
	if w.ctx.Err() != nil {
		return nil // what failed is reported already; the block may lack parts
	}
	if b.unchanged() {
		if err := w.refer(b.old.Packs...); err != nil {
			return err
		}
		if err := w.refer(b.oldID); err != nil {
			return err
		}
		b.oldRef.Pack = w.packs.index(b.oldID)
		b.item.setRef(b.index, b.oldRef)
		return nil
	}
	nb, err := b.build()
	if err != nil {
		return err
	}
	if err := w.refer(nb.Packs...); err != nil {
		return err
	}
	return w.mapper.add(w.ctx, b, nb)
}

// refer puts packs into the manifest's list: our own have been there since
// they were named, others are the parent's.
func (w *Writer) refer(ids ...repo.PackID) error {
	for _, id := range ids {
		if w.packs.has(id) {
			continue
		}
		if w.parent == nil {
			return fmt.Errorf("internal: a block refers to pack %s, which is not ours", id)
		}
		size, ok := w.parent.sizes[id]
		if !ok {
			return fmt.Errorf("the parent backup's map refers to pack %s, its manifest does not: %w", id, repo.ErrDamaged)
		}
		w.packs.add(repo.PackInfo{ID: id, Size: size})
	}
	return nil
}

// unchanged says whether the parent's block describes this one exactly.
func (b *block) unchanged() bool {
	return b.old != nil && len(b.placed) == 0 && len(b.old.IDs) == b.extents
}

// build makes the block: placed extents where this backup put them, all
// others where the parent's block has them.
func (b *block) build() (*repo.Block, error) {
	slices.SortFunc(b.placed, func(x, y placed) int { return cmp.Compare(x.first, y.first) })
	rb := runBuilder{extent: b.item.extent, packs: make(map[repo.PackID]uint32), out: &repo.Block{
		IDs: make([]repo.ExtentID, 0, b.extents),
	}}
	for _, p := range b.parts {
		rb.out.IDs = append(rb.out.IDs, p.ids...)
	}
	var old runCursor
	if b.old != nil {
		old = runCursor{block: b.old, extent: b.item.extent}
	}
	at := 0
	for _, p := range append(b.placed, placed{first: b.extents}) {
		if p.first < at {
			return nil, fmt.Errorf("internal: extent %d of %s stored twice", p.first, b.item.item.Path)
		}
		for at < p.first {
			id, run, ok := old.next(at, p.first)
			if !ok {
				return nil, fmt.Errorf("internal: extent %d of %s not stored", at, b.item.item.Path)
			}
			rb.add(id, run)
			at += int(run.Count)
		}
		if p.run.Count > 0 {
			rb.add(p.pack, p.run)
			at += int(p.run.Count)
		}
	}
	return rb.out, nil
}

// runCursor finds extents in a block's runs, in ascending order.
type runCursor struct {
	block  *repo.Block
	extent int
	run    int // index of the run that holds extent number `start`
	start  int
}

// next returns the stretch of one run that begins with extent number at and
// ends before limit.
func (c *runCursor) next(at, limit int) (repo.PackID, repo.Run, bool) {
	if c.block == nil {
		return repo.PackID{}, repo.Run{}, false
	}
	for c.run < len(c.block.Runs) {
		r := c.block.Runs[c.run]
		if end := c.start + int(r.Count); at < end {
			r.Skip += uint32((at - c.start) * c.extent)
			r.Count = uint32(min(end, limit) - at)
			return c.block.Packs[r.Pack], r, true
		}
		c.start += int(r.Count)
		c.run++
	}
	return repo.PackID{}, repo.Run{}, false
}

// runBuilder joins runs that continue each other.
type runBuilder struct {
	extent int
	packs  map[repo.PackID]uint32
	out    *repo.Block
}

func (rb *runBuilder) add(id repo.PackID, run repo.Run) {
	index, ok := rb.packs[id]
	if !ok {
		index = uint32(len(rb.out.Packs))
		rb.packs[id] = index
		rb.out.Packs = append(rb.out.Packs, id)
	}
	run.Pack = index
	if n := len(rb.out.Runs); n > 0 {
		last := &rb.out.Runs[n-1]
		if last.Pack == index && last.Frame == run.Frame && last.Skip+last.Count*uint32(rb.extent) == run.Skip {
			last.Count += run.Count
			return
		}
	}
	rb.out.Runs = append(rb.out.Runs, run)
}

// admit reserves a block's share of the pending bytes. If it has to wait, it
// makes the pipeline give names to what it holds, so that blocks complete.
func (w *Writer) admit(cost int64) error {
	for {
		wait, ok := w.pending.try(cost)
		if ok {
			return nil
		}
		if err := w.relieve(); err != nil {
			w.pending.stopWaiting()
			return err
		}
		var err error
		select {
		case <-wait:
		case <-w.ctx.Done():
			err = context.Cause(w.ctx)
		}
		w.pending.stopWaiting()
		if err != nil {
			return err
		}
	}
}

// relieve flushes new extents into the open pack and finishes it early, if
// somebody waits for pending blocks and no pack is about to be named anyway.
// Whoever may have been the last to add something pending calls it: a Put
// about to wait, a worker after each job, a pack once it has its name.
func (w *Writer) relieve() error {
	if !w.pending.pressed() || w.data.naming() {
		return nil
	}
	if err := w.collect.flush(w.ctx); err != nil {
		return err
	}
	w.data.rotate()
	return nil
}
