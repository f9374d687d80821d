package repo

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

func testSegment(start, end Position) *SegmentMeta {
	return &SegmentMeta{
		Branch: "b1", Start: start, End: end, PrevEnd: start, PrevHash: "aa", Reason: "time",
		FirstTime: testTime, LastTime: testTime.Add(time.Second), SourceTime: testTime, Sealed: testTime,
		Beats: []Beat{{N: 1, At: testTime, Pos: start}},
	}
}

func TestSegmentRoundTrip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := makeLin(t, newStore())
	at := Position(0x100)
	var want []SegmentRef
	for i, n := range []int{0, 1, FrameSize, FrameSize + 1, 3*FrameSize + 17} {
		data := noise(uint64(i), n)
		m := testSegment(at, at+Position(n)+1)
		if i == 3 { // metadata longer than ReadSegmentMeta guesses, and hard to compress
			for k := range 3000 {
				m.Beats = append(m.Beats, Beat{N: int64(k), At: testTime, Pos: Position(k * k * 7919 * k)})
			}
		}
		if err := l.PutSegment(ctx, m, data); err != nil {
			t.Fatal(err)
		}
		ref := SegmentRef{Branch: "b1", Start: m.Start, End: m.End}
		got, body, err := l.ReadSegment(ctx, ref)
		if err != nil || !bytes.Equal(body, data) || !reflect.DeepEqual(got, m) {
			t.Fatalf("segment of %d bytes: %d bytes, %+v, %v", n, len(body), got, err)
		}
		if got, err = l.ReadSegmentMeta(ctx, ref); err != nil || !reflect.DeepEqual(got, m) {
			t.Fatalf("metadata: %+v, %v", got, err)
		}
		want = append(want, ref)
		at = m.End
	}
	refs, err := l.Segments(ctx, "b1", 0)
	if err != nil || len(refs) != len(want) {
		t.Fatalf("%d segments, %v", len(refs), err)
	}
	for i, ref := range refs {
		if ref.Stored <= 0 {
			t.Errorf("segment %d has no size", i)
		}
		ref.Stored = 0
		if ref != want[i] {
			t.Errorf("segment %d: %+v, want %+v", i, ref, want[i])
		}
	}
	if refs, err = l.Segments(ctx, "b1", want[2].End); err != nil || len(refs) != 2 || refs[0].Start != want[3].Start {
		t.Errorf("from the third one's end: %+v, %v", refs, err)
	}
	if refs, err = l.Segments(ctx, "b1", want[2].End-1); err != nil || len(refs) != 3 {
		t.Errorf("from inside the third: %+v, %v", refs, err)
	}
	if refs, err = l.Segments(ctx, "none", 0); err != nil || len(refs) != 0 {
		t.Errorf("a branch without log: %+v, %v", refs, err)
	}
	if _, _, err := l.ReadSegment(ctx, SegmentRef{Branch: "b1", Start: 1, End: 2}); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing segment: %v", err)
	}
}

