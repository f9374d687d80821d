package stream

import (
	"fmt"
	"strings"
	"testing"
)

// sizes are where a cut could go wrong by one.
var sizes = []int{0, 1, 511, page - 1, page, page + 1, 3*page + 7, 1<<20 - 1, 1 << 20, 1<<20 + 1, 5<<20 + 4711, 64<<20 - 1, 64 << 20, 64<<20 + 1}

func bigTree() tree {
	tr := tree{"base/": nil, "base/1/": nil, "many/": nil, "pg_tblspc/": nil, "empty/": nil,
		"pg_tblspc/16384": []byte("->/srv/space"), "link": []byte("->base/1")}
	for i, n := range sizes {
		kind := text
		if i%2 == 1 {
			kind = noise
		}
		tr[fmt.Sprintf("base/1/%d", n)] = kind(uint64(i), n)
	}
	tr["base/zero"] = make([]byte, 70<<20)
	for i := range 3000 {
		tr[fmt.Sprintf("many/%04d", i)] = text(uint64(i), page*(1+i%3))
	}
	return tr
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := bigTree()
	o := options(t, 2*MinBudget)
	m, stats := backup(t, b.l, nil, tr, o, 1)
	var total int64
	for _, body := range tr {
		if !strings.HasPrefix(string(body), "->") {
			total += int64(len(body))
		}
	}
	if stats.Items != int64(len(tr)) || stats.Bytes != total || stats.NewBytes != total {
		t.Errorf("stats %+v, want %d items and %d bytes, all new", stats, len(tr), total)
	}
	var stored int64
	for _, p := range m.Packs {
		stored += p.Size
	}
	if stats.Packs != int64(len(m.Packs)) || stats.NewStored != stored {
		t.Errorf("stats %+v, the manifest has %d packs of %d bytes", stats, len(m.Packs), stored)
	}
	dir, rs := restored(t, b.l, m, o)
	same(t, dir, tr)
	if rs.Bytes != total || rs.Items != stats.Items {
		t.Errorf("restored %+v, want %d bytes in %d items", rs, total, stats.Items)
	}
	if rs.NewStored > stored {
		t.Errorf("read %d bytes of packs that hold %d: some were read twice", rs.NewStored, stored)
	}
	if high := o.Budget.HighWater(); high > o.Budget.Size() {
		t.Errorf("%d bytes in flight, the budget is %d", high, o.Budget.Size())
	}
}

func TestSmallFilesShareFrames(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	tr := tree{"d/": nil}
	for i := range 2000 {
		tr[fmt.Sprintf("d/%d", i)] = text(uint64(i), page)
	}
	o := options(t, MinBudget)
	_, _ = backup(t, b.l, nil, tr, o, 8)
	if n := len(b.packs()); n != 2 {
		t.Errorf("%d packs, want one of data and one of maps", n)
	}
	frames := 0
	for _, p := range b.packs() {
		n, err := b.frames(p)
		if err != nil {
			t.Fatal(err)
		}
		frames += n
	}
	// 2000 pages are 15.6 MiB; blocks of one extent are about 70 bytes.
	if frames > 16+1 {
		t.Errorf("%d frames", frames)
	}
}
