package wal

import (
	"context"
	"fmt"
	"slices"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Leg is one stretch of a replay on one branch.
type Leg struct {
	Branch repo.Branch `json:"branch"`
	From   Position    `json:"from"`
	To     Position    `json:"to"`
}

// Plan is a replay fixed beforehand: one leg for each branch of the path, in
// order, each ending where the next begins (a leg may be empty). Every byte
// inside it is in the store.
type Plan struct {
	Lineage string `json:"lineage"`
	Legs    []Leg  `json:"legs"`
}

// From and To are the plan's ends; To is not part of it.
func (p *Plan) From() Position { return p.Legs[0].From }
func (p *Plan) To() Position   { return p.Legs[len(p.Legs)-1].To }

// Branches are the ids of the plan's branches, in order.
func (p *Plan) Branches() []string {
	var ids []string
	for _, leg := range p.Legs {
		ids = append(ids, leg.Branch.ID)
	}
	return ids
}

// Validate checks a plan's shape; a plan may come from a file.
func (p *Plan) Validate() error {
	if len(p.Legs) == 0 {
		return fmt.Errorf("a plan without legs")
	}
	for i, leg := range p.Legs {
		if leg.From > leg.To {
			return fmt.Errorf("plan: leg %d on branch %s ends before it begins", i+1, leg.Branch.ID)
		}
		if i > 0 && leg.From != p.Legs[i-1].To {
			return fmt.Errorf("plan: leg %d on branch %s does not begin where the one before ends", i+1, leg.Branch.ID)
		}
		for _, before := range p.Legs[:i] {
			if before.Branch.ID == leg.Branch.ID {
				return fmt.Errorf("plan: branch %s occurs twice", leg.Branch.ID)
			}
		}
	}
	return nil
}

// MakePlan fixes the log from position from on branch base through position
// to on branch target (an ancestor-or-self path must lead there). A from
// before base's own fork begins on the ancestor that holds it, and a to
// before target's fork ends on one. to == 0 means the end of what is held
// contiguously on target. *GapError if a byte is missing; repo.ErrNotFound if
// target does not descend from base at from.
func MakePlan(ctx context.Context, l *repo.Lineage, base string, from Position, target string, to Position) (*Plan, error) {
	x, err := NewIndex(ctx, l)
	if err != nil {
		return nil, err
	}
	return x.Plan(ctx, base, from, target, to)
}

// Plan is MakePlan over what the index has listed.
func (x *Index) Plan(ctx context.Context, base string, from Position, target string, to Position) (*Plan, error) {
	if to != 0 && to < from {
		return nil, fmt.Errorf("plan the log: end %x lies before start %x", uint64(to), uint64(from))
	}
	path, err := x.path(base, from, target)
	if err != nil {
		return nil, err
	}
	p := &Plan{Lineage: x.lineage}
	at := from
	for i, b := range path {
		end, last := to, i == len(path)-1
		inner := !last && (to == 0 || to >= path[i+1].Fork) // goes on to the next branch
		if inner {
			end = path[i+1].Fork
		}
		refs, err := x.Segments(ctx, b.ID)
		if err != nil {
			return nil, err
		}
		ranges := Coverage(refs)
		missing := FirstMissing(ranges, at)
		if last && to == 0 {
			end = missing
		}
		if missing < end {
			gap := &GapError{Branch: b.ID, From: missing, To: nextHeld(ranges, missing)}
			if inner && (gap.To == 0 || gap.To > end) {
				gap.To = end // what this branch holds beyond the fork is another history
			}
			return nil, gap
		}
		p.Legs = append(p.Legs, Leg{Branch: b, From: at, To: end})
		at = end
		if !inner {
			break
		}
	}
	return p, nil
}

// path is the chain of branches from the one that holds from (as seen on
// base) to target.
func (x *Index) path(base string, from Position, target string) ([]repo.Branch, error) {
	chain, err := x.Ancestry(target)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(chain, func(b repo.Branch) bool { return b.ID == base })
	if at < 0 {
		return nil, fmt.Errorf("branch %s does not descend from branch %s: %w", target, base, repo.ErrNotFound)
	}
	for i := 1; i < len(chain); i++ {
		if chain[i].Fork < chain[i-1].Fork {
			return nil, fmt.Errorf("branch %s forks from %s at %x, before that branch began: %w",
				chain[i].ID, chain[i-1].ID, uint64(chain[i].Fork), repo.ErrNotFound)
		}
	}
	if at+1 < len(chain) && chain[at+1].Fork < from {
		return nil, fmt.Errorf("branch %s left branch %s at %x, before %x: %w",
			chain[at+1].ID, base, uint64(chain[at+1].Fork), uint64(from), repo.ErrNotFound)
	}
	for from < chain[at].Fork {
		if at == 0 {
			return nil, &GapError{Branch: chain[0].Parent, From: from, To: chain[0].Fork}
		}
		at--
	}
	return chain[at:], nil
}
