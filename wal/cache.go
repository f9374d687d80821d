package wal

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// cachedSegments is how many decoded segments a reader keeps: the one being
// read, the one ahead, and room for a second reader elsewhere.
const cachedSegments = 4

// segmentCache keeps the segments used last and fetches each only once at a
// time, however many ask.
type segmentCache struct {
	fetch func(context.Context, repo.SegmentRef) ([]byte, error)
	ctx   context.Context // of fetches ahead
	end   context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	entries []*cacheEntry // least recently used first
	reading bool          // a fetch ahead is running
}

type cacheEntry struct {
	ref  repo.SegmentRef
	done chan struct{} // closed when data or err is set
	data []byte
	err  error
}

func newSegmentCache(fetch func(context.Context, repo.SegmentRef) ([]byte, error)) *segmentCache {
	c := &segmentCache{fetch: fetch}
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

// ahead fetches a segment in the background, one at a time. It outlives the
// request it was started for, but not close.
func (c *segmentCache) ahead(ref repo.SegmentRef) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading || c.find(ref) >= 0 || c.ctx.Err() != nil {
		return
	}
	c.reading = true
	c.wg.Go(func() {
		_, _ = c.get(c.ctx, ref) // who needs it will meet the error
		c.mu.Lock()
		defer c.mu.Unlock()
		c.reading = false
	})
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
	if len(c.entries) > cachedSegments {
		c.entries = slices.Delete(c.entries, 0, 1) // who waits for it holds it
	}
	return e, true
}

func (c *segmentCache) fill(ctx context.Context, e *cacheEntry) {
	e.data, e.err = c.fetch(ctx, e.ref)
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		if i := slices.Index(c.entries, e); i >= 0 {
			c.entries = slices.Delete(c.entries, i, i+1)
		}
	}
	close(e.done)
}

func (c *segmentCache) find(ref repo.SegmentRef) int {
	return slices.IndexFunc(c.entries, func(e *cacheEntry) bool { return e.ref == ref })
}
