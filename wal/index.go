package wal

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// archive is what reading the log needs of a lineage.
type archive interface {
	Branches(ctx context.Context) ([]repo.Branch, error)
	Segments(ctx context.Context, branch string, from Position) ([]repo.SegmentRef, error)
	ReadSegment(ctx context.Context, ref repo.SegmentRef) (*repo.SegmentMeta, []byte, error)
	ReadSegmentMeta(ctx context.Context, ref repo.SegmentRef) (*repo.SegmentMeta, error)
	Notes(ctx context.Context) ([]repo.Note, error)
}

// Index is what one look at the archive found: branches at once, each
// branch's segments when first asked for. It does not follow later uploads.
// Safe for concurrent use.
type Index struct {
	a        archive
	lineage  string
	branches []repo.Branch

	mu   sync.Mutex
	segs map[string][]repo.SegmentRef
}

// NewIndex lists a lineage's branches.
func NewIndex(ctx context.Context, l *repo.Lineage) (*Index, error) {
	return newIndex(ctx, l, l.Info().ID)
}

func newIndex(ctx context.Context, a archive, lineage string) (*Index, error) {
	branches, err := a.Branches(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the log's branches: %w", err)
	}
	return &Index{a: a, lineage: lineage, branches: branches, segs: map[string][]repo.SegmentRef{}}, nil
}

// Branches are all recorded branches, ordered by number, then id.
func (x *Index) Branches() []repo.Branch { return x.branches }

// Branch finds one by id.
func (x *Index) Branch(id string) (repo.Branch, bool) {
	for _, b := range x.branches {
		if b.ID == id {
			return b, true
		}
	}
	return repo.Branch{}, false
}

// Children are the branches that fork directly from id.
func (x *Index) Children(id string) []repo.Branch {
	var out []repo.Branch
	for _, b := range x.branches {
		if b.Parent == id {
			out = append(out, b)
		}
	}
	return out
}

// Ancestry is the chain from the oldest recorded ancestor down to id.
func (x *Index) Ancestry(id string) ([]repo.Branch, error) {
	b, ok := x.Branch(id)
	if !ok {
		return nil, fmt.Errorf("branch %s: %w", id, repo.ErrNotFound)
	}
	chain := []repo.Branch{b}
	for b.Parent != "" {
		parent, ok := x.Branch(b.Parent)
		if !ok {
			break // the archive begins after this fork
		}
		if len(chain) > len(x.branches) {
			return nil, fmt.Errorf("branch %s is its own ancestor: %w", id, repo.ErrDamaged)
		}
		b = parent
		chain = append(chain, b)
	}
	slices.Reverse(chain)
	return chain, nil
}

// Segments lists a branch's segments ordered by start, then end.
func (x *Index) Segments(ctx context.Context, branch string) ([]repo.SegmentRef, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if refs, ok := x.segs[branch]; ok {
		return refs, nil
	}
	refs, err := x.a.Segments(ctx, branch, 0)
	if err != nil {
		return nil, fmt.Errorf("list the log of branch %s: %w", branch, err)
	}
	slices.SortFunc(refs, compareRefs)
	x.segs[branch] = refs
	return refs, nil
}

// EndTime is the source's clock when the last byte of a plan was sent: no
// commit in it is younger. Zero if the plan holds no byte.
func (x *Index) EndTime(ctx context.Context, p *Plan) (time.Time, error) {
	for _, leg := range slices.Backward(p.Legs) {
		if leg.From == leg.To {
			continue
		}
		refs, err := x.Segments(ctx, leg.Branch.ID)
		if err != nil {
			return time.Time{}, err
		}
		// Of several, the one that reaches least beyond the end is nearest.
		var best *repo.SegmentRef
		for i, r := range refs {
			if r.Start < leg.To && leg.To <= r.End && (best == nil || r.End < best.End) {
				best = &refs[i]
			}
		}
		if best == nil {
			return time.Time{}, &GapError{Branch: leg.Branch.ID, From: leg.To - 1, To: leg.To}
		}
		m, err := x.a.ReadSegmentMeta(ctx, *best)
		if err != nil {
			return time.Time{}, fmt.Errorf("read the time of the log's end: %w", err)
		}
		return m.LastTime, nil
	}
	return time.Time{}, nil
}

func compareRefs(a, b repo.SegmentRef) int {
	switch {
	case a.Start != b.Start:
		return cmpPosition(a.Start, b.Start)
	case a.End != b.End:
		return cmpPosition(a.End, b.End)
	}
	return a.Level - b.Level
}

func cmpPosition(a, b Position) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
