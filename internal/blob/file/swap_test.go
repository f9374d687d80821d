package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

const swapKey = "l/pg-1/lease.json"

// swapBody is long enough to be torn, and tells which state it is.
func swapBody(i int) []byte { return bytes.Repeat(fmt.Appendf(nil, "state %d\n", i), 100+37*i) }

// swaps takes the object through n states and returns how many were
// acknowledged.
func swaps(ctx context.Context, s *file.Store, n int) (acked int, err error) {
	v := blob.Version("")
	for i := range n {
		if v, err = s.Swap(ctx, swapKey, v, swapBody(i)); err != nil {
			return i, err
		}
	}
	return n, nil
}

// TestCrashAmidSwap crashes a life of swaps at every operation: afterwards
// the object is the last acknowledged one or the one under way, whole, and
// can be swapped again.
func TestCrashAmidSwap(t *testing.T) {
	const states = 4
	ctx := t.Context()
	dry := crashfs.New(0, atCrashClock)
	if n, err := swaps(ctx, overFS(dry), states); n != states || err != nil {
		t.Fatal(n, err)
	}
	if dry.Ops() < 20 {
		t.Fatalf("only %d operations", dry.Ops())
	}
	old, next := 0, 0
	for seed := range uint64(4 * crashSeeds) {
		for at := range dry.Ops() {
			disk := crashfs.New(seed, atCrashClock)
			disk.CrashAt(at)
			acked, err := swaps(ctx, overFS(disk), states)
			if !errors.Is(err, crashfs.ErrCrashed) {
				t.Fatalf("seed %d, crash at %d: %v", seed, at, err)
			}
			after := overFS(disk.Restart())
			got, v, err := after.ReadVersion(ctx, swapKey)
			switch {
			case errors.Is(err, blob.ErrNotFound) && acked == 0, err == nil && acked > 0 && bytes.Equal(got, swapBody(acked-1)):
				old++
			case err == nil && bytes.Equal(got, swapBody(acked)):
				next++
			default:
				t.Fatalf("seed %d, crash at %d, %d swaps acknowledged: %d bytes, %v", seed, at, acked, len(got), err)
			}
			if _, err := after.Swap(ctx, swapKey, v, swapBody(9)); err != nil {
				t.Fatalf("seed %d, crash at %d: the next swap: %v", seed, at, err)
			}
		}
	}
	if old == 0 || next == 0 {
		t.Fatalf("%d crashes left the old state and %d the new: the test does not reach both", old, next)
	}
}

// TestReadAmidSwap: at every operation of a swap a reader finds the old object
// or the new, whole; the new one only once, and never the old one after it.
func TestReadAmidSwap(t *testing.T) {
	disk := crashfs.New(1, atCrashClock)
	s := overFS(disk)
	last, looks := -1, 0
	disk.Hook(func(crashfs.Op) {
		got, _, err := overFS(disk).ReadVersion(t.Context(), swapKey)
		state := -1
		if err == nil {
			_, err = fmt.Sscanf(string(got), "state %d", &state)
		} else if errors.Is(err, blob.ErrNotFound) {
			err = nil
		}
		if err != nil || state >= 0 && !bytes.Equal(got, swapBody(state)) || state < last || state > last+1 {
			t.Errorf("after state %d: state %d, %d bytes, %v", last, state, len(got), err)
		}
		last = state
		looks++
	})
	if _, err := swaps(t.Context(), s, 3); err != nil {
		t.Fatal(err)
	}
	if looks < 15 || last != 2 {
		t.Fatalf("%d looks, the last at state %d", looks, last)
	}
}

