package stream

import (
	"context"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// check reads a finished pack as a restore would, before it leaves: decrypt,
// decompress, and hash every extent again. What fails here is this machine's
// memory or processor, or a bug, and would otherwise be found by the restore
// that needs the pack.
func (w *Writer) check(info repo.PackInfo, body []byte, frames []frame) error {
	select {
	case w.checks <- struct{}{}:
		defer func() { <-w.checks }()
	case <-w.ctx.Done():
		return context.Cause(w.ctx)
	}
	n := 0
	err := w.l.CheckPack(body, func(ref repo.FrameRef, plain []byte) error {
		if w.ctx.Err() != nil {
			return context.Cause(w.ctx)
		}
		if n == len(frames) || frames[n].ref != ref {
			return fmt.Errorf("frame %d at %d was not put there: %w", ref.Index, ref.Offset, repo.ErrDamaged)
		}
		n++
		return frames[n-1].check(w.l, plain)
	})
	if err == nil && n != len(frames) {
		err = fmt.Errorf("%d frames of %d: %w", n, len(frames), repo.ErrDamaged)
	}
	if err != nil {
		return fmt.Errorf("check pack %s before it is put: %w", info.ID, err)
	}
	return nil
}

// check compares a decoded frame with what went into it.
func (f *frame) check(l *repo.Lineage, plain []byte) error {
	if len(plain) != f.raw {
		return fmt.Errorf("a frame of %d bytes, want %d: %w", len(plain), f.raw, repo.ErrDamaged)
	}
	if f.blocks != nil && l.ExtentID(plain) != f.digest {
		return fmt.Errorf("a frame of the map differs: %w", repo.ErrDamaged)
	}
	for i, s := range f.segments {
		end := len(plain)
		if i+1 < len(f.segments) {
			end = f.segments[i+1].skip
		}
		extent := s.part.block.item.extent
		for at, k := s.skip, s.from; k < s.to; at, k = at+extent, k+1 {
			if l.ExtentID(plain[at:min(at+extent, end)]) != s.part.ids[k] {
				return fmt.Errorf("extent %d of %s differs: %w", s.part.first+k, s.part.block.item.item.Path, repo.ErrDamaged)
			}
		}
	}
	return nil
}
