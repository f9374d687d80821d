package repo

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func randomFrameRef(rng *rand.Rand) FrameRef {
	return FrameRef{
		Index: rng.Uint32N(PackFrames), Offset: headerSize + rng.Uint32N(PackSize),
		Stored: tagSize + 1 + rng.Uint32N(MaxFrame),
	}
}

func randomBlock(rng *rand.Rand) *Block {
	b := &Block{Packs: make([]PackID, 1+rng.IntN(5)), Runs: []Run{}, IDs: []ExtentID{}}
	for i := range b.Packs {
		b.Packs[i][rng.IntN(32)] = byte(rng.Uint32())
	}
	for range rng.IntN(40) {
		r := Run{Pack: rng.Uint32N(uint32(len(b.Packs))), Frame: randomFrameRef(rng), Skip: rng.Uint32N(MaxFrame), Count: 1 + rng.Uint32N(100)}
		b.Runs = append(b.Runs, r)
		for range r.Count {
			var id ExtentID
			id[rng.IntN(16)] = byte(rng.Uint32())
			b.IDs = append(b.IDs, id)
		}
	}
	return b
}

func TestBlockProperty(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(7, 7))
	for range 300 {
		b := randomBlock(rng)
		data := AppendBlock([]byte("before"), b)[len("before"):]
		got, err := ParseBlock(data)
		if err != nil || !reflect.DeepEqual(got, b) {
			t.Fatalf("%+v became %+v, %v", b, got, err)
		}
		for range 20 {
			n := rng.IntN(len(data))
			if _, err := ParseBlock(data[:n]); err == nil {
				t.Fatalf("the first %d of %d bytes parsed", n, len(data))
			}
		}
		if _, err := ParseBlock(append(data, 0)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("a byte behind the end: %v", err)
		}
	}
}

