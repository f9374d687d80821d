package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Reading from the store is bounded: one attempt may take so long, and so
// many are made at an outage. A damaged or missing object is not tried again.
const (
	readAttempts = 4
	readDeadline = 2 * time.Minute
	readPause    = 500 * time.Millisecond
)

// Reader reads a plan's bytes. Safe for concurrent use; it caches a few
// segments and reads one ahead; Close ends that.
type Reader struct {
	archive archive
	plan    *Plan
	refs    [][]repo.SegmentRef // of each leg, ordered by start
	cache   *segmentCache
}

// NewReader lists the plan's segments once. *GapError if they no longer cover it.
func NewReader(ctx context.Context, l *repo.Lineage, p *Plan) (*Reader, error) {
	return newReader(ctx, l, p)
}

func newReader(ctx context.Context, a archive, p *Plan) (*Reader, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	r := &Reader{archive: a, plan: p, cache: newSegmentCache(func(ctx context.Context, ref repo.SegmentRef) ([]byte, error) {
		return readSegment(ctx, a, ref)
	})}
	for _, leg := range p.Legs {
		refs, err := a.Segments(ctx, leg.Branch.ID, leg.From)
		if err != nil {
			return nil, fmt.Errorf("list the log of branch %s: %w", leg.Branch.ID, err)
		}
		refs = slices.DeleteFunc(slices.Clone(refs), func(s repo.SegmentRef) bool {
			return s.End <= leg.From || s.Start >= leg.To
		})
		slices.SortFunc(refs, compareRefs)
		ranges := Coverage(refs)
		if missing := FirstMissing(ranges, leg.From); missing < leg.To {
			return nil, &GapError{Branch: leg.Branch.ID, From: missing, To: nextHeld(ranges, missing)}
		}
		r.refs = append(r.refs, refs)
	}
	return r, nil
}

// Close ends reading ahead. What Copy has begun goes on.
func (r *Reader) Close() { r.cache.close() }

// Plan is what the reader was made for.
func (r *Reader) Plan() *Plan { return r.plan }

// Copy writes [from, to) of the log as seen on the given branch: bytes before
// the branch's fork come from its ancestors. The range must lie inside the
// plan. A damaged or vanished segment is an error, never a short result;
// where several segments hold a place, one of them suffices.
func (r *Reader) Copy(ctx context.Context, branch string, from, to Position, w io.Writer) error {
	last := slices.IndexFunc(r.plan.Legs, func(leg Leg) bool { return leg.Branch.ID == branch })
	if last < 0 {
		return fmt.Errorf("branch %s is not in the plan", branch)
	}
	if from > to || from < r.plan.From() || to > r.plan.Legs[last].To {
		return fmt.Errorf("log of branch %s from %x to %x lies outside the plan (%x to %x)",
			branch, uint64(from), uint64(to), uint64(r.plan.From()), uint64(r.plan.Legs[last].To))
	}
	for i, leg := range r.plan.Legs { // those after last begin at or after to
		at, end := max(from, leg.From), min(to, leg.To)
		for at < end {
			data, err := r.piece(ctx, i, at)
			if err != nil {
				return err
			}
			data = data[:min(len(data), int(end-at))]
			if _, err := w.Write(data); err != nil {
				return err
			}
			at += Position(len(data))
		}
	}
	return nil
}

// Headers calls fn with the headers of the plan's segments that end after
// from, in order of their starts along the plan, each with its leg. They are
// read several at a time.
func (r *Reader) Headers(ctx context.Context, from Position, fn func(Leg, *repo.SegmentMeta) error) error {
	for i, leg := range r.plan.Legs {
		refs := slices.DeleteFunc(slices.Clone(r.refs[i]), func(s repo.SegmentRef) bool { return s.End <= from })
		for chunk := range slices.Chunk(refs, 4*metasAtOnce) {
			metas, err := readMetas(ctx, r.archive, chunk)
			if err != nil {
				return err
			}
			for _, m := range metas {
				if err := fn(leg, m); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// piece returns log bytes of a leg from position at, up to some segment's end.
func (r *Reader) piece(ctx context.Context, leg int, at Position) ([]byte, error) {
	var candidates []repo.SegmentRef
	for _, ref := range r.refs[leg] {
		if ref.Start <= at && at < ref.End {
			candidates = append(candidates, ref)
		}
	}
	// The one that reaches furthest needs the fewest reads.
	slices.SortStableFunc(candidates, func(a, b repo.SegmentRef) int { return cmpPosition(b.End, a.End) })
	var errs []error
	for _, ref := range candidates {
		data, err := r.cache.get(ctx, ref)
		if err == nil {
			r.readAhead(leg, ref.End)
			return data[at-ref.Start:], nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("read the log of branch %s at %x: %w", r.plan.Legs[leg].Branch.ID, uint64(at), errors.Join(errs...))
}

// readAhead fetches what follows a segment, unless a fetch ahead is running.
func (r *Reader) readAhead(leg int, at Position) {
	var next *repo.SegmentRef
	for ; leg < len(r.refs) && next == nil; leg++ {
		for i, ref := range r.refs[leg] {
			if ref.Start <= at && at < ref.End && (next == nil || ref.End > next.End) {
				next = &r.refs[leg][i]
			}
		}
	}
	if next != nil {
		r.cache.ahead(*next)
	}
}

// readSegment reads one segment, through short outages.
func readSegment(ctx context.Context, a archive, ref repo.SegmentRef) ([]byte, error) {
	var last error
	for n := range readAttempts {
		if n > 0 {
			select {
			case <-time.After(readPause << n):
			case <-ctx.Done():
				return nil, fmt.Errorf("%w (last: %w)", ctx.Err(), last)
			}
		}
		limited, cancel := context.WithTimeout(ctx, readDeadline)
		_, data, err := a.ReadSegment(limited, ref)
		cancel()
		switch {
		case err == nil && Position(len(data)) != ref.End-ref.Start:
			return nil, fmt.Errorf("segment %s of branch %s holds %d bytes instead of %d: %w",
				ref.Start.Key(), ref.Branch, len(data), ref.End-ref.Start, repo.ErrDamaged)
		case err == nil:
			return data, nil
		case ctx.Err() != nil, errors.Is(err, repo.ErrDamaged), errors.Is(err, repo.ErrNotFound), errors.Is(err, repo.ErrFormat):
			return nil, err
		}
		last = err
	}
	return nil, fmt.Errorf("given up after %d attempts: %w", readAttempts, last)
}
