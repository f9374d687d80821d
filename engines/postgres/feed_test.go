package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

const mib = 1 << 20

// branchLog is a log whose bytes tell where they come from: on each branch,
// byte p is a function of p and the branch that owns it.
type branchLog struct {
	path  []repo.Branch
	short bool
	err   error
}

func (l branchLog) at(p repo.Position) byte {
	return byte(p>>12) ^ byte(l.path[owner(l.path, p)].Number<<6) | 1
}

func (l branchLog) Copy(_ context.Context, branch string, from, to wal.Position, w io.Writer) error {
	b := make([]byte, 0, to-from)
	for p := from; p < to; p++ {
		b = append(b, l.at(p))
	}
	if l.short {
		b = b[:len(b)-1]
	}
	_, _ = w.Write(b)
	return l.err
}

// twoTimelines is a plan that starts on timeline 1 at 2 MiB, switches to 10
// inside a segment and ends inside another; segments have 1 MiB.
func twoTimelines(t *testing.T) (*wal.Plan, []repo.Branch) {
	t.Helper()
	history := []byte("1\t0/480010\tno recovery target specified\n")
	path, err := branchPath(10, history)
	if err != nil {
		t.Fatal(err)
	}
	fork := path[1].Fork
	return &wal.Plan{Legs: []wal.Leg{leg(path[0], 2*mib, fork), leg(path[1], fork, 6*mib+100)}}, path
}

func TestFeedNames(t *testing.T) {
	plan, path := twoTimelines(t)
	log := branchLog{path: path}
	f, err := newFeed(plan, mib, log)
	if err != nil {
		t.Fatal(err)
	}
	beyond := wal.ErrBeyondPlan
	for _, c := range []struct {
		name string
		from repo.Position // of the bytes wanted
		upTo repo.Position // log bytes end here, zeros follow
		want error         // nil, beyond, or errHard for any other
	}{
		{"000000010000000000000002", 2 * mib, 3 * mib, nil},
		{"000000010000000000000003", 3 * mib, 4 * mib, nil},
		{"0000000A0000000000000004", 4 * mib, 5 * mib, nil}, // the switch: from both
		{"0000000A0000000000000005", 5 * mib, 6 * mib, nil},
		{"0000000A0000000000000006", 6 * mib, 6*mib + 100, nil}, // the end: padded
		{"000000010000000000000004", 0, 0, errHard},             // ends at the switch on this timeline
		{"000000010000000000000001", 0, 0, beyond},              // before the plan
		{"000000010000000000000005", 0, 0, beyond},              // after the switch
		{"0000000A0000000000000003", 0, 0, beyond},              // before the timeline began
		{"0000000A0000000000000007", 0, 0, beyond},
		{"000000020000000000000004", 0, 0, beyond}, // a timeline not in the plan
		{"000000100000000000000005", 0, 0, beyond}, // 16 is not 10
		{"0000000A0000000000000006.partial", 0, 0, beyond},
		{"0000000b.history", 0, 0, beyond},
		{"00000001.history", 0, 0, beyond},
		{"0000000B.history", 0, 0, beyond},
	} {
		var b bytes.Buffer
		err := f.Fetch(t.Context(), c.name, &b)
		if c.want != nil {
			if errors.Is(err, beyond) != errors.Is(c.want, beyond) || err == nil || b.Len() > 0 {
				t.Errorf("%s: %v with %d bytes, want %v", c.name, err, b.Len(), c.want)
			}
			continue
		}
		if err != nil || b.Len() != mib {
			t.Errorf("%s: %d bytes, %v", c.name, b.Len(), err)
			continue
		}
		for i, got := range b.Bytes() {
			want, p := byte(0), c.from+repo.Position(i)
			if p < c.upTo {
				want = log.at(p)
			}
			if got != want {
				t.Errorf("%s: byte %d is %#x, want %#x", c.name, i, got, want)
				break
			}
		}
	}
}

var errHard = errors.New("any hard error")

