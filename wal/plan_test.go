package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestCoverage(t *testing.T) {
	ref := func(from, to Position) repo.SegmentRef { return repo.SegmentRef{Branch: "b", Start: from, End: to} }
	got := Coverage([]repo.SegmentRef{ref(50, 60), ref(0, 10), ref(10, 20), ref(5, 12), ref(55, 58), ref(70, 70)})
	if want := []Range{{"b", 0, 20}, {"b", 50, 60}}; !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
	for from, want := range map[Position]Position{0: 20, 19: 20, 20: 20, 30: 30, 50: 60, 60: 60} {
		if m := FirstMissing(got, from); m != want {
			t.Errorf("first missing from %d: %d, want %d", from, m, want)
		}
	}
}

// naive is a model of an archive: every byte of every branch by itself.
type naive struct {
	branches []repo.Branch
	held     map[string]map[Position]bool
}

// plan walks byte by byte. It returns the owner of each byte, or the first
// byte that is missing and on which branch.
func (n naive) plan(base string, from Position, target string, to Position) (owners []string, gap *GapError, found bool) {
	byID := map[string]repo.Branch{}
	for _, b := range n.branches {
		byID[b.ID] = b
	}
	chain := []repo.Branch{byID[target]}
	for chain[0].Parent != "" {
		chain = slices.Insert(chain, 0, byID[chain[0].Parent])
	}
	at := slices.IndexFunc(chain, func(b repo.Branch) bool { return b.ID == base })
	if at < 0 || at+1 < len(chain) && chain[at+1].Fork < from {
		return nil, nil, false
	}
	for p := from; to == 0 || p < to; p++ {
		owner := chain[0]
		for _, b := range chain {
			if b.Fork <= p {
				owner = b
			}
		}
		if !n.held[owner.ID][p] {
			if to == 0 && owner.ID == target {
				return owners, nil, true
			}
			return owners, &GapError{Branch: owner.ID, From: p}, true
		}
		owners = append(owners, owner.ID)
	}
	return owners, nil, true
}

// TestPlanAndReaderAgainstModel: random branches, overlapping segments and
// holes; plans, gaps and every byte read must be what the model says.
func TestPlanAndReaderAgainstModel(t *testing.T) {
	plans, gaps := 0, 0
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 2))
		l, _ := lineage(t)
		n := randomArchive(t, l, rng)
		for range 40 {
			pick := func() repo.Branch { return n.branches[rng.IntN(len(n.branches))] }
			base, target := pick().ID, pick().ID
			from := Position(rng.IntN(150))
			to := from + Position(rng.IntN(120))
			if rng.IntN(4) == 0 || to == 0 {
				to = 0
			}
			name := fmt.Sprintf("seed %d: %s from %d to %s at %d", seed, base, from, target, to)
			owners, gap, found := n.plan(base, from, target, to)
			p, err := MakePlan(t.Context(), l, base, from, target, to)
			got := new(GapError)
			switch {
			case !found:
				if !errors.Is(err, repo.ErrNotFound) {
					t.Fatalf("%s: %v, want not found", name, err)
				}
			case gap != nil:
				gaps++
				if !errors.As(err, &got) || got.Branch != gap.Branch || got.From != gap.From {
					t.Fatalf("%s: %v, want %v", name, err, gap)
				}
				if got.To != 0 && n.held[got.Branch][got.To-1] {
					t.Fatalf("%s: gap %v ends after a byte that is held", name, got)
				}
			case err != nil:
				t.Fatalf("%s: %v", name, err)
			default:
				plans++
				sameBytes(t, l, name, p, target, owners, rng)
			}
		}
	}
	if plans < 100 || gaps < 40 {
		t.Fatalf("only %d plans and %d gaps were tried", plans, gaps)
	}
}

func randomArchive(t *testing.T, l *repo.Lineage, rng *rand.Rand) naive {
	n := naive{held: map[string]map[Position]bool{}}
	for i := range 1 + rng.IntN(5) {
		b := repo.Branch{ID: fmt.Sprintf("b%d", i), Number: uint64(i)}
		if i > 0 {
			parent := n.branches[rng.IntN(i)]
			b.Parent, b.Fork = parent.ID, parent.Fork+Position(rng.IntN(60))
		}
		must(t, l.PutBranch(t.Context(), b))
		n.branches = append(n.branches, b)
		n.held[b.ID] = map[Position]bool{}
		for at := b.Fork; at < 200; {
			end := at + Position(1+rng.IntN(60))
			put(t, l, b.ID, at, end)
			for p := at; p < end; p++ {
				n.held[b.ID][p] = true
			}
			at = end
			switch rng.IntN(8) {
			case 0:
				at += Position(rng.IntN(20)) // a hole, unless it is 0
			case 1, 2:
				at -= Position(rng.IntN(int(end - b.Fork))) // an overlap
			}
		}
	}
	return n
}

