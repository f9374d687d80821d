package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

// crashSeeds is how many different crashes are tried at each operation.
const crashSeeds = 15

var crashClock = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func atCrashClock() time.Time { return crashClock }

func overFS(f *crashfs.FS) *file.Store {
	return file.New(f, "crashfs", file.Options{Clock: atCrashClock})
}

// promise is what a store has said about one key.
type promise int

const (
	nothing promise = iota
	present         // Create returned nil or ErrExists
	absent          // Delete returned nil
)

// ledger records promises, and every body ever offered for a key.
type ledger struct {
	said     map[string]promise
	body     map[string][]byte // of a Create that returned nil
	offered  map[string][][]byte
	retained map[string]bool
}

func newLedger() *ledger {
	return &ledger{
		said: map[string]promise{}, body: map[string][]byte{},
		offered: map[string][][]byte{}, retained: map[string]bool{},
	}
}

func (l *ledger) create(ctx context.Context, s *file.Store, key string, body []byte, opt blob.CreateOptions) error {
	l.offered[key] = append(l.offered[key], body)
	if l.said[key] == absent {
		l.said[key] = nothing
	}
	err := s.Create(ctx, key, body, opt)
	switch {
	case err == nil:
		l.said[key], l.body[key] = present, body
		l.retained[key] = !opt.RetainUntil.IsZero()
	case errors.Is(err, blob.ErrExists):
		l.said[key] = present
	}
	return err
}

func (l *ledger) delete(ctx context.Context, s *file.Store, key string) error {
	if !l.retained[key] {
		l.said[key] = nothing
		delete(l.body, key)
	}
	err := s.Delete(ctx, key)
	if err == nil {
		l.said[key] = absent
	}
	return err
}

// check holds a restarted store to its promises.
func (l *ledger) check(ctx context.Context, s *file.Store) error {
	seen := map[string]bool{}
	err := s.List(ctx, "", blob.ListOptions{}, func(o blob.Object) error {
		seen[o.Key] = true
		got, err := get(ctx, s, o.Key)
		if err != nil {
			return err
		}
		for _, body := range l.offered[o.Key] {
			if bytes.Equal(body, got) {
				return nil
			}
		}
		return fmt.Errorf("torn: %q holds %d bytes that nobody offered whole", o.Key, len(got))
	})
	if err != nil {
		return err
	}
	for key, p := range l.said {
		if p == present && !seen[key] {
			return fmt.Errorf("lost: %q", key)
		}
		if p == absent && seen[key] {
			return fmt.Errorf("undead: %q", key)
		}
		if body, ok := l.body[key]; ok {
			if got, err := get(ctx, s, key); err != nil || !bytes.Equal(got, body) {
				return fmt.Errorf("%q does not hold what was stored: %v", key, err)
			}
		}
		if l.retained[key] && !errors.Is(s.Delete(ctx, key), blob.ErrRetained) {
			return fmt.Errorf("the retention of %q is lost", key)
		}
	}
	return nil
}

