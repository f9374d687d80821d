package engines

import (
	"fmt"
	"slices"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// onPath says whether a base's consistent point lies on the way to a branch.
func (p *planner) onPath(base repo.Manifest, target string) bool {
	chain, err := p.index.Ancestry(target)
	if err != nil {
		return false
	}
	at := slices.IndexFunc(chain, func(b repo.Branch) bool { return b.ID == base.Branch })
	return at >= 0 && (at+1 == len(chain) || chain[at+1].Fork >= base.Stop)
}

// leaves are the branches without successors that descend from a base (or its
// own branch). A branch that left before the base was consistent is not one.
func (p *planner) leaves(base repo.Manifest) []repo.Branch {
	var out []repo.Branch
	seen := map[string]bool{}
	var walk func(id string, from repo.Position)
	walk = func(id string, from repo.Position) {
		b, ok := p.index.Branch(id)
		if !ok || seen[id] {
			return
		}
		seen[id] = true
		leaf := true
		for _, child := range p.index.Children(id) {
			if child.Fork >= from {
				leaf = false
				walk(child.ID, 0)
			}
		}
		if leaf {
			out = append(out, b)
		}
	}
	walk(base.Branch, base.Stop)
	return out
}

// otherLeaves tells of branches that a plan without a chosen branch leaves
// aside, so that nobody takes an abandoned history for the newest one.
func (p *planner) otherLeaves(log *wal.Plan, target string) []string {
	end := log.Legs[len(log.Legs)-1].Branch
	var notes []string
	for _, b := range p.index.Branches() {
		if b.ID != target && b.Number > end.Number && len(p.index.Children(b.ID)) == 0 && !slices.Contains(log.Branches(), b.ID) {
			notes = append(notes, fmt.Sprintf("warning: branch %s (number %d) is newer than branch %s where this restore ends, and no newer backup leads to it; --branch %s chooses it",
				b.ID, b.Number, end.ID, b.ID))
		}
	}
	return notes
}
