package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/blobtest/suite"
	. "github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

func memory() blob.Store {
	return file.New(crashfs.New(1, nil), "memory", file.Options{})
}

// with makes a store that holds "k" = "0123456789" and fails by rules.
func with(t *testing.T, rules ...Rule) (*Store, blob.Store) {
	t.Helper()
	inner := memory()
	if err := inner.Create(t.Context(), "k", []byte("0123456789"), blob.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return Wrap(inner, Script(rules...)), inner
}

func readAll(ctx context.Context, s blob.Store, off, n int64) (string, error) {
	r, err := s.Read(ctx, "k", off, n)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	return string(b), err
}

// TestTransparent: a plan without faults leaves a conforming store.
func TestTransparent(t *testing.T) {
	suite.Test(t, func(*testing.T) blob.Store { return Wrap(memory(), Script()) })
}

func TestCreateFaults(t *testing.T) {
	cases := []struct {
		kind   Kind
		stored bool
		is     error
	}{
		{Before, false, ErrInjected},
		{Lost, true, ErrInjected},
		{Full, false, syscall.ENOSPC},
	}
	for _, c := range cases {
		s, inner := with(t, Rule{Op: Create, Key: "new", Fault: Fault{Kind: c.kind}})
		err := s.Create(t.Context(), "new", []byte("x"), blob.CreateOptions{})
		if !errors.Is(err, c.is) || !errors.Is(err, ErrInjected) {
			t.Errorf("%s: got %v", c.kind, err)
		}
		if _, err := inner.Stat(t.Context(), "new"); (err == nil) != c.stored {
			t.Errorf("%s: stored: %v, want %v", c.kind, err == nil, c.stored)
		}
		err = s.Create(t.Context(), "new", []byte("x"), blob.CreateOptions{})
		if c.stored != errors.Is(err, blob.ErrExists) || !c.stored && err != nil {
			t.Errorf("%s: the retry got %v", c.kind, err)
		}
	}
}

func TestSwapFaults(t *testing.T) {
	for kind, stored := range map[Kind]bool{Before: false, Lost: true, Full: false} {
		s, inner := with(t, Rule{Op: Swap, Key: "m", Fault: Fault{Kind: kind}}, Rule{Op: ReadVersion, Fault: Fault{Kind: Before}})
		if _, err := s.Swap(t.Context(), "m", "", []byte("x")); !errors.Is(err, ErrInjected) {
			t.Errorf("%s: got %v", kind, err)
		}
		if _, err := inner.Stat(t.Context(), "m"); (err == nil) != stored {
			t.Errorf("%s: stored: %v, want %v", kind, err == nil, stored)
		}
		_, err := s.Swap(t.Context(), "m", "", []byte("x"))
		if stored != errors.Is(err, blob.ErrChanged) || !stored && err != nil {
			t.Errorf("%s: the retry got %v", kind, err)
		}
		if _, _, err := s.ReadVersion(t.Context(), "m"); !errors.Is(err, ErrInjected) {
			t.Errorf("%s: the read got %v", kind, err)
		}
		if body, v, err := s.ReadVersion(t.Context(), "m"); string(body) != "x" || v == "" || err != nil {
			t.Errorf("%s: the second read got %q, %q, %v", kind, body, v, err)
		}
	}
}

func TestReadFaults(t *testing.T) {
	cases := []struct {
		fault  Fault
		off, n int64
		want   string
		err    bool
	}{
		{Fault{Kind: Cut, At: 3}, 0, -1, "012", true},
		{Fault{Kind: Cut, At: 3}, 5, 4, "567", true},
		{Fault{Kind: Short, At: 4}, 0, -1, "0123", false},
		{Fault{Kind: Short, At: 14}, 0, -1, "0123", false}, // modulo 10
		{Fault{Kind: Short, At: 0}, 0, -1, "", false},
		{Fault{Kind: Flip, At: 2}, 0, -1, "016" + "3456789", false}, // '2' ^ 4
		{Fault{Kind: Flip, At: 0}, 9, -1, "8", false},               // '9' ^ 1
		{Fault{Kind: Flip, At: 0}, 10, -1, "", false},
		{Fault{Kind: Before}, 0, -1, "", true},
	}
	for _, c := range cases {
		s, _ := with(t, Rule{Op: Read, Fault: c.fault})
		got, err := readAll(t.Context(), s, c.off, c.n)
		if got != c.want || errors.Is(err, ErrInjected) != c.err || (err != nil) != c.err {
			t.Errorf("%+v: got %q, %v; want %q", c.fault, got, err, c.want)
		}
		if got, err := readAll(t.Context(), s, 0, -1); got != "0123456789" || err != nil {
			t.Errorf("%+v: the retry got %q, %v", c.fault, got, err)
		}
		if n := len(s.Injected()); n != 1 {
			t.Errorf("%+v: %d events", c.fault, n)
		}
	}
}

func TestListFaults(t *testing.T) {
	for kind, wantErr := range map[Kind]bool{Cut: true, Short: false} {
		s, inner := with(t, Rule{Op: List, Fault: Fault{Kind: kind, At: 1}})
		if err := inner.Create(t.Context(), "l", nil, blob.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		var got []string
		err := s.List(t.Context(), "", blob.ListOptions{}, func(o blob.Object) error {
			got = append(got, o.Key)
			return nil
		})
		if errors.Is(err, ErrInjected) != wantErr || !reflect.DeepEqual(got, []string{"k"}) {
			t.Errorf("%s: got %q, %v", kind, got, err)
		}
	}
}

func TestStalls(t *testing.T) {
	always := func(k Kind) Rule { return Rule{Times: -1, Fault: Fault{Kind: k, At: 2}} }
	s, inner := with(t, always(Stall))
	calls := map[Op]func(context.Context) error{
		Create: func(ctx context.Context) error { return s.Create(ctx, "new", nil, blob.CreateOptions{}) },
		Read:   func(ctx context.Context) error { _, err := s.Read(ctx, "k", 0, -1); return err },
		Stat:   func(ctx context.Context) error { _, err := s.Stat(ctx, "k"); return err },
		Delete: func(ctx context.Context) error { return s.Delete(ctx, "k") },
		Retain: func(ctx context.Context) error { return s.Retain(ctx, "k", time.Now().Add(time.Hour)) },
		Swap:   func(ctx context.Context) error { _, err := s.Swap(ctx, "new", "", nil); return err },
		ReadVersion: func(ctx context.Context) error {
			_, _, err := s.ReadVersion(ctx, "k")
			return err
		},
		List: func(ctx context.Context) error {
			return s.List(ctx, "", blob.ListOptions{}, func(blob.Object) error { return errors.New("listed") })
		},
	}
	for op, call := range calls {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel)
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", op, err)
		}
	}
	if err := inner.Delete(t.Context(), "k"); err != nil { // not deleted, not retained
		t.Error(err)
	}
	s, _ = with(t, always(StallBody))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Millisecond, cancel)
	if got, err := readAll(ctx, s, 0, -1); got != "01" || !errors.Is(err, context.Canceled) {
		t.Errorf("stalled body: got %q, %v", got, err)
	}
}

