package wal

import (
	"reflect"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestSummary(t *testing.T) {
	l, _ := lineage(t)
	b1, b2 := branch(t, l, "b1", "", 0, 1), branch(t, l, "b2", "b1", 300, 2)
	for p := Position(0); p < 2000; p += 100 {
		if p != 500 {
			put(t, l, "b1", p, p+100, beat(int64(p/100), p+50))
		}
	}
	must(t, l.PutNote(t.Context(), repo.Note{Branch: "b1", SourceTime: at(2100), Event: "source-lost", Beats: []repo.Beat{beat(77, 2090)}}))
	got, err := Summary(t.Context(), l)
	must(t, err)
	last := beat(77, 2090)
	want := []BranchCoverage{
		{Branch: b1, Ranges: []Range{{"b1", 0, 500}, {"b1", 600, 2000}}, Segments: 19, Stored: got[0].Stored,
			FirstTime: at(0), LastTime: at(2000), SourceTime: at(2100), LastBeat: &last},
		{Branch: b2},
	}
	for i := range got {
		got[i].Branch.Recorded = time.Time{}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if got[0].Stored <= 1900 {
		t.Errorf("%d bytes stored", got[0].Stored)
	}
}

func TestNotedBeats(t *testing.T) {
	l, _ := lineage(t)
	branch(t, l, "b1", "", 0, 1)
	branch(t, l, "b2", "b1", 3000, 2)
	for p := Position(0); p < 4000; p += 100 {
		put(t, l, "b1", p, p+100, beat(int64(p/100)+1, p+100))
	}
	put(t, l, "b2", 3000, 3100, repo.Beat{N: 31, At: at(3090), Pos: 3090}, repo.Beat{N: 31, At: at(3090), Pos: 3090})
	must(t, l.PutNote(t.Context(), repo.Note{Branch: "b2", SourceTime: at(3300), Event: "shutdown", Beats: []repo.Beat{beat(32, 3200)}}))
	must(t, l.PutNote(t.Context(), repo.Note{Branch: "b1", SourceTime: at(9000), Event: "shutdown", Beats: []repo.Beat{beat(90, 9000)}}))
	beats, last, err := NotedBeats(t.Context(), l, []string{"b1", "b2"}, at(1500))
	must(t, err)
	var ns []int64
	for _, b := range beats {
		ns = append(ns, b.N)
	}
	var want []int64
	for n := int64(15); n <= 32; n++ { // what b1 wrote after b2 left it is not b2's history
		want = append(want, n)
	}
	if !reflect.DeepEqual(ns, want) || !last.Equal(at(3300)) {
		t.Errorf("beats %v, last seen %v", ns, last)
	}
}

// Of the segments that hold a plan's last byte, the nearest end tells its time.
func TestEndTime(t *testing.T) {
	l, _ := lineage(t)
	branch(t, l, "b1", "", 0, 1)
	put(t, l, "b1", 0, 100)
	put(t, l, "b1", 5, 10)
	x, err := NewIndex(t.Context(), l)
	must(t, err)
	for to, want := range map[Position]Position{10: 10, 0: 100, 4: 100} {
		p, err := x.Plan(t.Context(), "b1", 0, "b1", to)
		must(t, err)
		if end, err := x.EndTime(t.Context(), p); err != nil || !end.Equal(at(want)) {
			t.Errorf("plan to %d ends at %s, want %s (%v)", to, end, at(want), err)
		}
	}
}
