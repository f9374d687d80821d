package wal

import (
	"context"
	"slices"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Begin: see Intake.
//
// A position beyond the end of what the *store* holds of the branch (its
// server dropped log before this run) is not refused, or archiving could
// never go on after a loss: it is logged, stays in Status, and coverage shows
// the hole.
func (a *Archiver) Begin(ctx context.Context, b repo.Branch, at Position, ix Indexer) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.usable(); err != nil {
		return err
	}
	if a.begun {
		if gap := a.gapBefore(b, at); gap != nil {
			return gap
		}
		if b.ID == a.branch.ID && at >= a.start {
			if err := a.rewind(at); err != nil {
				return err
			}
			a.index = ix
			return nil
		}
	}
	// Another branch, or bytes before this run: what is durable so far says
	// nothing about them, and the end of the old branch must be durable before
	// the new branch's first position may be acknowledged.
	a.seal(reasonBoundary)
	if err := a.drain(ctx); err != nil {
		return err
	}
	a.mu.Unlock()
	prev, hole, err := a.record(ctx, b, at)
	a.mu.Lock()
	if err != nil {
		return err
	}
	if err := a.usable(); err != nil {
		return err
	}
	if err := a.beginSpool(b.ID, at); err != nil {
		return err
	}
	a.begun, a.branch, a.prev, a.hole = true, b, prev, hole
	a.start, a.end, a.stored, a.synced = at, at, at, at
	a.index = ix
	a.broadcast()
	return nil
}

// gapBefore says what would be missing if b continued at at.
func (a *Archiver) gapBefore(b repo.Branch, at Position) error {
	switch {
	case b.ID == a.branch.ID && at > a.end:
		return &GapError{Branch: b.ID, From: a.end, To: at}
	case b.ID == a.branch.ID || b.Parent != a.branch.ID:
		return nil // a jump to an unrelated branch is judged by the store's coverage
	case a.end < b.Fork:
		return &GapError{Branch: a.branch.ID, From: a.end, To: b.Fork}
	case at > b.Fork:
		return &GapError{Branch: b.ID, From: b.Fork, To: at}
	}
	return nil
}

// rewind continues this run at a position inside it (a new connection). The
// durable position stands: the bytes before it are in the store already.
func (a *Archiver) rewind(at Position) error {
	a.seal(reasonBoundary) // with the indexer that saw its bytes
	if at == a.end {
		return nil
	}
	if err := a.beginSpool(a.branch.ID, at); err != nil {
		return err
	}
	a.end = at
	return nil
}

// record stores the branch and finds what the store holds just before at.
func (a *Archiver) record(ctx context.Context, b repo.Branch, at Position) (link, *Range, error) {
	var prev link
	var hole *Range
	err := a.persist(ctx, func(ctx context.Context) error {
		if err := a.store.PutBranch(ctx, b); err != nil {
			return err
		}
		var err error
		prev, hole, err = a.before(ctx, b, at)
		if err == nil && a.o.Fence != nil {
			err = a.o.Fence(ctx) // what was listed counts as stored from now on
		}
		return err
	})
	if err != nil {
		return link{}, nil, a.finalize("record the log's branch "+b.ID, err)
	}
	if hole != nil {
		a.o.Log.Warn("the log archive has a hole: the server no longer sent what follows the last archived position; take a new base backup",
			"branch", b.ID, "from", hole.Start.Key(), "to", hole.End.Key())
	}
	return prev, hole, nil
}

// before looks up the segment that ends exactly at at, and the hole in front
// of at if nothing reaches it. This is the only listing an archiver makes.
func (a *Archiver) before(ctx context.Context, b repo.Branch, at Position) (link, *Range, error) {
	if at == 0 {
		return link{}, nil, nil
	}
	near, err := a.store.Segments(ctx, b.ID, at-1)
	if err != nil {
		return link{}, nil, err
	}
	covered := at <= b.Fork
	for _, ref := range near {
		if ref.Start < at && ref.End == at {
			m, err := a.store.ReadSegmentMeta(ctx, ref)
			if err != nil {
				return link{}, nil, err
			}
			return link{m.End, m.Hash}, nil, nil
		}
		covered = covered || ref.Start < at && ref.End > at
	}
	if covered {
		return link{}, nil, nil
	}
	all, err := a.store.Segments(ctx, b.ID, 0)
	if err != nil {
		return link{}, nil, err
	}
	for _, r := range slices.Backward(Coverage(all)) {
		if r.End < at {
			return link{}, &Range{Branch: b.ID, Start: r.End, End: at}, nil
		}
	}
	hole, err := a.holeSinceFork(ctx, b, at)
	return link{}, hole, err
}

// holeSinceFork is what is missing in front of a branch's first log that does
// not begin at its fork, if the archive holds log of its parent.
func (a *Archiver) holeSinceFork(ctx context.Context, b repo.Branch, at Position) (*Range, error) {
	if b.Parent == "" {
		return nil, nil
	}
	parent, err := a.store.Segments(ctx, b.Parent, 0)
	if err != nil || len(parent) == 0 {
		return nil, err
	}
	ranges := Coverage(parent)
	return &Range{Branch: b.ID, Start: min(b.Fork, ranges[len(ranges)-1].End), End: at}, nil
}
