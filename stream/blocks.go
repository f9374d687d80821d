package stream

import (
	"context"
	"fmt"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// packCache keeps the headers of packs that were opened, so that one pack's
// ranges share one read of it. Safe for concurrent use.
type packCache struct {
	l     *repo.Lineage
	retry retrier

	mu      sync.Mutex
	handles map[repo.PackID]*packHandle
}

type packHandle struct {
	mu sync.Mutex
	r  *repo.PackReader
}

// maxHandles bounds the cache: a header is a few hundred bytes, so this many
// only matter to a backup of terabytes.
const maxHandles = 1024

func newPackCache(l *repo.Lineage, retry retrier) *packCache {
	return &packCache{l: l, retry: retry, handles: make(map[repo.PackID]*packHandle)}
}

func (c *packCache) open(ctx context.Context, id repo.PackID) (*repo.PackReader, error) {
	c.mu.Lock()
	h := c.handles[id]
	if h == nil {
		if len(c.handles) >= maxHandles {
			clear(c.handles)
		}
		h = &packHandle{}
		c.handles[id] = h
	}
	c.mu.Unlock()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.r != nil {
		return h.r, nil
	}
	err := c.retry.do(ctx, "open pack "+id.String(), func(ctx context.Context) (err error) {
		h.r, err = c.l.OpenPack(ctx, id)
		return err
	})
	return h.r, err
}

// fetch reads stored bytes [off, off+n) of a pack, appending them to dst.
func (c *packCache) fetch(ctx context.Context, r *repo.PackReader, id repo.PackID, off, n int64, dst []byte) (out []byte, err error) {
	what := fmt.Sprintf("read pack %s at %d", id, off)
	err = c.retry.do(ctx, what, func(ctx context.Context) (err error) {
		out, err = r.Fetch(ctx, off, n, dst)
		if err == nil && int64(len(out)-len(dst)) != n {
			err = fmt.Errorf("%d of %d bytes: %w", len(out)-len(dst), n, repo.ErrDamaged)
		}
		return err
	})
	return out, err
}

// blockReader reads blocks of a backup's items. It keeps the map frames used
// last, decoded: neighbouring blocks share them. Safe for concurrent use, one
// read at a time.
type blockReader struct {
	packs   *packCache
	ids     []repo.PackInfo // of the manifest that refs index
	fetched func(int64)     // told the stored bytes of each read

	mu     sync.Mutex
	dec    *repo.Decoder
	stored []byte
	frames []mapFrame // most recently used first
}

type mapFrame struct {
	pack  uint32
	ref   repo.FrameRef
	plain []byte
}

// cachedFrames of about 1 MiB each.
const cachedFrames = 2

func newBlockReader(packs *packCache, m *repo.Manifest, fetched func(int64)) (*blockReader, error) {
	dec, err := repo.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &blockReader{packs: packs, ids: m.Packs, dec: dec, fetched: fetched}, nil
}

func (br *blockReader) close() { br.dec.Close() }

// read returns one block, and the pack it is in.
func (br *blockReader) read(ctx context.Context, ref repo.BlockRef) (*repo.Block, repo.PackID, error) {
	if int64(ref.Pack) >= int64(len(br.ids)) {
		return nil, repo.PackID{}, fmt.Errorf("a block is in pack number %d of %d: %w", ref.Pack, len(br.ids), repo.ErrDamaged)
	}
	id := br.ids[ref.Pack].ID
	br.mu.Lock()
	defer br.mu.Unlock()
	plain, err := br.frame(ctx, id, ref)
	if err != nil {
		return nil, id, err
	}
	if int64(ref.Off)+int64(ref.Len) > int64(len(plain)) {
		return nil, id, fmt.Errorf("pack %s at %d: a block ends beyond its frame: %w", id, ref.Frame.Offset, repo.ErrDamaged)
	}
	encoded := plain[ref.Off : ref.Off+ref.Len]
	if br.packs.l.ExtentID(encoded) != ref.ID {
		return nil, id, fmt.Errorf("pack %s at %d: the block is not the one the map names: %w", id, ref.Frame.Offset, repo.ErrDamaged)
	}
	b, err := repo.ParseBlock(encoded)
	if err != nil {
		return nil, id, fmt.Errorf("pack %s at %d: %w", id, ref.Frame.Offset, err)
	}
	return b, id, nil
}

func (br *blockReader) frame(ctx context.Context, id repo.PackID, ref repo.BlockRef) ([]byte, error) {
	for i, f := range br.frames {
		if f.pack == ref.Pack && f.ref == ref.Frame {
			copy(br.frames[1:i+1], br.frames[:i])
			br.frames[0] = f
			return f.plain, nil
		}
	}
	r, err := br.packs.open(ctx, id)
	if err != nil {
		return nil, err
	}
	stored, err := br.packs.fetch(ctx, r, id, int64(ref.Frame.Offset), int64(ref.Frame.Stored), br.stored[:0])
	if err != nil {
		return nil, err
	}
	br.stored = stored
	br.fetched(int64(len(stored)))
	var buf []byte
	if n := len(br.frames); n == cachedFrames {
		buf = br.frames[n-1].plain[:0]
		br.frames = br.frames[:n-1]
	}
	plain, err := r.Open(br.dec, ref.Frame, stored, buf)
	if err != nil {
		return nil, fmt.Errorf("pack %s at %d: %w", id, ref.Frame.Offset, err)
	}
	br.frames = append([]mapFrame{{pack: ref.Pack, ref: ref.Frame, plain: plain}}, br.frames...)
	return plain, nil
}