func TestSegmentConflicts(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	mem := newStore()
	l := makeLin(t, faulty.Wrap(mem, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/log/", Fault: faulty.Fault{Kind: faulty.Lost}})))
	data := text(100)
	if err := l.PutSegment(ctx, testSegment(0, 100), data); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	later := testSegment(0, 100)
	later.Sealed, later.Beats = testTime.Add(time.Hour), nil // a retry after a restart
	if err := l.PutSegment(ctx, later, data); err != nil {
		t.Fatalf("retry: %v", err)
	}
	if err := l.PutSegment(ctx, testSegment(0, 100), noise(1, 100)); !errors.Is(err, ErrFork) {
		t.Fatalf("other log in the same place: %v", err)
	}
	key := segmentKey("pg-7", SegmentRef{Branch: "b1", End: 100})
	mem.Put(key, mem.Bytes(key)[:70])
	if err := l.PutSegment(ctx, testSegment(0, 100), data); !errors.Is(err, ErrFork) || !errors.Is(err, ErrDamaged) {
		t.Fatalf("a torn object in that place: %v", err)
	}
	for _, m := range []*SegmentMeta{testSegment(5, 5), testSegment(6, 5), {Branch: "a/b", End: 1}, {Branch: "", End: 1}} {
		if err := l.PutSegment(ctx, m, nil); err == nil {
			t.Errorf("[%d, %d) on %q was stored", m.Start, m.End, m.Branch)
		}
	}
	mem.Put(logPrefix("pg-7", "b1")+"0/strange", []byte("x"))
	if _, err := l.Segments(ctx, "b1", 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("a strange key among the segments: %v", err)
	}
}

func TestBranches(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := makeLin(t, faulty.Wrap(newStore(), faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/branch/", Fault: faulty.Fault{Kind: faulty.Lost}})))
	b := Branch{ID: "t2", Parent: "t1", Fork: 0x500, Number: 2, Proof: map[string]string{"history": "h"}, Recorded: testTime}
	if err := l.PutBranch(ctx, b); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	again := b
	again.Recorded = testTime.Add(time.Hour)
	if err := l.PutBranch(ctx, again); err != nil {
		t.Fatalf("retry: %v", err)
	}
	for name, change := range map[string]func(*Branch){
		"fork":   func(b *Branch) { b.Fork++ },
		"parent": func(b *Branch) { b.Parent = "t0" },
		"proof":  func(b *Branch) { b.Proof = map[string]string{"history": "other"} },
		"number": func(b *Branch) { b.Number++ },
	} {
		other := b
		change(&other)
		if err := l.PutBranch(ctx, other); !errors.Is(err, ErrFork) {
			t.Errorf("another %s: %v", name, err)
		}
	}
	if err := l.PutBranch(ctx, Branch{ID: "t1", Number: 1}); err != nil {
		t.Fatal(err)
	}
	if err := l.PutBranch(ctx, Branch{ID: "t1", Number: 1, Proof: map[string]string{}}); err != nil {
		t.Errorf("an empty proof for none: %v", err)
	}
	all, err := l.Branches(ctx)
	if err != nil || len(all) != 2 || all[0].ID != "t1" || !reflect.DeepEqual(all[1], b) {
		t.Fatalf("%+v, %v", all, err)
	}
}

func TestNotesAndRecords(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := makeLin(t, faulty.Wrap(newStore(), faulty.Script(
		faulty.Rule{Op: faulty.Create, Key: "/note/", Fault: faulty.Fault{Kind: faulty.Lost}},
		faulty.Rule{Op: faulty.Create, Key: "/record/", Fault: faulty.Fault{Kind: faulty.Lost}})))
	late := Note{Branch: "b1", Written: testTime.Add(time.Minute), Event: "source-lost", Beats: []Beat{{N: 4, At: testTime, Pos: 9}}}
	early := Note{Branch: "b1", Written: testTime, Event: "shutdown"}
	if err := l.PutNote(ctx, late); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	for _, n := range []Note{late, early} {
		if err := l.PutNote(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	notes, err := l.Notes(ctx)
	if err != nil || !reflect.DeepEqual(notes, []Note{early, late}) {
		t.Fatalf("%+v, %v", notes, err)
	}
	body := []byte(`{ "verdict": "pass", "html": "<b>" }`)
	if err := l.PutRecord(ctx, "20261122T1-x", body); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	if err := l.PutRecord(ctx, "20261122T1-x", body); err != nil {
		t.Fatalf("retry: %v", err)
	}
	if err := l.PutRecord(ctx, "20261122T1-x", []byte(`{"verdict":"fail"}`)); !errors.Is(err, ErrExists) {
		t.Fatalf("another record of that id: %v", err)
	}
	if err := l.PutRecord(ctx, "bad", []byte("{")); err == nil {
		t.Error("broken JSON was stored")
	}
	records, err := l.Records(ctx)
	if err != nil || len(records) != 1 || records[0].ID != "20261122T1-x" || !bytes.Contains(records[0].Body, []byte(`"verdict":"pass"`)) {
		t.Fatalf("%s, %v", records, err)
	}
}
