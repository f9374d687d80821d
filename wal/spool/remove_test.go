package spool

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// fill makes files of some 8 KiB of branch b, from position 0 on.
func fill(t testing.TB, s *Spool, files int) {
	t.Helper()
	must(t, s.Begin("b", 0))
	for len(s.files) < files {
		add(t, s, 1000)
	}
}

// TestTrim: a file goes when the store holds all of it and of the older ones,
// and heartbeats go later than the log before them.
func TestTrim(t *testing.T) {
	disk, seal := crashfs.New(1, nil), lineage(t, true)
	s := open(t, disk, seal, small())
	fill(t, s, 4)
	ends := []Position{}
	for _, f := range s.files {
		ends = append(ends, f.facts.ranges[0].End)
	}
	held := func(want ...int) {
		t.Helper()
		got := []int{}
		for name := range names(t, disk) {
			var n int
			if _, err := fmt.Sscanf(name, "pg-7.%x.spool", &n); err == nil {
				got = append(got, n)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatalf("files %v, want %v", got, want)
		}
	}
	must(t, s.Trim("other", 1<<40))
	must(t, s.Trim("b", ends[0]-1))
	held(1, 2, 3, 4)
	must(t, s.Trim("b", ends[1]))
	must(t, s.Trim("b", 1))
	held(3, 4)
	if h := s.Held(); len(h.Ranges) != 1 || h.Ranges[0] != (Range{"b", ends[1], s.at.Pos}) || h.Bytes > 3*(8<<10) {
		t.Errorf("held: %+v", h)
	}
	must(t, s.Beat(repo.Beat{N: 7, At: epoch, Pos: s.at.Pos}))
	beatAt := s.at.Pos
	for len(s.files) < 4 {
		add(t, s, 1000)
	}
	must(t, s.Begin("c", 5))
	add(t, s, 100)
	held(3, 4, 5, 6)
	must(t, s.Trim("b", s.files[1].facts.ranges[0].Start))
	held(4, 5, 6)
	must(t, s.Trim("b", beatAt)) // file 4 also holds the beat
	held(4, 5, 6)
	must(t, s.Trim("b", 1<<40))
	held(6)
	must(t, s.Trim("c", 1<<40))
	held(6)
	must(t, s.Close())
	held()
	if _, err := s.Sync(); !errors.Is(err, ErrClosed) || !errors.Is(s.Close(), ErrClosed) || !errors.Is(s.Append(1, nil, epoch), ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// TestBeatOnIdleLog: a heartbeat behind the last log is not in the segment
// that holds that log.
func TestBeatOnIdleLog(t *testing.T) {
	disk, seal := crashfs.New(1, nil), lineage(t, true)
	s := open(t, disk, seal, small())
	must(t, s.Begin("b", 0))
	add(t, s, 100)
	must(t, s.Beat(repo.Beat{N: 3, At: epoch, Pos: 100}))
	must(t, s.Trim("b", 100))
	must(t, s.Close())
	s = open(t, disk, seal, small())
	if got, err := replay(t, s); err != nil || !slices.Equal(got, []string{"b 0-100", "beat 3"}) {
		t.Errorf("%q, %v", got, err)
	}
	if h := s.Held(); h.Beats != 1 || !h.Oldest.Equal(h.Newest) || h.Oldest.IsZero() {
		t.Errorf("%+v", h)
	}
}

// TestKilledWhileRemoving: a process that is killed before a removal is
// durable, and a crash during the next one's removals, look like no damage.
func TestKilledWhileRemoving(t *testing.T) {
	seal := lineage(t, true)
	for seed := range uint64(60) {
		disk := crashfs.New(seed, nil)
		s := open(t, disk, seal, small())
		fill(t, s, 5)
		kill(s)
		doomed := &faulty{disk, func(string) error { return nil }}
		s = open(t, doomed, seal, small())
		unlinked := false
		doomed.fail = func(op string) error {
			if unlinked {
				return errKilled
			}
			unlinked = op == "unlink"
			return nil
		}
		if err := s.Forget(); !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
		kill(s)
		s = open(t, disk, seal, small())
		disk.CrashAt(disk.Ops() + 1)
		if err := s.Forget(); !errors.Is(err, crashfs.ErrCrashed) {
			t.Fatal(err)
		}
		s = open(t, disk.Restart(), seal, small())
		if d := s.Held().Damage; d != nil {
			t.Fatalf("seed %d: %v", seed, d)
		}
		if got, err := replay(t, s); err != nil || len(got) != 1 {
			t.Fatalf("seed %d: %q, %v", seed, got, err)
		}
	}
}

// TestRemoveFails: what cannot be removed stays, and is no failure; a removal
// that may not be durable is.
func TestRemoveFails(t *testing.T) {
	errDisk := errors.New("disk")
	for op, final := range map[string]bool{"unlink": false, "syncdir": true} {
		disk := &faulty{crashfs.New(1, nil), func(string) error { return nil }}
		s := open(t, disk, lineage(t, true), small())
		fill(t, s, 4)
		disk.fail = func(was string) error {
			if was == op {
				return errDisk
			}
			return nil
		}
		if err := s.Trim("b", s.at.Pos); !errors.Is(err, errDisk) || errors.Is(err, ErrFailed) != final {
			t.Errorf("%s: %v", op, err)
		}
		disk.fail = func(string) error { return nil }
		if err := s.Trim("b", s.at.Pos); (err != nil) != final {
			t.Errorf("%s, later: %v", op, err)
		}
	}
}
