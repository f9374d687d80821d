// Package faulty wraps a blob.Store and makes it fail as stores do: before
// or after the work was done, by hanging, and in the middle of a body. It is
// for the tests of everything that stands on a store (repository, pipeline,
// archiver); it must not be linked into a product binary.
//
// Which call fails how is a Plan's to say (plan.go). What a crash of the
// machine does is crashfs's.
package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// ErrInjected is in the chain of every error made here, except those of an
// ended context.
var ErrInjected = errors.New("injected fault")

// Op names a method of blob.Store.
type Op string

const (
	Create Op = "create"
	Read   Op = "read"
	Stat   Op = "stat"
	List   Op = "list"
	Delete Op = "delete"
	Retain Op = "retain"
	Swap   Op = "swap"

	ReadVersion Op = "read-version"
)

// Kind is a way to fail.
type Kind string

const (
	None   Kind = ""
	Before Kind = "before" // an error; nothing was done
	Lost   Kind = "lost"   // it was done, and then an error: the reply was lost
	Stall  Kind = "stall"  // nothing happens until the context ends
	Full   Kind = "full"   // Before, with ENOSPC

	// In a Read's body, or (Cut, Short) in a List's entries:
	Cut       Kind = "cut"        // an error after At bytes or entries
	Short     Kind = "short"      // a clean end after At bytes or entries
	Flip      Kind = "flip"       // byte At of the range has one bit changed
	StallBody Kind = "stall-body" // At bytes, then nothing until the context ends
)

// Fault is what happens to one call.
type Fault struct {
	Kind Kind
	// At is a position in bytes from the start of the range read (taken
	// modulo its length, so that it always hits) or in entries listed.
	At int64
	// Err is joined to the error, where there is one: what the caller
	// would see of a real store.
	Err error
}

// Call is one call about to be made.
type Call struct {
	Op  Op
	Key string // or the prefix of a List
	N   int    // earlier calls of this Op with this Key
}

// Event is one fault that was injected.
type Event struct {
	Call  Call
	Fault Fault
}

// Store is a store with faults.
type Store struct {
	inner blob.Store
	plan  Plan

	mu     sync.Mutex
	counts map[Call]int // N of the key is 0
	events []Event
}

var _ blob.Store = (*Store)(nil)

// Wrap makes inner fail by plan.
func Wrap(inner blob.Store, plan Plan) *Store {
	return &Store{inner: inner, plan: plan, counts: map[Call]int{}}
}

// Injected returns the faults so far, in the order in which they were
// decided. A test that passes with none of its faults injected proves nothing.
func (s *Store) Injected() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Event(nil), s.events...)
}

// decide asks the plan about a call and records the answer.
func (s *Store) decide(op Op, key string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	call := Call{Op: op, Key: key}
	n := s.counts[call]
	s.counts[call] = n + 1
	call.N = n
	f := s.plan(call)
	if f.Kind != None {
		s.events = append(s.events, Event{Call: call, Fault: f})
	}
	return f
}

// around runs work with the faults that concern a whole call.
func (s *Store) around(ctx context.Context, op Op, key string, f Fault, work func() error) error {
	switch f.Kind {
	case Before:
		return failure(op, key, f)
	case Full:
		f.Err = errors.Join(syscall.ENOSPC, f.Err)
		return failure(op, key, f)
	case Stall:
		<-ctx.Done()
		return fmt.Errorf("%s %q: %w", op, key, ctx.Err())
	case Lost:
		if err := work(); err != nil {
			return err
		}
		return failure(op, key, f)
	}
	return work()
}

func failure(op Op, key string, f Fault) error {
	if f.Err != nil {
		return fmt.Errorf("%s %q: %w (%s): %w", op, key, ErrInjected, f.Kind, f.Err)
	}
	return fmt.Errorf("%s %q: %w (%s)", op, key, ErrInjected, f.Kind)
}

// Create implements blob.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte, opt blob.CreateOptions) error {
	return s.around(ctx, Create, key, s.decide(Create, key), func() error {
		return s.inner.Create(ctx, key, body, opt)
	})
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (o blob.Object, err error) {
	err = s.around(ctx, Stat, key, s.decide(Stat, key), func() (err error) {
		o, err = s.inner.Stat(ctx, key)
		return err
	})
	if err != nil {
		return blob.Object{}, err
	}
	return o, nil
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	return s.around(ctx, Delete, key, s.decide(Delete, key), func() error {
		return s.inner.Delete(ctx, key)
	})
}

// Retain implements blob.Store.
func (s *Store) Retain(ctx context.Context, key string, until time.Time) error {
	return s.around(ctx, Retain, key, s.decide(Retain, key), func() error {
		return s.inner.Retain(ctx, key, until)
	})
}

// Swap implements blob.Swapper.
func (s *Store) Swap(ctx context.Context, key string, old blob.Version, body []byte) (v blob.Version, err error) {
	err = s.around(ctx, Swap, key, s.decide(Swap, key), func() (err error) {
		v, err = s.inner.Swap(ctx, key, old, body)
		return err
	})
	if err != nil {
		return "", err
	}
	return v, nil
}

// ReadVersion implements blob.Swapper.
func (s *Store) ReadVersion(ctx context.Context, key string) (body []byte, v blob.Version, err error) {
	err = s.around(ctx, ReadVersion, key, s.decide(ReadVersion, key), func() (err error) {
		body, v, err = s.inner.ReadVersion(ctx, key)
		return err
	})
	if err != nil {
		return nil, "", err
	}
	return body, v, nil
}

// List implements blob.Store.
func (s *Store) List(ctx context.Context, prefix string, opt blob.ListOptions, fn func(blob.Object) error) error {
	f := s.decide(List, prefix)
	short := errors.New("the list ends here")
	left := f.At
	err := s.around(ctx, List, prefix, f, func() error {
		return s.inner.List(ctx, prefix, opt, func(o blob.Object) error {
			switch {
			case f.Kind == Cut && left == 0:
				return failure(List, prefix, f)
			case f.Kind == Short && left == 0:
				return short
			}
			left--
			return fn(o)
		})
	})
	if errors.Is(err, short) {
		return nil
	}
	return err
}

// Read implements blob.Store.
func (s *Store) Read(ctx context.Context, key string, off, n int64) (r io.ReadCloser, err error) {
	f := s.decide(Read, key)
	err = s.around(ctx, Read, key, f, func() (err error) {
		r, err = s.inner.Read(ctx, key, off, n)
		return err
	})
	if err != nil {
		if r != nil {
			err = errors.Join(err, r.Close())
		}
		return nil, err
	}
	switch f.Kind {
	case Cut, Short, Flip, StallBody:
		return s.spoil(ctx, key, off, n, f, r)
	}
	return r, nil
}

// Capabilities implements blob.Store.
func (s *Store) Capabilities() blob.Capabilities { return s.inner.Capabilities() }