func TestScriptCounts(t *testing.T) {
	s, _ := with(t, Rule{Op: Stat, Key: "k", Skip: 1, Times: 2, Fault: Fault{Kind: Before, Err: io.ErrNoProgress}})
	var failed []bool
	for range 5 {
		_, err := s.Stat(t.Context(), "k")
		failed = append(failed, errors.Is(err, io.ErrNoProgress))
	}
	if want := []bool{false, true, true, false, false}; !reflect.DeepEqual(failed, want) {
		t.Errorf("failed: %v, want %v", failed, want)
	}
}

// TestSeeded: the same seed spoils the same calls however they are scheduled,
// another seed others, and about the share that was asked for.
func TestSeeded(t *testing.T) {
	run := func(seed uint64) map[Call]Fault {
		s := Wrap(memory(), Seeded(seed, 0.3))
		var wg sync.WaitGroup
		for i := range 10 {
			wg.Go(func() {
				key := fmt.Sprintf("k/%d", i)
				for range 10 {
					err := s.Create(t.Context(), key, bytes.Repeat([]byte("x"), 100), blob.CreateOptions{})
					if err != nil && !errors.Is(err, ErrInjected) && !errors.Is(err, blob.ErrExists) {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		hit := map[Call]Fault{}
		for _, e := range s.Injected() {
			hit[e.Call] = e.Fault
		}
		return hit
	}
	one := run(1)
	if again := run(1); !reflect.DeepEqual(one, again) {
		t.Error("the same seed made other faults")
	}
	if reflect.DeepEqual(one, run(2)) {
		t.Error("another seed made the same faults")
	}
	if len(one) < 10 || len(one) > 60 {
		t.Errorf("%d of 100 calls hit by a share of 0.3", len(one))
	}
}
