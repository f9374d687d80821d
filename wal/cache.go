package wal

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Bounds of a reader's memory, for decoded segments.
const (
	// aheadBytes of what follows the segment being read are fetched, in at
	// most aheadSegments, or the next segment alone if it is larger: a
	// recovery that pauses between pieces finds the next ones ready.
	aheadBytes    = 64 << 20
	aheadSegments = 16
	// cachedBytes are kept, in at most maxCached segments, but always
	// cachedSegments: what is ahead, the one being read, and room for a
	// second reader elsewhere.
	cachedBytes    = 128 << 20
	cachedSegments = 4
	maxCached      = 3 * aheadSegments
	// A lazy reader keeps what two pieces may share.
	lazyBytes, lazySegments = 32 << 20, 1
)

// aheadAtOnce is how many fetches ahead run at a time.
func aheadAtOnce() int { return min(runtime.GOMAXPROCS(0), 4) }

// segmentCache keeps the segments used last and fetches each only once at a
// time, however many ask.
type segmentCache struct {
	fetch func(context.Context, repo.SegmentRef) ([]byte, error)
	ctx   context.Context // of fetches ahead
	end   context.CancelFunc
	keep  Position // bytes
	least int      // segments, whatever their size
	wg    sync.WaitGroup

	mu      sync.Mutex
	entries []*cacheEntry     // least recently used first
	bytes   Position          // of the entries' segments
	wanted  []repo.SegmentRef // to be fetched ahead, in order
	readers int               // fetches ahead that run
}

type cacheEntry struct {
	ref  repo.SegmentRef
	done chan struct{} // closed when data or err is set
	data []byte
	err  error
}

func newSegmentCache(keep Position, least int, fetch func(context.Context, repo.SegmentRef) ([]byte, error)) *segmentCache {
	c := &segmentCache{fetch: fetch, keep: keep, least: least}
	c.ctx, c.end = context.WithCancel(context.Background())
	return c
}

// get returns a segment's bytes, which the caller must not change.
func (c *segmentCache) get(ctx context.Context, ref repo.SegmentRef) ([]byte, error) {
	for {
		e, mine := c.enter(ref)
		if mine {
			c.fill(ctx, e)
			return e.data, e.err
		}
		select {
		case <-e.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		// Another caller's end is not ours: try again ourselves.
		ended := errors.Is(e.err, context.Canceled) || errors.Is(e.err, context.DeadlineExceeded)
		if !ended || ctx.Err() != nil {
			return e.data, e.err
		}
	}
}

// ahead fetches segments in the background, in order, a few at a time, for a
// reader that is about to get current. They take the place of what an earlier
// call wanted. A fetch outlives the request it was started for, but not close.
func (c *segmentCache) ahead(current repo.SegmentRef, refs []repo.SegmentRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	c.wanted = slices.DeleteFunc(refs, func(r repo.SegmentRef) bool { return r == current || c.find(r) >= 0 })
	for ; c.readers < min(aheadAtOnce(), len(c.wanted)); c.readers++ {
		c.wg.Go(c.readWanted)
	}
}

// readWanted fetches ahead until nothing is wanted.
func (c *segmentCache) readWanted() {
	for {
		c.mu.Lock()
		if len(c.wanted) == 0 || c.ctx.Err() != nil {
			c.readers--
			c.mu.Unlock()
			return
		}
		ref := c.wanted[0]
		c.wanted = c.wanted[1:]
		known := c.find(ref) >= 0
		c.mu.Unlock()
		if !known {
			_, _ = c.get(c.ctx, ref) // who needs it will meet the error
		}
	}
}

// close ends fetches ahead and waits for them.
func (c *segmentCache) close() {
	c.mu.Lock()
	c.end()
	c.mu.Unlock() // ahead holds the lock from its look at ctx to its start
	c.wg.Wait()
}

// enter finds or makes the entry; mine says that the caller must fill it.
func (c *segmentCache) enter(ref repo.SegmentRef) (e *cacheEntry, mine bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := c.find(ref); i >= 0 {
		e = c.entries[i]
		c.entries = append(slices.Delete(c.entries, i, i+1), e)
		return e, false
	}
	e = &cacheEntry{ref: ref, done: make(chan struct{})}
	c.entries = append(c.entries, e)
	c.bytes += ref.End - ref.Start
	for len(c.entries) > maxCached || len(c.entries) > c.least && c.bytes > c.keep {
		c.drop(0) // who waits for it holds it
	}
	return e, true
}

func (c *segmentCache) drop(i int) {
	c.bytes -= c.entries[i].ref.End - c.entries[i].ref.Start
	c.entries = slices.Delete(c.entries, i, i+1)
}

func (c *segmentCache) fill(ctx context.Context, e *cacheEntry) {
	e.data, e.err = c.fetch(ctx, e.ref)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		if i := slices.Index(c.entries, e); i >= 0 {
			c.drop(i)
		}
	}
	close(e.done)
}

func (c *segmentCache) find(ref repo.SegmentRef) int {
	return slices.IndexFunc(c.entries, func(e *cacheEntry) bool { return e.ref == ref })
}
