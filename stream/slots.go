package stream

import (
	"context"
	"sync"
)

// packSlots bounds the packs in memory, open or on their way. The first slot
// is part of the writer's share, so one pack can always be filled; more are
// taken from the budget while it has room, kept for the next pack, and given
// back when another transfer waits.
type packSlots struct {
	budget *Budget
	bytes  int64
	most   int

	mu    sync.Mutex
	taken int           // slots that exist, the first included
	free  chan struct{} // slots that are not in use
}

func newPackSlots(b *Budget, bytes int64, most int) *packSlots {
	s := &packSlots{budget: b, bytes: bytes, most: most, taken: 1, free: make(chan struct{}, most)}
	s.free <- struct{}{}
	return s
}

// acquire waits for a slot.
func (s *packSlots) acquire(ctx context.Context) error {
	select {
	case <-s.free:
		return nil
	default:
	}
	if s.grow() {
		return nil
	}
	select {
	case <-s.free:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *packSlots) grow() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken == s.most || !s.budget.TryAcquire(s.bytes) {
		return false
	}
	s.taken++
	return true
}

// release gives a slot back.
func (s *packSlots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken > 1 && s.budget.contended() {
		s.taken--
		s.budget.Release(s.bytes)
		return
	}
	s.free <- struct{}{}
}

// close gives back all slots beyond the first; none may be in use.
func (s *packSlots) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ; s.taken > 1; s.taken-- {
		s.budget.Release(s.bytes)
	}
}
