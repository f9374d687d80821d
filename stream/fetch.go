package stream

import (
	"context"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// fetcher is one worker of a restore: it reads ranges, opens their frames,
// verifies every extent and writes it.
type fetcher struct {
	r      *restorer
	dec    *repo.Decoder
	stored []byte
	plain  []byte
}

// run works until the ranges end or ctx does.
func (f *fetcher) run(ctx context.Context, ranges <-chan *readRange) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case rg, ok := <-ranges:
			if !ok {
				return nil
			}
			if err := f.do(ctx, rg); err != nil {
				return err
			}
			if rg.window.ranges.Add(-1) == 0 {
				f.r.windows <- struct{}{}
			}
		}
	}
}

func (f *fetcher) do(ctx context.Context, rg *readRange) error {
	first := rg.pieces[0].file.item.Path
	pack, err := f.r.packs.open(ctx, rg.pack)
	if err != nil {
		return fmt.Errorf("restore %s: %w", first, err)
	}
	f.r.packRead(rg.pack)
	f.stored, err = f.r.packs.fetch(ctx, pack, rg.pack, rg.off, rg.end-rg.off, f.stored[:0])
	if err != nil {
		return fmt.Errorf("restore %s: %w", first, err)
	}
	f.r.fetched(rg.end - rg.off)
	for i, p := range rg.pieces {
		if i == 0 || rg.pieces[i-1].frame != p.frame {
			at := int64(p.frame.Offset) - rg.off
			f.plain, err = pack.Open(f.dec, p.frame, f.stored[at:at+int64(p.frame.Stored)], f.plain[:0])
			if err != nil {
				return fmt.Errorf("restore %s at %d: pack %s at %d: %w", p.file.item.Path, p.off, rg.pack, p.frame.Offset, err)
			}
		}
		if err := f.write(p); err != nil {
			return err
		}
	}
	return nil
}

// write verifies a piece's extents and writes them at once.
func (f *fetcher) write(p piece) error {
	extent := int64(p.file.item.Extent)
	n := min(int64(len(p.ids))*extent, p.file.item.Size-p.off)
	if int64(p.skip)+n > int64(len(f.plain)) {
		return fmt.Errorf("restore %s at %d: pack %s at %d: its frame is too short: %w",
			p.file.item.Path, p.off, p.pack, p.frame.Offset, repo.ErrDamaged)
	}
	data := f.plain[p.skip : int64(p.skip)+n]
	for i, id := range p.ids {
		at := int64(i) * extent
		if f.r.l.ExtentID(data[at:min(at+extent, n)]) != id {
			return fmt.Errorf("restore %s at %d: pack %s at %d: the extent is not what was backed up: %w",
				p.file.item.Path, p.off+at, p.pack, p.frame.Offset, repo.ErrDamaged)
		}
	}
	if err := p.file.writeAt(data, p.off); err != nil {
		return err
	}
	f.r.wrote(n)
	return nil
}
