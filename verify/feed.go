package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/holdfastdb/holdfast/wal"
)

// countedFeed counts what a copy pulled and keeps the first failure of our
// own side, which the copy's server can only report as "no log".
type countedFeed struct {
	next wal.Feed

	mu     sync.Mutex
	pieces int64
	bytes  int64
	err    error
}

// Fetch … see wal.Feed.
func (f *countedFeed) Fetch(ctx context.Context, name string, w io.Writer) error {
	cw := &countedWriter{next: w}
	err := f.next.Fetch(ctx, name, cw)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += cw.n
	if err == nil {
		f.pieces++
	}
	// A client that went away is no failure of ours.
	if err != nil && f.err == nil && cw.err == nil && ctx.Err() == nil && !errors.Is(err, wal.ErrBeyondPlan) {
		f.err = err
	}
	return err
}

// feedError is a replay that ended because we could not serve its log.
type feedError struct{ err, copy error }

func (e *feedError) Error() string {
	return fmt.Sprintf("serve the log: %v (the copy said: %v)", e.err, e.copy)
}

func (e *feedError) Unwrap() error { return e.err }

func (f *countedFeed) totals() (pieces, bytes int64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pieces, f.bytes, f.err
}

type countedWriter struct {
	next io.Writer
	n    int64
	err  error
}

func (w *countedWriter) Write(p []byte) (int, error) {
	n, err := w.next.Write(p)
	w.n += int64(n)
	w.err = err
	return n, err
}
