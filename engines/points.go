package engines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// PointQuery bounds a listing of what can be named as a target.
type PointQuery struct {
	Commits bool      // list commits and aborts too, not only restore points
	Since   time.Time // source's clock; zero: no bound
	Until   time.Time // exclusive
}

func (q PointQuery) wants(m repo.Mark) bool {
	switch m.Kind {
	case repo.MarkRestorePoint:
	case repo.MarkCommit, repo.MarkAbort:
		if !q.Commits {
			return false
		}
	default:
		return false // no target's kind
	}
	return (q.Since.IsZero() || !m.Time.Before(q.Since)) && (q.Until.IsZero() || m.Time.Before(q.Until))
}

// ReachablePoint is a record that a restore can end at.
type ReachablePoint struct {
	repo.Mark
	Branch string // the branch its record is on
	Backup string // the oldest base backup from which it can be reached
}

// Points calls fn with what can be named as a target in the log, each once,
// in order of the bases and within a base's log in order of the log. It lists
// only what a restore reaches: behind a base's consistent point, on a path to
// a branch's end, before a gap. A base that cannot be used is left out; the
// windows (Windows) say why. Memory does not grow with what is listed.
func Points(ctx context.Context, e Engine, l *repo.Lineage, q PointQuery, fn func(ReachablePoint) error) error {
	p, err := newPlanner(ctx, l)
	if err != nil {
		return err
	}
	p.resolver = e.Resolver()
	listed := map[string][]wal.Range{} // of each branch, what earlier paths have covered
	for _, base := range slices.Backward(p.bases) {
		for _, leaf := range p.ends(base) {
			log, _, err := p.reach(ctx, base, leaf.ID)
			if errors.As(err, new(*unusableError)) {
				continue
			}
			if err == nil {
				err = p.points(ctx, base, log, q, listed, fn)
			}
			if err != nil {
				return fmt.Errorf("list the points that backup %s leads to: %w", base.ID, err)
			}
		}
	}
	return p.unreadable
}

// ends are the branches a restore from base can end on: its heirs without
// heirs of their own, and those that an heir has left, which go on beyond
// where it left.
func (p *planner) ends(base repo.Manifest) []repo.Branch {
	out := p.leaves(base)
	for _, b := range p.index.Branches() {
		if p.onPath(base, b.ID) && !slices.ContainsFunc(out, func(o repo.Branch) bool { return o.ID == b.ID }) {
			out = append(out, b)
		}
	}
	return out
}

// points lists one path, except what listed has of it.
func (p *planner) points(ctx context.Context, base repo.Manifest, log *wal.Plan, q PointQuery, listed map[string][]wal.Range, fn func(ReachablePoint) error) error {
	rd, err := wal.NewReader(ctx, p.lineage, log)
	if err != nil {
		return err
	}
	defer rd.Close()
	for _, leg := range log.Legs {
		from := max(leg.From, base.Stop)
		for _, r := range uncovered(listed[leg.Branch.ID], from, leg.To) {
			err := p.resolver.Marks(ctx, rd, r.Start, r.End, q.Commits, func(m repo.Mark) error {
				if !q.wants(m) || m.Start < r.Start || m.Start >= r.End {
					return nil
				}
				return fn(ReachablePoint{Mark: m, Branch: leg.Branch.ID, Backup: base.ID})
			})
			if err != nil {
				return err
			}
			listed[leg.Branch.ID] = append(listed[leg.Branch.ID], r)
		}
	}
	return nil
}

// uncovered is what of [from, to) lies in none of the ranges.
func uncovered(ranges []wal.Range, from, to repo.Position) []wal.Range {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b wal.Range) int {
		if a.Start < b.Start {
			return -1
		}
		return 1
	})
	var out []wal.Range
	for _, r := range ranges {
		if r.End <= from {
			continue
		}
		if r.Start >= to {
			break
		}
		if r.Start > from {
			out = append(out, wal.Range{Start: from, End: r.Start})
		}
		from = r.End
	}
	if from < to {
		out = append(out, wal.Range{Start: from, End: to})
	}
	return out
}
