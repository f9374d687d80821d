package stream

import (
	"reflect"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// TestBuildBlock mixes what the parent has with what is new, in every way runs
// can and cannot continue each other.
func TestBuildBlock(t *testing.T) {
	t.Parallel()
	one, two := repo.PackID{1}, repo.PackID{2}
	f, g := repo.FrameRef{Index: 1, Offset: 90, Stored: 5}, repo.FrameRef{Index: 2, Offset: 95, Stored: 5}
	id := func(n byte) repo.ExtentID { return repo.ExtentID{n} }
	b := &block{
		item: &itemState{extent: page}, extents: 10,
		parts: []*part{{ids: []repo.ExtentID{id(0), id(1), id(2), id(3)}}, {first: 4, ids: []repo.ExtentID{id(4), id(5), id(6), id(7), id(8), id(9)}}},
		old: &repo.Block{
			Packs: []repo.PackID{one},
			Runs:  []repo.Run{{Frame: f, Skip: 100, Count: 3}, {Frame: g, Skip: 0, Count: 7}},
			IDs:   make([]repo.ExtentID, 10),
		},
		placed: []placed{ // as packs were named, not in order
			{first: 8, pack: two, run: repo.Run{Frame: f, Skip: 2 * page, Count: 1}}, // continues extent 7 in the frame
			{first: 1, pack: two, run: repo.Run{Frame: g, Skip: 0, Count: 1}},
			{first: 6, pack: two, run: repo.Run{Frame: f, Skip: 7 * page, Count: 1}}, // next to 7, not in the frame
			{first: 7, pack: two, run: repo.Run{Frame: f, Skip: page, Count: 1}},
		},
	}
	got, err := b.build()
	if err != nil {
		t.Fatal(err)
	}
	want := &repo.Block{
		Packs: []repo.PackID{one, two},
		Runs: []repo.Run{
			{Pack: 0, Frame: f, Skip: 100, Count: 1},
			{Pack: 1, Frame: g, Skip: 0, Count: 1},
			{Pack: 0, Frame: f, Skip: 100 + 2*page, Count: 1},
			{Pack: 0, Frame: g, Skip: 0, Count: 3},
			{Pack: 1, Frame: f, Skip: 7 * page, Count: 1},
			{Pack: 1, Frame: f, Skip: page, Count: 2},
			{Pack: 0, Frame: g, Skip: 6 * page, Count: 1},
		},
	}
	for i := range byte(10) {
		want.IDs = append(want.IDs, id(i))
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	b.old = nil
	if _, err := b.build(); err == nil {
		t.Error("a block with holes was built")
	}
}
