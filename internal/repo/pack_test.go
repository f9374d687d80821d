package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

func TestPackRoundTrip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	l := makeLin(t, st)
	plains := [][]byte{text(FrameSize), noise(1, FrameSize), {}, {7}, noise(2, MaxFrame), text(MaxFrame)}
	p := makePack(t, l, plains...)
	if p.info.ID != sha256.Sum256(p.body) || p.info.Size != int64(len(p.body)) {
		t.Fatal("the name is not the hash of the bytes")
	}
	if err := l.PutPack(ctx, p.info, p.body); err != nil {
		t.Fatal(err)
	}
	if err := l.PutPack(ctx, p.info, p.body); err != nil {
		t.Fatalf("storing it again: %v", err)
	}
	if err := l.StatPack(ctx, p.info); err != nil {
		t.Fatal(err)
	}
	if body, err := l.ReadPack(ctx, p.info); err != nil || !bytes.Equal(body, p.body) {
		t.Fatalf("read whole: %d bytes, %v", len(body), err)
	}
	r, err := l.OpenPack(ctx, p.info.ID)
	if err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for i, ref := range p.refs {
		stored, err := r.Fetch(ctx, int64(ref.Offset), int64(ref.Stored), []byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		stored = stored[len("before"):]
		for range 2 { // opening leaves the stored bytes as they are
			got, err := r.Open(d, ref, stored, []byte("kept"))
			if err != nil || !bytes.Equal(got, append([]byte("kept"), plains[i]...)) {
				t.Fatalf("frame %d: %d bytes, %v", i, len(got), err)
			}
		}
	}
	n := 0
	err = l.CheckPack(p.body, func(ref FrameRef, plain []byte) error {
		if ref != p.refs[n] || !bytes.Equal(plain, plains[n]) {
			t.Errorf("frame %d: wrong place or content", n)
		}
		n++
		return nil
	})
	if err != nil || n != len(plains) {
		t.Fatalf("%d frames, %v", n, err)
	}
	if len(p.refs) > 1 && p.refs[0].Stored > FrameSize/10 {
		t.Errorf("repeated text takes %d bytes", p.refs[0].Stored)
	}
	if want := uint32(FrameSize + 1 + tagSize); p.refs[1].Stored != want {
		t.Errorf("noise takes %d bytes, raw would be %d", p.refs[1].Stored, want)
	}
}

