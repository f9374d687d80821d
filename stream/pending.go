package stream

import "sync"

// What a pending block costs, bytes: an id an extent; with a parent also its
// id, and at worst (every other extent new) half a placed run and a run of the
// parent's.
const (
	extentCost       = 16 + 8
	extentCostParent = 16 + 16 + 32 + 24
	blockOverhead    = 512
)

func (w *Writer) extentCost() int64 {
	if w.parent == nil {
		return extentCost
	}
	return extentCostParent
}

// pending bounds what is known of blocks that are not complete. Without it, a
// few changed pages all over a large database would keep every block waiting
// for one slowly filling pack. 5 MiB are 7 blocks of 64 MiB with 8 KiB
// extents, so where nearly nothing changes a pack ends after about half a GiB
// of partly changed blocks, however small it is.
type pending struct {
	mu          sync.Mutex
	limit, used int64
	waiting     int
	changed     chan struct{} // closed and replaced when bytes are released
}

func newPending(limit int64) *pending {
	return &pending{limit: limit, changed: make(chan struct{})}
}

// try reserves n bytes, or else counts the caller as waiting (until
// stopWaiting) and returns what to wait on. One block is always admitted.
func (p *pending) try(n int64) (<-chan struct{}, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.used == 0 || p.used+n <= p.limit {
		p.used += n
		return nil, true
	}
	p.waiting++
	return p.changed, false
}

func (p *pending) stopWaiting() {
	p.mu.Lock()
	p.waiting--
	p.mu.Unlock()
}

func (p *pending) release(n int64) {
	p.mu.Lock()
	p.used -= n
	close(p.changed)
	p.changed = make(chan struct{})
	p.mu.Unlock()
}

// pressed says whether somebody waits.
func (p *pending) pressed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.waiting > 0
}