func get(ctx context.Context, s blob.Store, key string) ([]byte, error) {
	r, err := s.Read(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return body, errors.Join(err, r.Close())
}

// life is what one process does until the crash: new directories, old ones,
// conflicts, deletions that empty directories, creation again, retention.
func life(ctx context.Context, s *file.Store, l *ledger) error {
	plain := blob.CreateOptions{}
	tomorrow := crashClock.Add(24 * time.Hour)
	step := func(err error, allowed ...error) error {
		for _, a := range allowed {
			if errors.Is(err, a) {
				return nil
			}
		}
		return err
	}
	retain := func(key string) error {
		err := s.Retain(ctx, key, tomorrow)
		if err == nil {
			l.retained[key] = true
		}
		return err
	}
	for _, do := range []func() error{
		func() error { return l.create(ctx, s, "top", []byte("top"), plain) },
		func() error { return l.create(ctx, s, "a/b/one", bytes.Repeat([]byte("1"), 3000), plain) },
		func() error { return l.create(ctx, s, "a/b/two", nil, plain) },
		func() error { return step(l.create(ctx, s, "a/b/one", []byte("other"), plain), blob.ErrExists) },
		func() error { return l.delete(ctx, s, "a/b/two") },
		func() error { return l.delete(ctx, s, "a/b/one") },
		func() error { return l.create(ctx, s, "a/b/one", []byte("again"), plain) },
		func() error {
			return l.create(ctx, s, "r/kept", []byte("kept"), blob.CreateOptions{RetainUntil: tomorrow})
		},
		func() error { return step(l.delete(ctx, s, "r/kept"), blob.ErrRetained) },
		func() error { return retain("top") },
		func() error { return l.create(ctx, s, "a/c/three", []byte("333"), plain) },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// TestCrashAnywhere crashes one life at every operation, in many ways.
func TestCrashAnywhere(t *testing.T) {
	ctx := t.Context()
	dry := crashfs.New(0, atCrashClock)
	if err := life(ctx, overFS(dry), newLedger()); err != nil {
		t.Fatal(err)
	}
	if dry.Ops() < 50 {
		t.Fatalf("only %d operations in a life", dry.Ops())
	}
	for seed := range uint64(crashSeeds) {
		for at := 0; at <= dry.Ops(); at++ {
			disk := crashfs.New(seed, atCrashClock)
			disk.CrashAt(at)
			l := newLedger()
			err := life(ctx, overFS(disk), l)
			if at < dry.Ops() && !errors.Is(err, crashfs.ErrCrashed) {
				t.Fatalf("seed %d, crash at %d: %v", seed, at, err)
			}
			after := overFS(disk.Restart())
			if err := l.check(ctx, after); err != nil {
				t.Fatalf("seed %d, crash at %d: %v", seed, at, err)
			}
			// The next life must find a store that works.
			for key := range l.offered {
				if err := l.create(ctx, after, key, []byte("later"), blob.CreateOptions{}); err != nil && !errors.Is(err, blob.ErrExists) {
					t.Fatalf("seed %d, crash at %d: after it: %v", seed, at, err)
				}
			}
			if err := l.check(ctx, after); err != nil {
				t.Fatalf("seed %d, crash at %d: after the next life: %v", seed, at, err)
			}
		}
	}
}

// TestCrashBetweenProcesses lets a second process act at every operation of
// the first, and then crashes the machine at every later one. What either was
// told must hold, also where it relied on what the other had not synced yet.
func TestCrashBetweenProcesses(t *testing.T) {
	ctx := t.Context()
	const key, sibling = "x/y/z/key", "x/y/z/sibling"
	plain := blob.CreateOptions{}
	others := map[string]func(*file.Store, *ledger) error{
		"the same key": func(s *file.Store, l *ledger) error {
			return l.create(ctx, s, key, []byte("second"), plain)
		},
		"a sibling": func(s *file.Store, l *ledger) error {
			return l.create(ctx, s, sibling, []byte("sibling"), plain)
		},
		"a sibling, deleted": func(s *file.Store, l *ledger) error {
			if err := l.create(ctx, s, sibling, []byte("sibling"), plain); err != nil {
				return err
			}
			return l.delete(ctx, s, sibling)
		},
	}
	for name, other := range others {
		t.Run(name, func(t *testing.T) {
			interleave(t, func(s *file.Store, l *ledger) error {
				return l.create(ctx, s, key, []byte("first"), plain)
			}, other)
		})
	}
}

// interleave runs second at each operation of first, and a crash at each
// operation after that.
func interleave(t *testing.T, first, second func(*file.Store, *ledger) error) {
	t.Helper()
	run := func(seed uint64, enter, crash int) (inside bool, ops int) {
		disk, l := crashfs.New(seed, atCrashClock), newLedger()
		disk.Hook(func(op crashfs.Op) {
			if op.N == enter && !inside {
				inside = true
				if err := second(overFS(disk), l); err != nil && !errors.Is(err, blob.ErrExists) {
					t.Fatalf("second process at %d: %v", enter, err)
				}
				disk.CrashAt(disk.Ops() + crash)
			}
		})
		err := first(overFS(disk), l)
		if err != nil && !errors.Is(err, blob.ErrExists) && !errors.Is(err, crashfs.ErrCrashed) {
			t.Fatalf("first process, second at %d: %v", enter, err)
		}
		ops = disk.Ops()
		if err := l.check(t.Context(), overFS(disk.Restart())); err != nil {
			t.Fatalf("seed %d, second process at %d, crash %d later: %v", seed, enter, crash, err)
		}
		return inside, ops
	}
	for enter := 0; ; enter++ {
		inside, ops := run(0, enter, 1<<20)
		if !inside {
			if enter < 8 {
				t.Fatalf("the first process made only %d operations", enter)
			}
			return
		}
		for crash := range ops {
			for seed := range uint64(crashSeeds) {
				run(seed, enter, crash)
			}
		}
	}
}

// TestFullDiskFake: writes that do not fit leave nothing behind, whatever the
// place where the space ends.
func TestFullDiskFake(t *testing.T) {
	for free := int64(0); free < 40; free++ {
		disk, l := crashfs.New(uint64(free), atCrashClock), newLedger()
		s := overFS(disk)
		disk.SetFree(free)
		fillUp(t, s, l, 10)
		disk.SetFree(-1)
		if err := l.create(t.Context(), s, "d/after", []byte("space again"), blob.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := l.check(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}