func TestParseBlockRefuses(t *testing.T) {
	t.Parallel()
	ref := FrameRef{Offset: headerSize, Stored: 100}
	good := func() *Block {
		return &Block{Packs: []PackID{{1}}, Runs: []Run{{Frame: ref, Count: 2}}, IDs: make([]ExtentID, 2)}
	}
	if _, err := ParseBlock(AppendBlock(nil, good())); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Block){
		"pack out of range":  func(b *Block) { b.Runs[0].Pack = 1 },
		"empty run":          func(b *Block) { b.Runs[0].Count, b.IDs = 0, nil },
		"too few ids":        func(b *Block) { b.IDs = b.IDs[:1] },
		"too many ids":       func(b *Block) { b.IDs = make([]ExtentID, 3) },
		"frame in header":    func(b *Block) { b.Runs[0].Frame.Offset = 0 },
		"frame without data": func(b *Block) { b.Runs[0].Frame.Stored = tagSize },
		"huge frame":         func(b *Block) { b.Runs[0].Frame.Stored = maxStoredFrame + 1 },
		"skip beyond frame":  func(b *Block) { b.Runs[0].Skip = MaxFrame + 1 },
		"too many extents":   func(b *Block) { b.Runs[0].Count, b.IDs = maxExtents+1, make([]ExtentID, maxExtents+1) },
	} {
		b := good()
		change(b)
		if _, err := ParseBlock(AppendBlock(nil, b)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseBlock([]byte{9, 0, 0, 0}); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown version: %v", err)
	}
	for name, data := range map[string][]byte{
		"long varint": {0, 0x80, 0, 0, 0}, "count beyond the data": {0, 0xff, 0xff, 0xff, 0xff, 0x0f}, "empty": {},
	} {
		if _, err := ParseBlock(data); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func writeMap(t *testing.T, l *Lineage, items []Item) ([]byte, error) {
	t.Helper()
	body, _, err := l.keys.sealMap("k", items, 3)
	return body, err
}

func readMap(l *Lineage, body []byte) (out []Item, err error) {
	err = l.itemsFrom(bytes.NewReader(body), "k", 3, func(it Item) error {
		out = append(out, it)
		return nil
	})
	return out, err
}

func TestMapRoundTrip(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	rng := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{0, 1, 3000} {
		var items []Item
		for i := range n {
			it := Item{
				Path: fmt.Sprintf("base/%05d/%s", i, strings.Repeat("x", rng.IntN(300))+"é"), Mode: 0o640,
				ModTime: time.Unix(rng.Int64N(1<<40)-(1<<39), 0).UTC(), Extent: 8192,
				Size: rng.Int64N(300 << 20), Attrs: map[string]string{"a": "1", "b": strings.Repeat("v", rng.IntN(9))},
			}
			for range blockCount(it.Size, it.Extent) {
				it.Blocks = append(it.Blocks, BlockRef{Pack: rng.Uint32N(3), Frame: randomFrameRef(rng), Off: rng.Uint32N(MaxFrame), Len: rng.Uint32N(MaxFrame), ID: ExtentID{byte(i)}})
			}
			items = append(items, it)
		}
		rng.Shuffle(len(items), func(i, j int) { items[i], items[j] = items[j], items[i] })
		body, err := writeMap(t, l, items)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readMap(l, body)
		if err != nil || len(got) != n || n > 0 && !reflect.DeepEqual(got, items) {
			t.Fatalf("%d of %d items, %v", len(got), n, err)
		}
	}
}

func TestUnsafeItems(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	ref := BlockRef{Frame: FrameRef{Offset: headerSize, Stored: 100}}
	for name, items := range map[string][]Item{
		"empty path":      {{Path: ""}},
		"absolute":        {{Path: "/etc/passwd"}},
		"parent":          {{Path: "../x"}},
		"parent inside":   {{Path: "a/../../x"}},
		"dot":             {{Path: "./x"}},
		"double slash":    {{Path: "a//x"}},
		"trailing slash":  {{Path: "a/"}},
		"zero byte":       {{Path: "a\x00b"}},
		"long":            {{Path: strings.Repeat("x", maxPath+1)}},
		"twice":           {{Path: "a"}, {Path: "a"}},
		"below a link":    {{Path: "a", Kind: KindSymlink, Link: "/"}, {Path: "a/x"}},
		"deep below link": {{Path: "a", Kind: KindSymlink, Link: "/"}, {Path: "a-b", Kind: KindDir}, {Path: "a-b/c"}, {Path: "a/b/c/x"}},
		"below a file":    {{Path: "a"}, {Path: "a.b"}, {Path: "a/x"}},
		"link to nothing": {{Path: "a", Kind: KindSymlink}},
		"file with link":  {{Path: "a", Link: "b"}},
		"unknown kind":    {{Path: "a", Kind: 3}},
		"dir with size":   {{Path: "a", Kind: KindDir, Size: 1}},
		"negative size":   {{Path: "a", Size: -1}},
		"missing blocks":  {{Path: "a", Size: 1, Extent: 8192}},
		"no extent size":  {{Path: "a", Size: 1, Blocks: []BlockRef{ref}}},
		"blocks of none":  {{Path: "a", Extent: 8192, Blocks: []BlockRef{ref}}},
		"unknown pack":    {{Path: "a", Size: 1, Extent: 8192, Blocks: []BlockRef{{Pack: 3, Frame: ref.Frame}}}},
	} {
		if _, err := writeMap(t, l, items); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: written: %v", name, err)
		}
		// A reader must not trust a writer, even one with the key.
		plain := []byte{mapVersion}
		for i := range items {
			body := appendItem(nil, &items[i])
			plain = append(append(plain, byte(len(body)&0x7f|0x80), byte(len(body)>>7)), body...)
		}
		if len(plain) > 1<<14 {
			continue // its length takes a third byte
		}
		err := readItems(bytes.NewReader(plain), 3, func(Item) error { return nil })
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: read: %v", name, err)
		}
	}
	fine := []Item{{Path: "a", Kind: KindSymlink, Link: "/"}, {Path: "a-b", Kind: KindDir}, {Path: "a.b"}, {Path: "ab/c"}, {Path: "...", Kind: KindDir}, {Path: ".../..x"}}
	if _, err := writeMap(t, l, fine); err != nil {
		t.Errorf("harmless names: %v", err)
	}
}

func TestItemsStopsWithCaller(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	m, _ := makeBackup(t, l, "")
	stop := errors.New("enough")
	n := 0
	err := l.Items(t.Context(), m, func(Item) error { n++; return stop })
	if !errors.Is(err, stop) || errors.Is(err, ErrDamaged) || n != 1 {
		t.Fatalf("%d calls, %v", n, err)
	}
}
