package stream

import (
	"context"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// What a writer's share of the budget is made of, bytes. Sizes are upper
// bounds; pieces are allocated when first used.
const (
	frameReserve = repo.FrameSize + 64<<10 // a frame, or a payload with the codec's overhead

	// A pack is sent off when another frame might take it beyond its limit; a
	// footer of 12 bytes a frame follows. Map packs are small: they are few.
	packLimit    = repo.PackSize - 1<<20
	packReserve  = repo.PackSize
	mapPackLimit = 4 << 20
	mapReserve   = mapPackLimit + 128<<10
	maxDataPacks = 5 // one filling, four on their way

	checkReserve   = 2 * frameReserve                // a frame's payload and plaintext
	collectReserve = repo.FrameSize + 2*frameReserve // the shared frame; a spare and a payload to flush it with
	mapperReserve  = repo.FrameSize*7/4 + frameReserve
	workerReserve  = 2*frameReserve + 2*repo.FrameSize // payload, spare frame, two input buffers

	// pendingReserve bounds what is known of blocks whose packs have no name
	// yet (see pending).
	pendingReserve = 5 << 20
	// parentReserve is the parent's map frames: cachedFrames decoded, one
	// being read.
	parentReserve = (cachedFrames + 2) * frameReserve

	// baseWorkers run, and one check at a time, on writerBase.
	baseWorkers = 2
	writerBase  = packReserve + mapReserve + checkReserve + collectReserve + mapperReserve +
		pendingReserve + parentReserve + baseWorkers*workerReserve
)

// One writer must fit: this does not compile when it does not.
const _ = uint(MinBudget - writerBase)

// writerShare is what one writer holds from its start to its end. Packs
// beyond the first are reserved as they are opened (packSlots).
type writerShare struct {
	budget           *Budget
	held             int64
	workers, buffers int
	checks           int // packs checked at a time
}

// takeWriterShare waits for the base and adds workers while there is room.
func takeWriterShare(ctx context.Context, b *Budget, workers int) (writerShare, error) {
	if err := b.Acquire(ctx, writerBase); err != nil {
		return writerShare{}, err
	}
	s := writerShare{budget: b, held: writerBase, workers: min(workers, baseWorkers)}
	s.checks = 1
	for s.workers < workers && b.TryAcquire(workerReserve) {
		s.workers++
		s.held += workerReserve
		if s.workers%4 == 0 && b.TryAcquire(checkReserve) {
			s.checks++
			s.held += checkReserve
		}
	}
	s.buffers = 2 * max(s.workers, baseWorkers)
	return s, nil
}

func (s writerShare) release() { s.budget.Release(s.held) }
