package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// PlanRefs are the segments that hold a plan's log: of each leg, ordered by
// start. Listed once when a plan is made, they spare every later reader of it
// a listing. They are a hint: the store may have changed since.
type PlanRefs [][]repo.SegmentRef

// ListPlan lists a plan's segments. *GapError if they do not cover it.
func ListPlan(ctx context.Context, l *repo.Lineage, p *Plan) (PlanRefs, error) {
	return listPlan(ctx, l, p)
}

func listPlan(ctx context.Context, a archive, p *Plan) (PlanRefs, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	var out PlanRefs
	for _, leg := range p.Legs {
		refs, err := a.Segments(ctx, leg.Branch.ID, leg.From)
		if err != nil {
			return nil, fmt.Errorf("list the log of branch %s: %w", leg.Branch.ID, err)
		}
		refs = slices.DeleteFunc(slices.Clone(refs), func(s repo.SegmentRef) bool {
			return s.End <= leg.From || s.Start >= leg.To
		})
		slices.SortFunc(refs, compareRefs)
		out = append(out, refs)
	}
	return out, out.covers(p)
}

// covers is a *GapError unless the segments hold every byte of the plan.
func (r PlanRefs) covers(p *Plan) error {
	for i, leg := range p.Legs {
		ranges := Coverage(r[i])
		if missing := FirstMissing(ranges, leg.From); missing < leg.To {
			return &GapError{Branch: leg.Branch.ID, From: missing, To: nextHeld(ranges, missing)}
		}
	}
	return nil
}

// The stored form of PlanRefs: magic; for each leg a count (4 bytes) and so
// many records of level (4), start, end, stored (8 each); CRC-32C of all
// before it. Big endian.
const (
	refsMagic  = "HFREFS\x00\x01"
	refsRecord = 28
)

// errRefs: not the stored segments of this plan.
var errRefs = errors.New("not the list of this plan's segments")

// Encode is the stored form, for DecodePlanRefs.
func (r PlanRefs) Encode() []byte {
	be := binary.BigEndian
	b := []byte(refsMagic)
	for _, refs := range r {
		b = be.AppendUint32(b, uint32(len(refs)))
		for _, s := range refs {
			b = be.AppendUint32(b, uint32(s.Level))
			b = be.AppendUint64(b, uint64(s.Start))
			b = be.AppendUint64(b, uint64(s.End))
			b = be.AppendUint64(b, uint64(s.Stored))
		}
	}
	return appendSum(b)
}

func appendSum(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// DecodePlanRefs reads the stored form of a plan's segments. Whatever is not
// whole, ordered and covering the plan is an error: the caller lists instead.
func DecodePlanRefs(p *Plan, b []byte) (PlanRefs, error) {
	be := binary.BigEndian
	body := len(b) - crc32.Size
	if body < len(refsMagic) || string(b[:len(refsMagic)]) != refsMagic ||
		be.Uint32(b[body:]) != crc32.Checksum(b[:body], crc32.MakeTable(crc32.Castagnoli)) {
		return nil, errRefs
	}
	b = b[len(refsMagic):body]
	out := make(PlanRefs, 0, len(p.Legs))
	for _, leg := range p.Legs {
		if len(b) < 4 || uint64(be.Uint32(b)) > uint64(len(b)-4)/refsRecord {
			return nil, errRefs
		}
		refs := make([]repo.SegmentRef, be.Uint32(b))
		b = b[4:]
		for i := range refs {
			refs[i] = repo.SegmentRef{
				Branch: leg.Branch.ID, Level: int(be.Uint32(b)), Start: Position(be.Uint64(b[4:])),
				End: Position(be.Uint64(b[12:])), Stored: int64(be.Uint64(b[20:])),
			}
			b = b[refsRecord:]
		}
		if !slices.IsSortedFunc(refs, compareRefs) {
			return nil, errRefs
		}
		out = append(out, refs)
	}
	if len(b) > 0 {
		return nil, errRefs
	}
	return out, out.covers(p)
}

// legRefs finds one leg's segments by position.
type legRefs struct {
	refs  []repo.SegmentRef
	reach []Position // the furthest end of refs[:i+1]
}

func indexRefs(refs []repo.SegmentRef) legRefs {
	l := legRefs{refs: refs, reach: make([]Position, len(refs))}
	var reach Position
	for i, r := range refs {
		reach = max(reach, r.End)
		l.reach[i] = reach
	}
	return l
}

// at are the segments that hold a position, the one that reaches furthest
// first: it needs the fewest reads.
func (l legRefs) at(p Position) []repo.SegmentRef {
	n, _ := slices.BinarySearchFunc(l.refs, p, func(r repo.SegmentRef, p Position) int {
		if r.Start <= p {
			return -1
		}
		return 1
	})
	var out []repo.SegmentRef
	for i := n - 1; i >= 0 && l.reach[i] > p; i-- {
		if l.refs[i].End > p {
			out = append(out, l.refs[i])
		}
	}
	slices.SortStableFunc(out, func(a, b repo.SegmentRef) int { return cmpPosition(b.End, a.End) })
	return out
}
