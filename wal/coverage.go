package wal

import (
	"fmt"
	"slices"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Range is a stretch of one branch's log held without a hole.
type Range struct {
	Branch     string   `json:"branch"`
	Start, End Position // [Start, End)
}

// GapError says exactly what log is missing for a plan.
type GapError struct {
	Branch   string
	From, To Position // [From, To) is not in the archive; To 0: nothing follows
}

func (e *GapError) Error() string {
	if e.To == 0 {
		return fmt.Sprintf("log of branch %s is missing from %x on", e.Branch, uint64(e.From))
	}
	return fmt.Sprintf("log of branch %s is missing from %x to %x", e.Branch, uint64(e.From), uint64(e.To))
}

// Coverage merges one branch's segments (any order, overlaps allowed) into
// its contiguous ranges, ordered.
func Coverage(refs []repo.SegmentRef) []Range {
	ranges := make([]Range, len(refs))
	for i, r := range refs {
		ranges[i] = Range{Branch: r.Branch, Start: r.Start, End: r.End}
	}
	return Merge(ranges)
}

// Merge does the same for ranges of one branch.
func Merge(ranges []Range) []Range {
	sorted := slices.Clone(ranges)
	slices.SortFunc(sorted, func(a, b Range) int { return cmpPosition(a.Start, b.Start) })
	var out []Range
	for _, r := range sorted {
		if r.Start >= r.End {
			continue
		}
		if n := len(out); n > 0 && r.Start <= out[n-1].End {
			out[n-1].End = max(out[n-1].End, r.End)
			continue
		}
		out = append(out, r)
	}
	return out
}

// FirstMissing is the first position at or after from that ranges (ordered,
// as Coverage returns them) lack.
func FirstMissing(ranges []Range, from Position) Position {
	for _, r := range ranges {
		if r.Start <= from && from < r.End {
			from = r.End
		}
	}
	return from
}

// nextHeld is where ranges go on after a hole that begins at from; 0: nowhere.
func nextHeld(ranges []Range, from Position) Position {
	for _, r := range ranges {
		if r.Start > from {
			return r.Start
		}
	}
	return 0
}