func TestFeedServesTheHistoryOfThePlansTimelines(t *testing.T) {
	plan, path := twoTimelines(t)
	f, err := newFeed(plan, mib, branchLog{path: path})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := f.Fetch(t.Context(), "0000000A.history", &b); err != nil || b.String() != path[1].Proof[proofHistory] {
		t.Errorf("%q, %v", b.String(), err)
	}
	plan.Legs[1].Branch.Proof = map[string]string{proofHistory: "1\t0/480011\t\n", proofHistoryHash: path[1].Proof[proofHistoryHash]}
	err = f.Fetch(t.Context(), "0000000A.history", io.Discard)
	if !errors.Is(err, repo.ErrDamaged) || newRestorer().FeedExit(err) <= 125 {
		t.Errorf("a damaged history: %v", err)
	}
	root, err := newFeed(&wal.Plan{Legs: []wal.Leg{leg(rootBranch(7), mib, 2*mib)}}, mib, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if err := root.Fetch(t.Context(), "00000007.history", &b); err != nil {
		t.Fatal(err)
	}
	if s, err := parseHistory(b.Bytes()); err != nil || len(s) > 0 {
		t.Errorf("the stand-in for a lost history has ancestors: %v, %v", s, err)
	}
}

// Inside the plan nothing may read as "not in the archive": the server would
// promote.
func TestFeedFailsHardInsideThePlan(t *testing.T) {
	plan, path := twoTimelines(t)
	for what, log := range map[string]branchLog{
		"an outage":            {path: path, err: errors.New("503")},
		"a confused reader":    {path: path, err: wal.ErrBeyondPlan},
		"a vanished segment":   {path: path, err: repo.ErrNotFound},
		"a short delivery":     {path: path, short: true},
		"damage at the bottom": {path: path, err: repo.ErrDamaged},
	} {
		f, err := newFeed(plan, mib, log)
		if err != nil {
			t.Fatal(err)
		}
		err = f.Fetch(t.Context(), "0000000A0000000000000005", io.Discard)
		if code := newRestorer().FeedExit(err); err == nil || code <= 125 || code >= 256 || errors.Is(err, wal.ErrBeyondPlan) {
			t.Errorf("%s: %v, exit %d", what, err, code)
		}
	}
	if code := newRestorer().FeedExit(nil); code != 0 {
		t.Errorf("delivered: exit %d", code)
	}
	if code := newRestorer().FeedExit(wal.ErrBeyondPlan); code != 1 {
		t.Errorf("beyond the plan: exit %d", code)
	}
}

func TestFeedRefusesPlansRecoveryCannotFollow(t *testing.T) {
	root, ten := rootBranch(1), rootBranch(10)
	for what, legs := range map[string][]wal.Leg{
		"no legs":                  nil,
		"starts inside a segment":  {leg(root, mib+8, 2*mib)},
		"a hole between legs":      {leg(root, mib, 2*mib), leg(ten, 3*mib, 4*mib)},
		"timelines going down":     {leg(ten, mib, 2*mib), leg(root, 2*mib, 4*mib)},
		"a leg that ends too soon": {leg(root, 2*mib, mib)},
		"no timeline":              {leg(repo.Branch{ID: "x"}, mib, 2*mib)},
	} {
		if _, err := newFeed(&wal.Plan{Legs: legs}, mib, nil); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestFeedKnowsWhatIsAskedForNext(t *testing.T) {
	plan, path := twoTimelines(t)
	f, err := newFeed(plan, mib, branchLog{path: path})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"000000010000000000000002", "000000010000000000000003", "0000000A0000000000000004", "0000000A0000000000000005", "0000000A0000000000000006"}
	for i := range all {
		if got := f.Run(all[i], 10); !slices.Equal(got, all[i:]) {
			t.Errorf("from %s on: %v", all[i], got)
		}
		if got := f.Run(all[i], 2); len(got) != min(2, len(all)-i) {
			t.Errorf("two from %s on: %v", all[i], got)
		}
	}
	for _, name := range []string{"", "0000000A.history", "0000000A0000000000000007", "000000010000000000000001", "000000010000000000000005", "0000000A0000000000000006.partial", "000000020000000000000004"} {
		if got := f.Run(name, 10); got != nil {
			t.Errorf("from %q on: %v", name, got)
		}
	}
}

// A plan may end at any byte, on any branch of the path: what is before the
// end is delivered, the rest of its file is zeros, and the next is beyond.
func TestFeedPadsAtThePlansEndOnly(t *testing.T) {
	two, path := twoTimelines(t)
	fork := two.Legs[0].To
	for _, to := range []repo.Position{2*mib + 1, 3*mib - 1, 3 * mib, 3*mib + 1, fork - 1, fork, fork + 1, 5 * mib, 6*mib - 8} {
		legs := []wal.Leg{leg(path[0], 2*mib, min(to, fork))}
		if to > fork {
			legs = append(legs, leg(path[1], fork, to))
		}
		log := branchLog{path: path}
		f, err := newFeed(&wal.Plan{Legs: legs}, mib, log)
		if err != nil {
			t.Fatal(err)
		}
		names := f.Run("000000010000000000000002", 100)
		if want := int((to - 2*mib + mib - 1) / mib); len(names) != want {
			t.Errorf("a plan to %s has %d files, want %d: %v", FormatLSN(to), len(names), want, names)
		}
		at := repo.Position(2 * mib)
		for _, name := range names {
			var b bytes.Buffer
			if err := f.Fetch(t.Context(), name, &b); err != nil || b.Len() != mib {
				t.Errorf("a plan to %s, %s: %d bytes, %v", FormatLSN(to), name, b.Len(), err)
			}
			for _, got := range b.Bytes() {
				want := byte(0)
				if at < to {
					want = log.at(at)
				}
				if got != want {
					t.Fatalf("a plan to %s: the byte at %s is %#x, want %#x", FormatLSN(to), FormatLSN(at), got, want)
				}
				at++
			}
		}
		next := walNameAt(uint32(legs[len(legs)-1].Branch.Number), at, mib).format(mib)
		if err := f.Fetch(t.Context(), next, io.Discard); !errors.Is(err, wal.ErrBeyondPlan) {
			t.Errorf("a plan to %s, %s: %v", FormatLSN(to), next, err)
		}
	}
}