// TestCreateAmidFirstSwap: whoever is first gets the key, the other is told,
// wherever the Create comes.
func TestCreateAmidFirstSwap(t *testing.T) {
	outcomes := map[string]int{}
	for enter := 0; ; enter++ {
		disk := crashfs.New(1, atCrashClock)
		var cerr error
		inside := false
		disk.Hook(func(op crashfs.Op) {
			if op.N == enter {
				inside = true
				cerr = overFS(disk).Create(t.Context(), swapKey, []byte("created"), blob.CreateOptions{})
			}
		})
		_, serr := overFS(disk).Swap(t.Context(), swapKey, "", []byte("swapped"))
		if !inside {
			break
		}
		want := "swapped"
		switch {
		case cerr == nil && errors.Is(serr, blob.ErrChanged):
			want = "created"
		case serr == nil && errors.Is(cerr, blob.ErrExists):
		default:
			t.Fatalf("at %d: create %v, swap %v", enter, cerr, serr)
		}
		outcomes[want]++
		if got, err := get(t.Context(), overFS(disk), swapKey); err != nil || string(got) != want {
			t.Fatalf("at %d: %q, %v; want %q", enter, got, err, want)
		}
	}
	if outcomes["created"] == 0 || outcomes["swapped"] == 0 {
		t.Fatalf("outcomes %v", outcomes)
	}
}

// TestSwapRetained: what must be kept is not replaced.
func TestSwapRetained(t *testing.T) {
	s, _, _ := retaining(t)
	opt := blob.CreateOptions{RetainUntil: crashClock.Add(time.Hour)}
	if err := s.Create(t.Context(), "o", []byte("kept"), opt); err != nil {
		t.Fatal(err)
	}
	_, v, err := s.ReadVersion(t.Context(), "o")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Swap(t.Context(), "o", v, []byte("other")); !errors.Is(err, blob.ErrRetained) {
		t.Fatal(err)
	}
	if got, err := get(t.Context(), s, "o"); err != nil || string(got) != "kept" {
		t.Fatalf("%q, %v", got, err)
	}
}

// TestSwapWaitsForLock: a lock that another process holds is waited for, and
// no longer than the context says.
func TestSwapWaitsForLock(t *testing.T) {
	disk := crashfs.New(1, atCrashClock)
	if err := disk.Mkdir(".swap", 0o700); err != nil {
		t.Fatal(err)
	}
	var unlock []func() error
	for i := range 16 {
		u, err := disk.Lock(fmt.Sprintf(".swap/%x", i))
		if err != nil {
			t.Fatal(err)
		}
		unlock = append(unlock, u)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := overFS(disk).Swap(ctx, swapKey, "", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, _, err := overFS(disk).ReadVersion(t.Context(), swapKey); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("a read waits for no lock: %v", err)
	}
	for _, u := range unlock {
		if err := u(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := overFS(disk).Swap(t.Context(), swapKey, "", nil); err != nil {
		t.Fatal(err)
	}
}

// count adds one to a number, countRounds times, by compare-and-swap.
func count(ctx context.Context, s *file.Store, id string) error {
	for done := 0; done < countRounds; {
		body, v, err := s.ReadVersion(ctx, swapKey)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return err
		}
		n, _, _ := strings.Cut(string(body), " ")
		sum, _ := strconv.Atoi(n) // 0 when there is none yet
		_, err = s.Swap(ctx, swapKey, v, fmt.Appendf(nil, "%d by %s", sum+1, id))
		switch {
		case err == nil:
			done++
		case !errors.Is(err, blob.ErrChanged):
			return err
		}
	}
	return nil
}

const countRounds = 40

// TestProcessesSwap: no process's addition is lost to another's.
func TestProcessesSwap(t *testing.T) {
	dir := t.TempDir()
	for id, said := range herd(t, "count", dir) {
		if said != "" {
			t.Errorf("process %d said %q", id, said)
		}
	}
	body, err := os.ReadFile(filepath.Join(dir, swapKey))
	if n, _, _ := strings.Cut(string(body), " "); err != nil || n != strconv.Itoa(processes*countRounds) {
		t.Fatalf("%q, %v; want %d", body, err, processes*countRounds)
	}
	noTemp(t, dir)
}
