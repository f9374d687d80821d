package repo

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/secret"
)

func FuzzParseBlock(f *testing.F) {
	f.Add(AppendBlock(nil, &Block{}))
	f.Add(AppendBlock(nil, &Block{Packs: []PackID{{1}}, Runs: []Run{{Frame: FrameRef{Offset: 48, Stored: 99}, Count: 1}}, IDs: []ExtentID{{2}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := ParseBlock(data)
		if err != nil {
			return
		}
		if again := AppendBlock(nil, b); !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func FuzzParseItem(f *testing.F) {
	f.Add(appendItem(nil, &Item{Path: "a/b", Size: 5, Extent: 4096, Attrs: map[string]string{"k": "v"}, Blocks: []BlockRef{{Frame: FrameRef{Offset: 48, Stored: 99}}}}))
	f.Add(appendItem(nil, &Item{Path: "l", Kind: KindSymlink, Link: "x"}))
	f.Fuzz(func(t *testing.T, data []byte) {
		it, err := parseItem(data)
		if err != nil {
			return
		}
		if again := appendItem(nil, &it); !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func FuzzReadItems(f *testing.F) {
	f.Add([]byte{0, 9, 1, 'a', 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		seen, last := map[string]bool{}, ""
		_ = readItems(bytes.NewReader(data), 2, func(it Item) error {
			if seen[it.Path] || it.Path <= last || strings.HasPrefix(it.Path, "/") || strings.Contains("/"+it.Path+"/", "/../") {
				t.Fatalf("item %q behind %q", it.Path, last)
			}
			seen[it.Path], last = true, it.Path
			return nil
		})
	})
}

func FuzzHeader(f *testing.F) {
	h := header{typ: typeMap, cipher: cipherGCM, epoch: 3}.bytes()
	f.Add(h[:])
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := parseHeader(data)
		if err != nil {
			return
		}
		if again := h.bytes(); !bytes.Equal(again[:], data[:headerSize]) {
			t.Fatalf("%x became %x", data, again)
		}
	})
}

func FuzzPack(f *testing.F) {
	l := makeLin(f, newStore())
	f.Add(makePack(f, l, text(50), noise(1, 50)).body)
	f.Fuzz(func(t *testing.T, body []byte) {
		if start, n, err := splitPack(body); err == nil && (start < headerSize || start+n > len(body)) {
			t.Fatalf("footer at %d of %d bytes in %d", start, n, len(body))
		}
		_ = l.CheckPack(body, nil)
	})
}

func FuzzFooter(f *testing.F) {
	f.Add(appendFooter(nil, []packFrame{{offset: 48, stored: 20, raw: 3}, {offset: 68, stored: 30, raw: 9}}), 98)
	f.Fuzz(func(t *testing.T, data []byte, end int) {
		frames, err := parseFooter(data, end)
		if err != nil {
			return
		}
		if again := appendFooter(nil, frames); !bytes.Equal(again, data) {
			t.Fatalf("%x became %x", data, again)
		}
		for _, fr := range frames {
			if int(fr.offset)+int(fr.stored) > end {
				t.Fatalf("frame %+v ends behind %d", fr, end)
			}
		}
	})
}

// FuzzSealed feeds streams that authenticate (cipher 0) as well as garbage.
func FuzzSealed(f *testing.F) {
	s := &scope{cipher: cipherSum, newest: 1, epochs: map[uint32][]byte{1: make([]byte, keySize)}}
	body, err := s.sealObject(typeSegment, "k", []byte("{}"), text(100))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body, true)
	f.Add(body, false)
	f.Fuzz(func(t *testing.T, body []byte, meta bool) {
		_, data, err := s.openObject(body, typeSegment, "k", meta)
		if err == nil && len(data) > 0 && len(body) < headerSize+4+tagSize {
			t.Fatal("data out of nothing")
		}
	})
}

func FuzzPayload(f *testing.F) {
	enc, err := NewEncoder()
	if err != nil {
		f.Fatal(err)
	}
	dec, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc.Encode(nil, text(300)))
	f.Add(enc.Encode(nil, noise(1, 30)))
	f.Fuzz(func(t *testing.T, payload []byte) {
		out, err := dec.decode([]byte("kept"), payload)
		if err != nil {
			return
		}
		if len(out) > MaxFrame+4 || string(out[:4]) != "kept" {
			t.Fatalf("%d bytes out of %d", len(out), len(payload))
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte("{\"public\":{\"a\":1},\"sealed\":\"AAAA\"}\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := parseDocument(body)
		if err == nil && (!bytes.Equal(d.layout(), body) || !json.Valid(body)) {
			t.Fatalf("%q parsed", body)
		}
		_, _ = peekInfo(body)
	})
}

func FuzzSlot(f *testing.F) {
	s := slot{Repository: "r", SlotInfo: SlotInfo{Name: "n", Kind: slotAge, Created: testTime}, Wrapped: "x"}
	body, err := s.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseSlot("n", body)
		if err == nil && s.Name != "n" {
			t.Fatalf("slot %q passed for n", s.Name)
		}
	})
}

func FuzzSegmentKey(f *testing.F) {
	f.Add("0/0000000000000010-0000000000000020")
	f.Fuzz(func(t *testing.T, rest string) {
		level, start, end, err := parseSegmentKey(rest)
		if err != nil {
			return
		}
		ref := SegmentRef{Branch: "b", Level: level, Start: start, End: end}
		if again := strings.TrimPrefix(segmentKey("l", ref), logPrefix("l", "b")); again != rest {
			t.Fatalf("%q became %q", rest, again)
		}
	})
}

func FuzzImportKey(f *testing.F) {
	l := makeLin(f, newStore())
	f.Add(l.ExportKey().Reveal())
	f.Fuzz(func(t *testing.T, text string) {
		_, _ = importScope("pg-7", secret.New(text))
	})
}
