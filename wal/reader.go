package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
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
// segments and reads several ahead, in parallel and bounded; Close ends that.
type Reader struct {
	plan   *Plan
	cache  *segmentCache
	open   func(ctx context.Context) (archive, error)
	within bool // read ahead no further than the range asked for

	mu      sync.Mutex
	archive archive   // nil until opened
	legs    []legRefs // of each leg; nil until known
	listed  bool      // legs are what the store listed, not what was handed over
}

// NewReader lists the plan's segments once. *GapError if they no longer cover it.
func NewReader(ctx context.Context, l *repo.Lineage, p *Plan) (*Reader, error) {
	return newReader(ctx, l, p)
}

func newReader(ctx context.Context, a archive, p *Plan) (*Reader, error) {
	r := lazyReader(p, nil, func(context.Context) (archive, error) { return a, nil })
	r.cache.keep, r.cache.least = cachedBytes, cachedSegments
	if _, _, err := r.ready(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// NewLazyReader reads nothing before the first Copy, and lists nothing as
// long as refs (nil: unknown) lead to every segment asked for; if one is gone
// (compacted, stored again), the plan is listed once. It reads ahead only
// within the range of each Copy, for a caller whose next range is not known.
func NewLazyReader(p *Plan, refs PlanRefs, open func(ctx context.Context) (*repo.Lineage, error)) (*Reader, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	r := lazyReader(p, refs, func(ctx context.Context) (archive, error) { return open(ctx) })
	r.within = true
	return r, nil
}

func lazyReader(p *Plan, refs PlanRefs, open func(ctx context.Context) (archive, error)) *Reader {
	r := &Reader{plan: p, open: open}
	if refs != nil {
		r.index(refs)
	}
	r.cache = newSegmentCache(lazyBytes, lazySegments, func(ctx context.Context, ref repo.SegmentRef) ([]byte, error) {
		a, _, err := r.ready(ctx)
		if err != nil {
			return nil, err
		}
		return readSegment(ctx, a, ref)
	})
	return r
}

func (r *Reader) index(refs PlanRefs) {
	r.legs = make([]legRefs, len(refs))
	for i := range refs {
		r.legs[i] = indexRefs(refs[i])
	}
}

// ready opens the archive and lists the plan where that has not been done.
func (r *Reader) ready(ctx context.Context) (archive, []legRefs, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.archive == nil {
		a, err := r.open(ctx)
		if err != nil {
			return nil, nil, err
		}
		r.archive = a
	}
	if r.legs == nil {
		refs, err := listPlan(ctx, r.archive, r.plan)
		if err != nil {
			return nil, nil, err
		}
		r.index(refs)
		r.listed = true
	}
	return r.archive, r.legs, nil
}

// relist forgets segments that were handed over; false if they were listed.
func (r *Reader) relist() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listed {
		return false
	}
	r.legs = nil
	return true
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
			data, err := r.piece(ctx, i, at, to)
			if errors.Is(err, repo.ErrNotFound) && r.relist() {
				continue
			}
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
	a, legs, err := r.ready(ctx)
	if err != nil {
		return err
	}
	for i, leg := range r.plan.Legs {
		refs := slices.DeleteFunc(slices.Clone(legs[i].refs), func(s repo.SegmentRef) bool { return s.End <= from })
		for chunk := range slices.Chunk(refs, 4*metasAtOnce) {
			metas, err := readMetas(ctx, a, chunk)
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

// piece returns log bytes of a leg from position at, up to some segment's
// end, for a caller who wants them up to a position.
func (r *Reader) piece(ctx context.Context, leg int, at, to Position) ([]byte, error) {
	_, legs, err := r.ready(ctx)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, ref := range legs[leg].at(at) {
		r.readAhead(legs, leg, ref, to)
		data, err := r.cache.get(ctx, ref)
		if err == nil {
			return data[at-ref.Start:], nil
		}
		if ctx.Err() != nil {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("read the log of branch %s at %x: %w", r.plan.Legs[leg].Branch.ID, uint64(at), errors.Join(errs...))
}

// readAhead fetches what follows a segment along the plan, as far as allowed.
func (r *Reader) readAhead(legs []legRefs, leg int, after repo.SegmentRef, to Position) {
	if !r.within {
		to = r.plan.To()
	}
	var next []repo.SegmentRef
	var size Position
	for at := after.End; at < to && size < aheadBytes && len(next) < aheadSegments; {
		for at >= r.plan.Legs[leg].To && leg+1 < len(legs) {
			at, leg = r.plan.Legs[leg].To, leg+1
		}
		found := legs[leg].at(at)
		if len(found) == 0 {
			break // the end of the plan, or a hole that piece will meet
		}
		next = append(next, found[0])
		at, size = found[0].End, size+found[0].End-found[0].Start
	}
	r.cache.ahead(after, next)
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