func sameBytes(t *testing.T, l *repo.Lineage, name string, p *Plan, target string, owners []string, rng *rand.Rand) {
	t.Helper()
	if int(p.To()-p.From()) != len(owners) {
		t.Fatalf("%s: plan holds %d bytes, want %d", name, p.To()-p.From(), len(owners))
	}
	must(t, p.Validate())
	r, err := NewReader(t.Context(), l, p)
	must(t, err)
	defer r.Close()
	var want []byte
	for i, id := range owners {
		at := p.From() + Position(i)
		want = append(want, logBytes(id, at, at+1)...)
	}
	last := p.Legs[len(p.Legs)-1].Branch.ID
	for range 3 {
		from := p.From() + Position(rng.IntN(len(want)+1))
		to := from + Position(rng.IntN(int(p.To()-from)+1))
		var got bytes.Buffer
		if err := r.Copy(t.Context(), last, from, to, &got); err != nil {
			t.Fatalf("%s: read %d to %d: %v", name, from, to, err)
		}
		if !bytes.Equal(got.Bytes(), want[from-p.From():to-p.From()]) {
			t.Fatalf("%s: bytes %d to %d differ", name, from, to)
		}
	}
	if err := r.Copy(t.Context(), last, p.From(), p.To()+1, &bytes.Buffer{}); err == nil || errors.Is(err, ErrBeyondPlan) {
		t.Fatalf("%s: reading beyond the plan: %v", name, err)
	}
}

func TestGapsAreExact(t *testing.T) {
	l, _ := lineage(t)
	branch(t, l, "b1", "", 0, 1)
	branch(t, l, "b2", "b1", 100, 2)
	branch(t, l, "b9", "gone", 100, 9)
	put(t, l, "b1", 0, 50)
	put(t, l, "b1", 60, 90)
	put(t, l, "b1", 110, 120)
	put(t, l, "b2", 100, 130)
	put(t, l, "b9", 100, 130)
	for _, c := range []struct {
		base     string
		from     Position
		target   string
		to       Position
		gap      *GapError
		notFound bool
	}{
		{base: "b1", from: 0, target: "b1", to: 70, gap: &GapError{"b1", 50, 60}},
		{base: "b1", from: 60, target: "b2", to: 0, gap: &GapError{"b1", 90, 100}}, // not 110: that is after the fork
		{base: "b1", from: 60, target: "b1", to: 115, gap: &GapError{"b1", 90, 110}},
		{base: "b2", from: 100, target: "b2", to: 200, gap: &GapError{"b2", 130, 0}},
		{base: "b2", from: 95, target: "b2", to: 120, gap: &GapError{"b1", 95, 100}},
		{base: "b9", from: 95, target: "b9", to: 120, gap: &GapError{"gone", 95, 100}},
		{base: "b1", from: 111, target: "b2", to: 120, notFound: true},
		{base: "b2", from: 100, target: "b1", to: 120, notFound: true},
		{base: "b1", from: 0, target: "none", to: 120, notFound: true},
	} {
		_, err := MakePlan(t.Context(), l, c.base, c.from, c.target, c.to)
		gap := new(GapError)
		if c.notFound != errors.Is(err, repo.ErrNotFound) || c.gap != nil && (!errors.As(err, &gap) || *gap != *c.gap) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestForeignPlansAreChecked(t *testing.T) {
	leg := func(id string, from, to Position) Leg { return Leg{repo.Branch{ID: id}, from, to} }
	l, _ := lineage(t)
	for _, p := range []*Plan{
		{},
		{Legs: []Leg{leg("a", 10, 5)}},
		{Legs: []Leg{leg("a", 0, 5), leg("b", 6, 7)}},
		{Legs: []Leg{leg("a", 0, 5), leg("a", 5, 7)}},
		{Legs: []Leg{leg("a", 0, 5)}}, // nothing is held
	} {
		if _, err := NewReader(t.Context(), l, p); err == nil {
			t.Errorf("%+v was accepted", p)
		}
	}
}

// A plan that ends exactly where its target begins still ends on the target.
func TestPlanToTheFork(t *testing.T) {
	l, _ := lineage(t)
	branch(t, l, "b1", "", 0, 1)
	branch(t, l, "b2", "b1", 50, 2)
	put(t, l, "b1", 0, 60)
	for to, want := range map[Position][]string{49: {"b1"}, 50: {"b1", "b2"}, 0: {"b1", "b2"}} {
		p, err := MakePlan(t.Context(), l, "b1", 0, "b2", to)
		must(t, err)
		if got := p.Branches(); !reflect.DeepEqual(got, want) || to != 0 && p.To() != to {
			t.Errorf("plan to %d: %v, ends at %d", to, got, p.To())
		}
	}
}
