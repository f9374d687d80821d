package spool

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// TestRoundTrip: everything comes back with its place, time and order, from
// frames of all sizes, encrypted or not.
func TestRoundTrip(t *testing.T) {
	for _, encrypted := range []bool{true, false} {
		disk, seal := crashfs.New(1, nil), lineage(t, encrypted)
		s := open(t, disk, seal, Options{Limit: 1 << 30})
		beat := repo.Beat{N: 9, At: epoch.Add(time.Microsecond), Pos: 1 << 63}
		must(t, s.Begin("b1", 1<<40))
		add(t, s, 1)
		must(t, s.Beat(beat))
		add(t, s, 5_000_000) // more than a batch, several frames
		must(t, s.Append(s.at.Pos, nil, time.Time{}))
		must(t, s.Begin("b2", 7))
		must(t, s.Append(7, text("b2", 7, 30), time.Time{}))
		must(t, s.Begin("b2", 17)) // again from earlier on
		must(t, s.Append(17, text("b2", 17, 40), epoch))
		must(t, s.Close())

		s = open(t, disk, seal, Options{Limit: 1 << 30})
		got, err := replay(t, s)
		want := []string{"b1 1099511627776-1099511627777", "beat 9", "b1 1099511627777-1099516627777", "b2 7-37", "b2 17-57"}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q, %v", got, err)
		}
		var pieces []Piece
		must(t, s.Replay(t.Context(), func(p Piece) error { pieces = append(pieces, p); return nil }))
		first, second, last := pieces[0], pieces[1], pieces[len(pieces)-1]
		if *second.Beat != beat || second.At != 1<<40+1 || second.Branch != "b1" {
			t.Errorf("%+v", second.Beat)
		}
		if !first.Sent.Equal(epoch.Add(time.Second)) || !last.Sent.Equal(epoch) || !pieces[len(pieces)-2].Sent.IsZero() {
			t.Errorf("sent %v, %v", first.Sent, last.Sent)
		}
		h := s.Held()
		if len(h.Ranges) != 3 || h.Beats != 1 || !h.Oldest.Equal(epoch) || !h.Newest.Equal(epoch.Add(3*time.Second)) || h.Durable != (Point{}) {
			t.Errorf("%+v", h)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Replay(ctx, func(Piece) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		if err := s.Replay(t.Context(), func(Piece) error { return errKilled }); !errors.Is(err, errKilled) {
			t.Errorf("fn's error: %v", err)
		}
	}
}

// TestOrder: what does not continue is refused, and takes nothing.
func TestOrder(t *testing.T) {
	s := open(t, crashfs.New(1, nil), lineage(t, true), small())
	if s.Append(0, []byte("x"), epoch) == nil || s.Beat(repo.Beat{}) == nil || s.Begin("", 0) == nil || s.Begin(strings.Repeat("b", 129), 0) == nil {
		t.Error("taken before Begin")
	}
	if p, err := s.Sync(); err != nil || p != (Point{}) {
		t.Errorf("nothing taken: %v, %v", p, err)
	}
	must(t, s.Begin("b", 10))
	if s.Append(11, []byte("x"), epoch) == nil || s.Append(9, []byte("x"), epoch) == nil {
		t.Error("a gap and an overlap are taken")
	}
	must(t, s.Append(10, text("b", 10, 3), epoch))
	if h := s.Held(); h.Durable != (Point{}) || len(h.Ranges) != 0 {
		t.Errorf("before Sync: %+v", h)
	}
	if p, err := s.Sync(); err != nil || p != (Point{Branch: "b", Pos: 13}) {
		t.Errorf("%v, %v", p, err)
	}
}

// TestBackPressure: what waits for a Sync is bounded.
func TestBackPressure(t *testing.T) {
	s := open(t, crashfs.New(1, nil), lineage(t, true), Options{Limit: 1 << 30})
	must(t, s.Begin("b", 0))
	for range 5 {
		must(t, s.Append(s.at.Pos, text("b", s.at.Pos, 1<<20), epoch))
	}
	if d := s.Held().Durable; d.Pos < 3<<20 || d.Pos > 4<<20 {
		t.Errorf("durable through %d", d.Pos)
	}
}

// TestRecords: frames that authenticate and make no sense.
func TestRecords(t *testing.T) {
	first, begin := appendFile([]byte{3}, link{}), appendBegin(nil, Point{Branch: "b", Pos: 5})
	whole := appendLog(slices.Concat(first, begin), []byte("log"), epoch)
	for what, c := range map[string]struct {
		plain []byte
		ok    bool
	}{
		"good":                    {whole, true},
		"begin alone":             {slices.Concat(first, begin), true},
		"no file record":          {append([]byte{3}, begin...), false},
		"two file records":        {appendFile(slices.Clone(whole), link{}), false},
		"no branch":               {appendLog(slices.Clone(first), []byte("log"), epoch), false},
		"an empty branch":         {appendBegin(slices.Clone(first), Point{Branch: "", Pos: 5}), false},
		"cut off":                 {whole[:len(whole)-1], false},
		"unknown":                 {append(slices.Clone(whole), 9), false},
		"a length beyond the end": {append(slices.Concat(first, begin), recLog, 0, 200, 1), false},
		"empty":                   {nil, false},
	} {
		d := &decoder{}
		back, err := d.frame(c.plain, func(Piece) error { return nil })
		if (err == nil) != c.ok || c.ok && back != 3 {
			t.Errorf("%s: %d, %v", what, back, err)
		}
	}
}

// TestCommitCost: a small commit is one write and one fsync, but for the
// first in a file.
func TestCommitCost(t *testing.T) {
	disk, ops := crashfs.New(1, nil), []string{}
	disk.Hook(func(op crashfs.Op) { ops = append(ops, op.Kind) })
	s := open(t, disk, lineage(t, true), Options{Limit: 1 << 30})
	must(t, s.Begin("b", 0))
	add(t, s, 300)
	grown := s.Held().Bytes
	ops = nil
	for range 100 {
		add(t, s, 300)
	}
	if len(ops) != 200 || ops[0] != "write" || ops[1] != "sync" || s.Held().Bytes != grown {
		t.Errorf("%d operations, %d bytes of %d", len(ops), s.Held().Bytes, grown)
	}
	ops = nil
	if _, err := s.Sync(); err != nil || len(ops) > 0 {
		t.Errorf("nothing new: %v, %v", ops, err)
	}
}

// TestGroupCommit: who comes while an fsync runs shares the next one, and
// nobody returns before what he appended is durable.
func TestGroupCommit(t *testing.T) {
	const callers = 40
	disk := crashfs.New(1, nil)
	started, gate := make(chan struct{}), make(chan struct{})
	syncs, first := 0, sync.Once{}
	slow := &faulty{disk, func(op string) error {
		if op == "datasync" {
			syncs++
			if syncs == 3 { // the header, Begin, and then
				first.Do(func() { close(started); <-gate })
			}
		}
		return nil
	}}
	s := open(t, slow, lineage(t, true), small())
	must(t, s.Begin("b", 0))
	if _, err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	next := Position(0)
	commit := func() {
		defer wg.Done()
		mu.Lock()
		err := s.Append(next, text("b", next, 10), epoch)
		next += 10
		mine := next
		mu.Unlock()
		if err != nil {
			t.Error(err)
		}
		if p, err := s.Sync(); err != nil || p.Pos < mine {
			t.Errorf("%v, %v; mine ends at %d", p, err, mine)
		}
	}
	wg.Add(callers)
	go commit()
	<-started
	for range callers - 1 {
		go commit()
	}
	for taken := uint64(0); taken < callers+1; { // Begin and theirs
		s.mu.Lock()
		taken = s.taken
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	close(gate)
	wg.Wait()
	if syncs != 4 {
		t.Errorf("%d fsyncs for %d callers", syncs-2, callers)
	}
}

// TestFull: nothing passes the limit, what is refused is not taken, and Trim
// makes room.
func TestFull(t *testing.T) {
	disk := crashfs.New(1, nil)
	s := open(t, disk, lineage(t, true), small())
	must(t, s.Begin("b", 0))
	var err error
	for _, n := range []int{1000, 1} {
		for err = nil; err == nil; {
			if err = s.Append(s.at.Pos, text("b", s.at.Pos, n), epoch); err == nil {
				_, err = s.Sync()
			}
		}
	}
	if !errors.Is(err, ErrFull) || hferr.HintOf(err) == "" || !errors.Is(s.Begin("c", 0), ErrFull) || !errors.Is(s.Beat(repo.Beat{}), ErrFull) {
		t.Fatalf("%v", err)
	}
	full := s.Held()
	if full.Bytes > full.Limit || full.Bytes < full.Limit*9/10 {
		t.Errorf("full with %d bytes of %d", full.Bytes, full.Limit)
	}
	if err := s.Append(s.at.Pos, make([]byte, 1<<20), epoch); !errors.Is(err, ErrFull) {
		t.Errorf("more than the limit: %v", err)
	}
	must(t, s.Trim("b", s.at.Pos/2))
	add(t, s, 10)
	kill(s)
	s = open(t, disk, lineage(t, true), small())
	if len(s.files) == 0 {
		t.Error("nothing left")
	}
}

// TestFailureIsFinal: a kernel that reports a failed write or fsync once, and
// success from then on, gets no second chance.
func TestFailureIsFinal(t *testing.T) {
	errDisk := errors.New("disk")
	seal := lineage(t, true)
	for _, op := range []string{"write", "datasync", "create", "rename", "syncdir"} {
		disk, once := crashfs.New(1, nil), false
		bad := &faulty{disk, func(string) error { return nil }}
		s := open(t, bad, seal, small())
		must(t, s.Begin("b", 0))
		add(t, s, 100)
		durable := s.at
		bad.fail = func(was string) error {
			if was == op && !once {
				once = true
				return errDisk
			}
			return nil
		}
		var err error
		var p Point
		for err == nil { // up to a new file
			must(t, s.Append(s.at.Pos, text("b", s.at.Pos, 1000), epoch))
			if p, err = s.Sync(); err == nil {
				durable = s.at
			}
		}
		if !errors.Is(err, ErrFailed) || !errors.Is(err, errDisk) || hferr.HintOf(err) == "" || p != durable {
			t.Errorf("%s: %v at %v", op, err, p)
		}
		if _, err := s.Sync(); !errors.Is(err, ErrFailed) || !errors.Is(s.Append(s.at.Pos, nil, epoch), ErrFailed) ||
			!errors.Is(s.Beat(repo.Beat{}), ErrFailed) || !errors.Is(s.Trim("b", 0), ErrFailed) || !errors.Is(s.Held().Err, ErrFailed) {
			t.Errorf("%s, again: %v", op, err)
		}
		if err := s.Close(); !errors.Is(err, ErrFailed) {
			t.Errorf("%s, Close: %v", op, err)
		}
		s = open(t, disk.Restart(), seal, small())
		if got, err := replay(t, s); err != nil || len(got) != 1 || s.files[len(s.files)-1].facts.need["b"] < durable.Pos {
			t.Errorf("%s, restarted: %q, %v", op, got, err)
		}
	}
}
