package wal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// twoBranches is [0, 300) on b1 and from there to 500 on b2, in segments of
// 100, one of which reaches over the fork and one of which overlaps others.
func twoBranches(t *testing.T, l *repo.Lineage) *Plan {
	t.Helper()
	branch(t, l, "b1", "", 0, 1)
	for p := Position(0); p < 400; p += 100 {
		put(t, l, "b1", p, p+100)
	}
	put(t, l, "b1", 50, 250)
	branch(t, l, "b2", "b1", 300, 2)
	put(t, l, "b2", 300, 400)
	put(t, l, "b2", 400, 500)
	p, err := MakePlan(t.Context(), l, "b1", 0, "b2", 500)
	must(t, err)
	return p
}

func TestPlanRefsSurviveStorage(t *testing.T) {
	l, _ := lineage(t)
	p := twoBranches(t, l)
	refs, err := ListPlan(t.Context(), l, p)
	must(t, err)
	if len(refs) != 2 || len(refs[0]) != 4 || len(refs[1]) != 2 {
		t.Fatalf("segments of the legs: %v", refs)
	}
	raw := refs.Encode()
	got, err := DecodePlanRefs(p, raw)
	must(t, err)
	if !reflect.DeepEqual(got, refs) {
		t.Fatalf("%v, want %v", got, refs)
	}
	for i := range raw { // damage anywhere, an end anywhere
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if _, err := DecodePlanRefs(p, bad); err == nil {
			t.Errorf("byte %d flipped: no error", i)
		}
		if _, err := DecodePlanRefs(p, raw[:i]); err == nil {
			t.Errorf("cut at %d: no error", i)
		}
	}
	longer := *p
	longer.Legs = append([]Leg(nil), p.Legs...)
	longer.Legs[1].To = 600
	if gap := new(GapError); true {
		if _, err := DecodePlanRefs(&longer, raw); !errors.As(err, &gap) || gap.From != 500 {
			t.Errorf("segments of a shorter plan: %v", err)
		}
	}
}

func FuzzDecodePlanRefs(f *testing.F) {
	p := &Plan{Legs: []Leg{{Branch: repo.Branch{ID: "b1"}, To: 100}, {Branch: repo.Branch{ID: "b2"}, From: 100, To: 150}}}
	good := PlanRefs{{{Branch: "b1", End: 100, Stored: 7}}, {{Branch: "b2", Start: 90, End: 200, Level: 1}}}.Encode()
	f.Add(good[:len(good)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		refs, err := DecodePlanRefs(p, appendSum(body))
		if err != nil {
			return
		}
		if again := refs.Encode(); !bytes.Equal(again, appendSum(body)) {
			t.Fatalf("%x is not the one form of %v", body, refs)
		}
		if err := refs.covers(p); err != nil {
			t.Fatal(err)
		}
	})
}

// listing counts the lists and reads a reader makes.
type listing struct {
	*repo.Lineage
	lists, reads atomic.Int32
	slow         time.Duration
}

func (c *listing) Segments(ctx context.Context, branch string, from Position) ([]repo.SegmentRef, error) {
	c.lists.Add(1)
	return c.Lineage.Segments(ctx, branch, from)
}

func (c *listing) ReadSegment(ctx context.Context, ref repo.SegmentRef) (*repo.SegmentMeta, []byte, error) {
	c.reads.Add(1)
	time.Sleep(c.slow)
	return c.Lineage.ReadSegment(ctx, ref)
}

func TestALazyReaderListsOnlyWhatHasChanged(t *testing.T) {
	l, _ := lineage(t)
	p := twoBranches(t, l)
	refs, err := ListPlan(t.Context(), l, p)
	must(t, err)
	want := append(logBytes("b1", 0, 300), logBytes("b2", 300, 500)...)
	read := func(what string, refs PlanRefs, lists int32) {
		t.Helper()
		a, opened := &listing{Lineage: l}, 0
		r := lazyReader(p, refs, func(context.Context) (archive, error) { opened++; return a, nil })
		defer r.Close()
		var buf bytes.Buffer
		if err := r.Copy(t.Context(), "b2", 10, 500, &buf); err != nil || !bytes.Equal(buf.Bytes(), want[10:]) {
			t.Errorf("%s: %d wrong bytes, %v", what, buf.Len(), err)
		}
		if n := a.lists.Load(); n != lists || opened != 1 {
			t.Errorf("%s: %d lists, %d openings; want %d, 1", what, n, opened, lists)
		}
	}
	read("what was listed", refs, 0)
	read("nothing known", nil, 2)
	// Compacted: the list names segments that are gone.
	gone := PlanRefs{refs[0], {{Branch: "b2", Start: 300, End: 350}, {Branch: "b2", Start: 350, End: 500}}}
	read("other segments", gone, 2)

	// Still gone when listed again: a hard error, and no endless listing.
	short := &Plan{Lineage: p.Lineage, Legs: []Leg{{Branch: p.Legs[0].Branch, To: 600}}}
	a := &listing{Lineage: l}
	r := lazyReader(short, PlanRefs{{{Branch: "b1", End: 600}}}, func(context.Context) (archive, error) { return a, nil })
	defer r.Close()
	gap := new(GapError)
	if err := r.Copy(t.Context(), "b1", 0, 600, io.Discard); !errors.As(err, &gap) || gap.From != 400 {
		t.Errorf("a plan that the store no longer covers: %v", err)
	}
}

// A reader that is one step ahead of a slow store would make a recovery wait
// for each segment: several are fetched at a time, and no more than allowed.
func TestReadingAheadIsParallelAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := lineage(t)
		branch(t, l, "b1", "", 0, 1)
		for p := Position(0); p < 4000; p += 100 {
			put(t, l, "b1", p, p+100)
		}
		p, err := MakePlan(t.Context(), l, "b1", 0, "b1", 4000)
		must(t, err)
		a := &listing{Lineage: l, slow: time.Second}
		r, err := newReader(t.Context(), a, p)
		must(t, err)
		must(t, r.Copy(t.Context(), "b1", 0, 10, io.Discard))
		time.Sleep(time.Hour)
		if n := a.reads.Load(); n != 1+aheadSegments {
			t.Errorf("%d segments were read for the first, want %d", n, 1+aheadSegments)
		}
		began := time.Now()
		var buf bytes.Buffer
		must(t, r.Copy(t.Context(), "b1", 0, 4000, &buf))
		if !bytes.Equal(buf.Bytes(), logBytes("b1", 0, 4000)) {
			t.Error("wrong bytes")
		}
		left := 40 - 1 - aheadSegments
		if want := time.Duration(left/aheadAtOnce()+2) * time.Second; time.Since(began) > want {
			t.Errorf("%d segments of a second each took %v, %d at a time", left, time.Since(began), aheadAtOnce())
		}
		if n := a.reads.Load(); n != 40 {
			t.Errorf("40 segments were read %d times", n)
		}
		if n := len(r.cache.entries); n > maxCached {
			t.Errorf("%d segments are kept", n)
		}
		r.Close()

		a = &listing{Lineage: l}
		lazy := lazyReader(p, nil, func(context.Context) (archive, error) { return a, nil })
		lazy.within = true
		must(t, lazy.Copy(t.Context(), "b1", 150, 350, io.Discard))
		time.Sleep(time.Hour)
		if n := a.reads.Load(); n != 3 {
			t.Errorf("a range of 3 segments read %d", n)
		}
		lazy.Close()
	})
}
