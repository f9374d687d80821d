package stream

import (
	"errors"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestCoalesce(t *testing.T) {
	t.Parallel()
	at := func(pack byte, off, n uint32) piece {
		return piece{pack: repo.PackID{pack}, frame: repo.FrameRef{Offset: off, Stored: n}}
	}
	pieces := []piece{
		at(1, 100, 1000), at(1, 100, 1000), // two pieces of one frame
		at(1, 1100, 1000),               // its neighbour
		at(1, 2100+rangeGap, 10),        // worth the gap
		at(1, 2111+2*rangeGap, 10),      // not worth it
		at(1, 3000+2*rangeGap, 8<<20-1), // too long together
		at(2, 3000+2*rangeGap, 10),
	}
	type read struct {
		off, end int64
		pieces   int
	}
	want := []read{
		{100, 2110 + rangeGap, 4}, {2111 + 2*rangeGap, 2121 + 2*rangeGap, 1},
		{3000 + 2*rangeGap, 2999 + 2*rangeGap + 8<<20, 1}, {3000 + 2*rangeGap, 3010 + 2*rangeGap, 1},
	}
	got := coalesce(pieces)
	if len(got) != len(want) {
		t.Fatalf("%d reads, want %d", len(got), len(want))
	}
	for i, r := range got {
		if (read{r.off, r.end, len(r.pieces)}) != want[i] || r.pack != r.pieces[0].pack {
			t.Errorf("read %d: %d to %d with %d pieces, want %v", i, r.off, r.end, len(r.pieces), want[i])
		}
	}
}

func TestCheckItem(t *testing.T) {
	t.Parallel()
	blocks := func(n int) []repo.BlockRef { return make([]repo.BlockRef, n) }
	for _, it := range []repo.Item{
		{Size: 0}, {Size: 1, Extent: page, Blocks: blocks(1)}, {Size: 64 << 20, Extent: page, Blocks: blocks(1)},
		{Size: 64<<20 + 1, Extent: page, Blocks: blocks(2)}, {Size: 64 << 20, Extent: 5000, Blocks: blocks(2)},
	} {
		if err := checkItem(it); err != nil {
			t.Errorf("%d bytes: %v", it.Size, err)
		}
	}
	for _, it := range []repo.Item{
		{Size: -1}, {Size: 1, Extent: page}, {Size: 0, Extent: page, Blocks: blocks(1)}, {Size: 9, Blocks: blocks(1)},
		{Size: 64<<20 + 1, Extent: page, Blocks: blocks(1)}, {Size: 1, Extent: 1, Blocks: blocks(1)},
	} {
		if err := checkItem(it); !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%d bytes in %d blocks: %v", it.Size, len(it.Blocks), err)
		}
	}
	short := repo.Item{Size: 64<<20 + page + 1, Extent: page}
	for _, c := range []struct {
		off     int64
		extents int
		good    bool
	}{{0, 8192, true}, {0, 8191, false}, {64 << 20, 2, true}, {64 << 20, 1, false}, {128 << 20, 1, false}} {
		if err := checkSpan(short, c.off, c.extents); (err == nil) != c.good {
			t.Errorf("%d extents at %d: %v", c.extents, c.off, err)
		}
	}
}
