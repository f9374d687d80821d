package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
)

// clock is a clock that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// retaining opens a store on a disk with a clock that stands at crashClock.
func retaining(t *testing.T) (*file.Store, *clock, string) {
	t.Helper()
	c, dir := &clock{now: crashClock}, t.TempDir()
	s, err := file.Open(dir, file.Options{Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, c, dir
}

// TestRetainToTheMoment: until a moment that is no whole millisecond, deletion
// is refused; the store leaves nothing behind after it.
func TestRetainToTheMoment(t *testing.T) {
	until := crashClock.Add(time.Hour + 1)
	for _, how := range []string{"create", "retain", "both"} {
		s, c, dir := retaining(t)
		opt := blob.CreateOptions{RetainUntil: until}
		if how == "retain" {
			opt = blob.CreateOptions{}
		}
		if how == "both" {
			opt.RetainUntil = until.Add(-time.Minute)
		}
		if err := s.Create(t.Context(), "a/o", []byte("x"), opt); err != nil {
			t.Fatal(err)
		}
		if how != "create" {
			for _, u := range []time.Time{until, until.Add(-time.Second), until.Add(-2 * time.Hour), {}} {
				if err := s.Retain(t.Context(), "a/o", u); err != nil {
					t.Fatal(err)
				}
			}
		}
		for _, now := range []time.Time{crashClock, until.Add(-time.Second), until.Add(-1)} {
			c.set(now)
			if err := s.Delete(t.Context(), "a/o"); !errors.Is(err, blob.ErrRetained) {
				t.Errorf("%s: %v before the end: %v", how, until.Sub(now), err)
			}
		}
		c.set(until.Add(time.Millisecond))
		if err := s.Delete(t.Context(), "a/o"); err != nil {
			t.Errorf("%s: after the end: %v", how, err)
		}
		for _, name := range []string{"a", ".retain"} {
			if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %s is left: %v", how, name, err)
			}
		}
	}
}

// TestLoserRetainsNothing: an ErrExists changed nothing, retention included.
func TestLoserRetainsNothing(t *testing.T) {
	s, _, dir := retaining(t)
	put(t, s, "a/o", "x")
	err := s.Create(t.Context(), "a/o", []byte("y"), blob.CreateOptions{RetainUntil: crashClock.Add(time.Hour)})
	if !errors.Is(err, blob.ErrExists) {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a/o"); err != nil {
		t.Error(err)
	}
	if marks, err := filepath.Glob(filepath.Join(dir, ".retain/a/o/@*")); err != nil || len(marks) != 0 {
		t.Errorf("left: %q, %v", marks, err)
	}
}

// TestRetainersAtOnce: whoever asks for the longest gets it, and the marks do
// not pile up.
func TestRetainersAtOnce(t *testing.T) {
	s, c, dir := retaining(t)
	put(t, s, "o", "x")
	other, err := file.Open(dir, file.Options{Clock: c.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			st := []*file.Store{s, other}[i%2]
			if err := st.Retain(t.Context(), "o", crashClock.Add(time.Duration(i+1)*time.Hour)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	c.set(crashClock.Add(20*time.Hour - 1))
	if err := s.Delete(t.Context(), "o"); !errors.Is(err, blob.ErrRetained) {
		t.Errorf("deleted before the longest retention ended: %v", err)
	}
	if err := s.Retain(t.Context(), "o", crashClock.Add(21*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if marks, err := filepath.Glob(filepath.Join(dir, ".retain/o/@*")); err != nil || len(marks) != 1 {
		t.Errorf("marks: %q, %v", marks, err)
	}
}
