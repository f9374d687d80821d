package wal

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// metasAtOnce is how many segment headers are read at the same time.
const metasAtOnce = 8

// beatLookback is how many segments Summary goes back to find the last beat.
const beatLookback = metasAtOnce

// BranchCoverage is what the archive holds of one branch. Times are the
// source's clock.
type BranchCoverage struct {
	Branch     repo.Branch `json:"branch"`
	Ranges     []Range     `json:"ranges"` // ordered; more than one means a hole
	Segments   int         `json:"segments"`
	Stored     int64       `json:"stored"`              // bytes in the store, all segments
	FirstTime  time.Time   `json:"first_time,omitzero"` // when the first byte was sent
	LastTime   time.Time   `json:"last_time,omitzero"`  // when the last byte was sent
	SourceTime time.Time   `json:"source_time,omitzero"`
	LastBeat   *repo.Beat  `json:"last_beat,omitempty"` // of the last few segments and the notes
}

// Summary describes each branch's log, in the order of Branches. It reads the
// headers of the first and of the last few segments only.
func Summary(ctx context.Context, l *repo.Lineage) ([]BranchCoverage, error) {
	x, err := NewIndex(ctx, l)
	if err != nil {
		return nil, err
	}
	return x.Summary(ctx)
}

// Summary: see the function of this name.
func (x *Index) Summary(ctx context.Context) ([]BranchCoverage, error) {
	notes, err := x.a.Notes(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the log's notes: %w", err)
	}
	var out []BranchCoverage
	for _, b := range x.branches {
		c, err := x.summarize(ctx, b, notes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (x *Index) summarize(ctx context.Context, b repo.Branch, notes []repo.Note) (BranchCoverage, error) {
	c := BranchCoverage{Branch: b}
	refs, err := x.Segments(ctx, b.ID)
	if err != nil {
		return c, err
	}
	c.Ranges, c.Segments = Coverage(refs), len(refs)
	for _, r := range refs {
		c.Stored += r.Stored
	}
	beat := func(beats []repo.Beat) {
		for _, n := range beats {
			if c.LastBeat == nil || n.N > c.LastBeat.N {
				c.LastBeat = &n
			}
		}
	}
	for _, n := range notes {
		if n.Branch == b.ID {
			beat(n.Beats)
			c.SourceTime = later(c.SourceTime, n.SourceTime)
		}
	}
	if len(refs) == 0 {
		return c, nil
	}
	byEnd := endOrder(refs)
	metas, err := x.metas(ctx, append(byEnd[max(0, len(byEnd)-beatLookback):], refs[0]))
	if err != nil {
		return c, err
	}
	c.FirstTime = metas[len(metas)-1].FirstTime
	for _, m := range metas {
		beat(m.Beats)
		c.LastTime, c.SourceTime = later(c.LastTime, m.LastTime), later(c.SourceTime, m.SourceTime)
	}
	return c, nil
}

// NotedBeats collects the heartbeats that segments and notes of a branch path
// (oldest branch first, as Plan.Branches) carry and that the source
// acknowledged at or after since, ordered by number, and the source's clock
// at the last good round trip seen there. Only the tail of each branch is
// read, back to since. Beats of a branch beyond the next one's fork belong to
// another history and are left out.
func NotedBeats(ctx context.Context, l *repo.Lineage, path []string, since time.Time) ([]repo.Beat, time.Time, error) {
	x, err := NewIndex(ctx, l)
	if err != nil {
		return nil, time.Time{}, err
	}
	return x.NotedBeats(ctx, path, since)
}

// NotedBeats: see the function of this name.
func (x *Index) NotedBeats(ctx context.Context, path []string, since time.Time) ([]repo.Beat, time.Time, error) {
	notes, err := x.a.Notes(ctx)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("list the log's notes: %w", err)
	}
	var beats []repo.Beat
	var last time.Time
	for i, id := range path {
		limit, final := Position(0), i == len(path)-1
		if !final {
			next, ok := x.Branch(path[i+1])
			if !ok {
				return nil, time.Time{}, fmt.Errorf("branch %s: %w", path[i+1], repo.ErrNotFound)
			}
			limit = next.Fork
		}
		keep := func(bs []repo.Beat) {
			for _, b := range bs {
				if !b.At.Before(since) && (final || b.Pos <= limit) {
					beats = append(beats, b)
				}
			}
		}
		if err := x.tail(ctx, id, since, func(m *repo.SegmentMeta) {
			keep(m.Beats)
			if final || m.End <= limit {
				last = later(last, later(m.SourceTime, m.LastTime))
			}
		}); err != nil {
			return nil, time.Time{}, err
		}
		for _, n := range notes {
			if n.Branch != id {
				continue
			}
			keep(n.Beats)
			if final {
				last = later(last, n.SourceTime)
			}
		}
	}
	slices.SortStableFunc(beats, func(a, b repo.Beat) int {
		return cmp.Or(cmp.Compare(a.N, b.N), a.At.Compare(b.At))
	})
	return slices.CompactFunc(beats, func(a, b repo.Beat) bool { return a.N == b.N && a.At.Equal(b.At) }), last, nil
}

// tail reads headers from the branch's end backwards until they are older
// than since.
func (x *Index) tail(ctx context.Context, branch string, since time.Time, fn func(*repo.SegmentMeta)) error {
	refs, err := x.Segments(ctx, branch)
	if err != nil {
		return err
	}
	for left := endOrder(refs); len(left) > 0; {
		cut := max(0, len(left)-metasAtOnce)
		metas, err := x.metas(ctx, left[cut:])
		if err != nil {
			return err
		}
		for _, m := range metas {
			fn(m)
		}
		// Beats travel at the latest with the segment sealed after them.
		if oldest := metas[0]; later(oldest.LastTime, oldest.SourceTime).Before(since) {
			return nil
		}
		left = left[:cut]
	}
	return nil
}

func (x *Index) metas(ctx context.Context, refs []repo.SegmentRef) ([]*repo.SegmentMeta, error) {
	return readMetas(ctx, x.a, refs)
}

// readMetas reads headers, several at once, in the order given.
func readMetas(ctx context.Context, a archive, refs []repo.SegmentRef) ([]*repo.SegmentMeta, error) {
	out, errs := make([]*repo.SegmentMeta, len(refs)), make([]error, len(refs))
	var wg sync.WaitGroup
	slots := make(chan struct{}, metasAtOnce)
	for i, ref := range refs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i], errs[i] = a.ReadSegmentMeta(ctx, ref)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read log segment headers: %w", err)
	}
	return out, nil
}

// endOrder is a copy ordered by end.
func endOrder(refs []repo.SegmentRef) []repo.SegmentRef {
	out := slices.Clone(refs)
	slices.SortStableFunc(out, func(a, b repo.SegmentRef) int { return cmpPosition(a.End, b.End) })
	return out
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
