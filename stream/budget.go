package stream

import (
	"context"
	"fmt"
	"sync"
)

// MinBudget is the least NewBudget accepts: one pack, and frames in flight.
const MinBudget = 64 << 20

// Budget bounds the bytes of buffers in flight in the whole process. All
// writers and readers of one process share one.
//
// A transfer reserves, in one step and before it starts, all it needs to
// reach its end on its own (at most MinBudget); whatever it takes beyond that
// it takes only if it is free (TryAcquire). Nobody ever waits for bytes while
// holding some, so there is no order in which transfers could deadlock. A
// second transfer that does not fit waits for the first.
//
// Outside the budget are the codecs' own tables (about 1 MiB an encoder or
// decoder) and the lists of items (see NewWriter and Restore).
type Budget struct {
	mu               sync.Mutex
	size, used, high int64
	waiters          []*budgetWaiter // first come, first served
}

type budgetWaiter struct {
	n     int64
	ready chan struct{}
}

// NewBudget makes a budget of the given number of bytes.
func NewBudget(bytes int64) (*Budget, error) {
	if bytes < MinBudget {
		return nil, fmt.Errorf("a budget of %d bytes is too small: at least %d are needed", bytes, int64(MinBudget))
	}
	return &Budget{size: bytes}, nil
}

// Size is the budget's total, bytes.
func (b *Budget) Size() int64 { return b.size }

// InUse is what is reserved now, bytes.
func (b *Budget) InUse() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// HighWater is the most that was ever reserved at one time, bytes.
func (b *Budget) HighWater() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.high
}

// Acquire waits until n bytes are free and reserves them, in order of
// arrival. The caller must hold nothing of this budget. It fails if ctx ends
// first or n exceeds the whole.
func (b *Budget) Acquire(ctx context.Context, n int64) error {
	if n > b.size {
		return fmt.Errorf("a reservation of %d bytes exceeds the budget of %d", n, b.size)
	}
	b.mu.Lock()
	if len(b.waiters) == 0 && b.used+n <= b.size {
		b.take(n)
		b.mu.Unlock()
		return nil
	}
	w := &budgetWaiter{n: n, ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
		b.leave(w)
		return context.Cause(ctx)
	}
}

// TryAcquire reserves n bytes if they are free and nobody waits.
func (b *Budget) TryAcquire(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || b.used+n > b.size {
		return false
	}
	b.take(n)
	return true
}

// Release gives n bytes back.
func (b *Budget) Release(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wake()
}

// contended says whether somebody waits: time to give back what one can do
// without.
func (b *Budget) contended() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.waiters) > 0
}

func (b *Budget) take(n int64) {
	b.used += n
	b.high = max(b.high, b.used)
}

func (b *Budget) wake() {
	for len(b.waiters) > 0 && b.used+b.waiters[0].n <= b.size {
		b.take(b.waiters[0].n)
		close(b.waiters[0].ready)
		b.waiters = b.waiters[1:]
	}
}

// leave withdraws a waiter, giving back what it was granted meanwhile.
func (b *Budget) leave(w *budgetWaiter) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, x := range b.waiters {
		if x == w {
			b.waiters = append(b.waiters[:i:i], b.waiters[i+1:]...)
			b.wake()
			return
		}
	}
	b.used -= w.n
	b.wake()
}