func TestPackConcurrentAdd(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	for round := range 2 { // the second uses the first one's buffer
		p, err := l.NewPack()
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		want := map[FrameRef][]byte{}
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				enc, err := NewEncoder()
				if err != nil {
					t.Error(err)
					return
				}
				defer enc.Close()
				for i := range 100 {
					plain := noise(uint64(round*10000+g*100+i), 60_000+i)
					ref, err := p.Add(enc.Encode(nil, plain), len(plain))
					if errors.Is(err, ErrPackFull) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					want[ref] = plain
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if p.Size() < PackSize || p.Size() > PackSize+70_000 {
			t.Fatalf("a full pack holds %d bytes", p.Size())
		}
		info, body, err := p.Finish()
		if err != nil || info.Size != int64(len(body)) || len(body) > maxPack {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
		seen := 0
		if err := l.CheckPack(body, func(ref FrameRef, plain []byte) error {
			if !bytes.Equal(want[ref], plain) {
				t.Errorf("frame %d does not hold what was added", ref.Index)
			}
			seen++
			return nil
		}); err != nil || seen != len(want) {
			t.Fatalf("%d of %d frames, %v", seen, len(want), err)
		}
		p.Release()
	}
}

// A frame of the largest size may arrive when the buffer is nearly full: it
// moves to a larger one while others are still being sealed into the old.
func TestPackGrows(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	p, err := l.NewPack()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	payload := append([]byte{algRaw}, noise(9, MaxFrame-1000)...)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := p.Add(payload, MaxFrame-1000); err != nil && !errors.Is(err, ErrPackFull) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := p.Add(payload, MaxFrame); !errors.Is(err, ErrPackFull) {
		t.Fatalf("a full pack: %v", err)
	}
	_, body, err := p.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if len(body) <= packBufferCap {
		t.Fatalf("%d bytes did not make it grow", len(body))
	}
	if err := l.CheckPack(body, func(_ FrameRef, plain []byte) error {
		if !bytes.Equal(plain, payload[1:]) {
			t.Error("a frame changed")
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Add(payload, 1); err == nil || errors.Is(err, ErrPackFull) {
		t.Fatalf("a finished pack took a frame: %v", err)
	}
}

func TestPackLimits(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	for name, c := range map[string]struct{ frames, raw int }{
		"plaintext": {PackRawLimit / MaxFrame, MaxFrame},
		"frames":    {PackFrames, 1},
	} {
		p, err := l.NewPack()
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.frames {
			if _, err := p.Add([]byte{algRaw, 1}, c.raw); err != nil {
				t.Fatalf("%s: frame %d: %v", name, i, err)
			}
		}
		if _, err := p.Add([]byte{algRaw, 1}, c.raw); !errors.Is(err, ErrPackFull) {
			t.Errorf("%s: %v", name, err)
		}
		p.Release()
	}
	p, err := l.NewPack()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	for _, payload := range [][]byte{nil, make([]byte, MaxFrame+2)} {
		if _, err := p.Add(payload, 1); err == nil {
			t.Errorf("a payload of %d bytes was taken", len(payload))
		}
	}
}

func TestPutPackConflict(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mem := newStore()
	l := makeLin(t, faulty.Wrap(mem, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/pack/", Fault: faulty.Fault{Kind: faulty.Lost}})))
	p := makePack(t, l, text(100))
	if err := l.PutPack(ctx, p.info, p.body); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	if err := l.PutPack(ctx, p.info, p.body); err != nil {
		t.Fatalf("retry: %v", err)
	}
	bad := bytes.Clone(p.body)
	bad[60] ^= 1
	mem.Put(packKey("pg-7", p.info.ID), bad)
	if err := l.PutPack(ctx, p.info, p.body); !errors.Is(err, ErrDamaged) {
		t.Fatalf("other bytes of the same length passed as stored: %v", err)
	}
	for _, info := range []PackInfo{p.info, {ID: p.info.ID, Size: p.info.Size - 1}} {
		if _, err := l.ReadPack(ctx, info); !errors.Is(err, ErrDamaged) {
			t.Fatalf("read whole as %d bytes: %v", info.Size, err)
		}
	}
	if err := l.PutPack(ctx, p.info, p.body[1:]); err == nil {
		t.Fatal("bytes of another length were stored")
	}
	if err := l.StatPack(ctx, PackInfo{ID: PackID{9}, Size: 1}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a missing pack: %v", err)
	}
	if _, err := l.OpenPack(ctx, PackID{9}); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a missing pack: %v", err)
	}
}

// A frame must not make its reader allocate more than MaxFrame.
func TestDecompressionLimit(t *testing.T) {
	t.Parallel()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer // a stream states no content size
	s, err := zstd.NewWriter(&stream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(make([]byte, 2*MaxFrame)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	half := z.EncodeAll(make([]byte, MaxFrame), nil)
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for name, body := range map[string][]byte{
		"stated":     z.EncodeAll(make([]byte, 2*MaxFrame), nil),
		"not stated": stream.Bytes(),
		"absurd":     {0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40, 1, 0, 0},
		"two frames": append(bytes.Clone(half), half...),
	} {
		out, err := d.decode(nil, append([]byte{algZstd}, body...))
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
	if _, err := d.decode(nil, append([]byte{algRaw}, make([]byte, MaxFrame+1)...)); !errors.Is(err, ErrDamaged) {
		t.Errorf("raw: %v", err)
	}
	if _, err := d.decode(nil, []byte{2, 1}); !errors.Is(err, ErrFormat) {
		t.Errorf("unknown algorithm: %v", err)
	}
}

func TestExtentID(t *testing.T) {
	l := makeLin(t, newStore())
	a, b := noise(1, 8192), noise(2, 8192)
	want := l.ExtentID(a)
	if l.ExtentID(b) == want || l.ExtentID(a) != want {
		t.Fatal("ids do not follow the bytes")
	}
	if n := testing.AllocsPerRun(100, func() { l.ExtentID(a) }); n > 0.5 {
		t.Errorf("%v allocations an id", n)
	}
}
