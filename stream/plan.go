package stream

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// What bounds a restore's plan. The planner works in windows: as many blocks,
// in the order they were stored, as windowBytes describe. Within a window
// every frame is fetched and decoded once. Two windows are in flight, so that
// one is planned while the other is written.
const (
	windowBytes = 4 << 20 // of plan: about 128,000 extents, 1 GiB of 8 KiB pages
	windowFiles = 100     // files of more than one frame in a window: they stay open until their last
	windows     = 2

	rangeSize = 8 << 20   // most stored bytes in one read
	rangeGap  = 256 << 10 // unneeded bytes worth reading to save a request
	runCost   = 96        // bytes of a piece
	idCost    = 16
)

// piece is one run of a file's block: consecutive extents in one frame.
type piece struct {
	file  *openFile
	pack  repo.PackID
	frame repo.FrameRef
	skip  uint32
	off   int64 // in the file
	ids   []repo.ExtentID
}

// readRange is one read of a pack, and the pieces in it, sorted by frame.
type readRange struct {
	pack     repo.PackID
	off, end int64
	pieces   []piece
	window   *window
}

// window is what was planned together.
type window struct {
	pieces []piece
	cost   int64
	files  int
	ranges atomic.Int64 // not done yet
}

// planner turns files into ranges.
type planner struct {
	blocks *blockReader
	free   chan struct{} // a token for each window that may be in flight
	out    chan<- *readRange
	cur    *window
}

// add plans one file, sending windows out as they fill.
func (p *planner) add(ctx context.Context, f *openFile) error {
	span := blockSpan(f.item.Extent)
	for k, ref := range f.item.Blocks {
		b, _, err := p.blocks.read(ctx, ref)
		if err != nil {
			return fmt.Errorf("%s: block %d: %w", f.item.Path, k, err)
		}
		off := int64(k) * span
		if err := checkSpan(f.item, off, len(b.IDs)); err != nil {
			return fmt.Errorf("%s: block %d: %w", f.item.Path, k, err)
		}
		cost := int64(len(b.IDs))*idCost + int64(len(b.Runs))*runCost
		files := 0
		if k == 0 && (len(f.item.Blocks) > 1 || len(b.Runs) > 1) {
			files = 1
		}
		if err := p.room(ctx, cost, files); err != nil {
			return err
		}
		p.take(f, b, off)
	}
	return nil
}

// checkSpan makes sure that a block covers what its place says, so that a
// file cannot be restored with a hole.
func checkSpan(item repo.Item, off int64, extents int) error {
	covers := min(blockSpan(item.Extent), item.Size-off)
	want := (covers + int64(item.Extent) - 1) / int64(item.Extent)
	if covers <= 0 || int64(extents) != want {
		return fmt.Errorf("%d extents at %d of %d bytes, want %d: %w", extents, off, item.Size, max(want, 0), repo.ErrDamaged)
	}
	return nil
}

// room makes sure the current window can take so much more.
func (p *planner) room(ctx context.Context, cost int64, files int) error {
	if w := p.cur; w != nil && (w.cost+cost > windowBytes || w.files+files > windowFiles) {
		if err := p.flush(ctx); err != nil {
			return err
		}
	}
	if p.cur == nil {
		select {
		case <-p.free:
			p.cur = &window{}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.cur.cost += cost
	p.cur.files += files
	return nil
}

func (p *planner) take(f *openFile, b *repo.Block, off int64) {
	ids := b.IDs
	for _, r := range b.Runs {
		p.cur.pieces = append(p.cur.pieces, piece{
			file: f, pack: b.Packs[r.Pack], frame: r.Frame, skip: r.Skip, off: off, ids: ids[:r.Count],
		})
		ids = ids[r.Count:]
		off += int64(r.Count) * int64(f.item.Extent)
	}
}

// flush sends the current window's ranges to the workers.
func (p *planner) flush(ctx context.Context) error {
	w := p.cur
	p.cur = nil
	if w == nil {
		return nil
	}
	if len(w.pieces) == 0 {
		p.free <- struct{}{}
		return nil
	}
	slices.SortFunc(w.pieces, func(a, b piece) int {
		return cmp.Or(bytes.Compare(a.pack[:], b.pack[:]), cmp.Compare(a.frame.Offset, b.frame.Offset), cmp.Compare(a.skip, b.skip))
	})
	ranges := coalesce(w.pieces)
	w.pieces = nil
	w.ranges.Store(int64(len(ranges)))
	for _, r := range ranges {
		r.window = w
		select {
		case p.out <- r:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// coalesce groups sorted pieces into reads of at most rangeSize.
func coalesce(pieces []piece) []*readRange {
	var out []*readRange
	var cur *readRange
	from := 0
	for i, p := range pieces {
		off, end := int64(p.frame.Offset), int64(p.frame.Offset)+int64(p.frame.Stored)
		if cur == nil || cur.pack != p.pack || off > cur.end+rangeGap || max(end, cur.end)-cur.off > rangeSize {
			if cur != nil {
				cur.pieces = pieces[from:i:i]
			}
			cur = &readRange{pack: p.pack, off: off, end: end}
			out = append(out, cur)
			from = i
		}
		cur.end = max(cur.end, end)
	}
	if cur != nil {
		cur.pieces = pieces[from:]
	}
	return out
}
