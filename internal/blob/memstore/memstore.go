// Package memstore is an object store in memory, for tests of what stands on
// a Store: exact, fast, and with a back door (Put, Bytes) to damage objects
// the way a bad disk would. It keeps nothing and models no failure of its own
// (faulty does that).
package memstore

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// Store is a blob.Store. Safe for concurrent use.
type Store struct {
	clock func() time.Time

	mu      sync.Mutex
	objects map[string]object
	states  uint64 // counts every state of every object
}

type object struct {
	body     []byte
	modified time.Time
	retained time.Time
	state    uint64 // never the same twice: the strictest Version there can be
}

// New returns an empty store; clock gives modification times.
func New(clock func() time.Time) *Store {
	return &Store{clock: clock, objects: map[string]object{}}
}

// Put sets an object's bytes, whatever was there: damage, for tests.
func (s *Store) Put(key string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(key, body, time.Time{})
}

// set puts an object into a new state, under the lock.
func (s *Store) set(key string, body []byte, retained time.Time) {
	s.states++
	s.objects[key] = object{body: bytes.Clone(body), modified: s.clock(), retained: retained, state: s.states}
}

// Bytes returns a copy of an object's bytes, nil if there is none.
func (s *Store) Bytes(key string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.objects[key].body)
}

// Keys returns all keys in order.
func (s *Store) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

// Create: see blob.Store.
func (s *Store) Create(ctx context.Context, key string, body []byte, opt blob.CreateOptions) error {
	if err := guard(ctx, blob.CheckKey(key)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[key]; ok {
		return fmt.Errorf("create %s: %w", key, blob.ErrExists)
	}
	s.set(key, body, opt.RetainUntil)
	return nil
}

// Swap: see blob.Swapper.
func (s *Store) Swap(ctx context.Context, key string, old blob.Version, body []byte) (blob.Version, error) {
	if err := guard(ctx, blob.CheckSwap(key, body)); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if ok != (old != "") || ok && o.version() != old {
		return "", fmt.Errorf("swap %s: %w", key, blob.ErrChanged)
	}
	if o.retained.After(s.clock()) {
		return "", fmt.Errorf("swap %s: %w", key, blob.ErrRetained)
	}
	s.set(key, body, time.Time{})
	return s.objects[key].version(), nil
}

func (o object) version() blob.Version { return blob.Version(strconv.FormatUint(o.state, 10)) }

// ReadVersion: see blob.Swapper.
func (s *Store) ReadVersion(ctx context.Context, key string) ([]byte, blob.Version, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, "", err
	}
	if len(o.body) > blob.MaxSwap {
		return nil, "", fmt.Errorf("read %s: longer than the %d bytes of a mutable object", key, blob.MaxSwap)
	}
	return bytes.Clone(o.body), o.version(), nil
}

// Read: see blob.Store.
func (s *Store) Read(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, fmt.Errorf("read %s: negative offset %d", key, off)
	}
	body := o.body[min(off, int64(len(o.body))):]
	if n >= 0 {
		body = body[:min(n, int64(len(body)))]
	}
	return &reader{ctx: ctx, r: bytes.NewReader(body)}, nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   *bytes.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

func (r *reader) Close() error { return nil }

// Stat: see blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Object, error) {
	o, err := s.get(ctx, key)
	if err != nil {
		return blob.Object{}, err
	}
	return blob.Object{Key: key, Size: int64(len(o.body)), Modified: o.modified}, nil
}

func (s *Store) get(ctx context.Context, key string) (object, error) {
	if err := guard(ctx, blob.CheckKey(key)); err != nil {
		return object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o, ok := s.objects[key]
	if !ok {
		return object{}, fmt.Errorf("%s: %w", key, blob.ErrNotFound)
	}
	return o, nil
}

// List: see blob.Store. It shows the objects there were when it began.
func (s *Store) List(ctx context.Context, prefix string, opt blob.ListOptions, fn func(blob.Object) error) error {
	if err := guard(ctx, blob.CheckPrefix(prefix)); err != nil {
		return err
	}
	for _, o := range s.listing(prefix, opt) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) listing(prefix string, opt blob.ListOptions) []blob.Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []blob.Object
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		rest, ok := strings.CutPrefix(key, prefix)
		if !ok {
			continue
		}
		o := blob.Object{Key: key, Size: int64(len(s.objects[key].body)), Modified: s.objects[key].modified}
		if dir, _, deeper := strings.Cut(rest, "/"); opt.Dirs && deeper {
			o = blob.Object{Key: prefix + dir + "/", Dir: true}
		}
		if o.Key <= opt.After || len(out) > 0 && out[len(out)-1].Key == o.Key {
			continue
		}
		out = append(out, o)
	}
	// "a-" sorts before "a/", and a directory stands for all keys below it.
	slices.SortFunc(out, func(a, b blob.Object) int { return strings.Compare(a.Key, b.Key) })
	return out
}

// Delete: see blob.Store.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := guard(ctx, blob.CheckKey(key)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[key].retained.After(s.clock()) {
		return fmt.Errorf("delete %s: %w", key, blob.ErrRetained)
	}
	delete(s.objects, key)
	return nil
}

// Retain: see blob.Store.
func (s *Store) Retain(ctx context.Context, key string, until time.Time) error {
	o, err := s.get(ctx, key)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if until.After(o.retained) {
		o.retained = until
		s.objects[key] = o
	}
	return nil
}

// Capabilities: see blob.Store. Other processes cannot see the store at all.
func (s *Store) Capabilities() blob.Capabilities {
	return blob.Capabilities{Retention: blob.RetentionAdvisory, MaxObject: 1 << 30, CreateOnly: true, SortedLists: true, Swap: true}
}

// guard answers a cancelled ctx and a bad key alike, before any work.
func guard(ctx context.Context, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	return err
}
