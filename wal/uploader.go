package wal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// parallelPuts is how many segments are on their way at once, enough to hide a
// store's latency; parallelSegments bounds their bytes, in full segments: each
// is in memory twice, as received and as sealed.
const (
	parallelPuts     = 4
	parallelSegments = 2
)

// Backoff between attempts at a failing store: doubled from first to most,
// each drawn from [½, 1½) of it so that many archivers do not come back at once.
const (
	backoffFirst = 100 * time.Millisecond
	backoffMost  = 10 * time.Second
)

// StallError says that the store did not answer in time.
type StallError struct {
	After time.Duration
	Err   error
}

func (e *StallError) Error() string {
	return fmt.Sprintf("the store did not answer within %s: %v", e.After, e.Err)
}
func (e *StallError) Unwrap() error { return e.Err }

// dispatch starts uploads of the oldest segments that wait.
func (a *Archiver) dispatch() {
	for _, s := range a.queue {
		if a.running >= parallelPuts || a.err != nil {
			return
		}
		if s.started {
			continue
		}
		if a.running > 0 && a.flying+s.size() > parallelSegments*a.o.MaxSegment {
			return
		}
		s.started = true
		a.running++
		a.flying += s.size()
		a.wg.Add(1)
		go a.upload(s)
	}
}

func (a *Archiver) upload(s *sealedSegment) {
	defer a.wg.Done()
	m, data, err := a.put(s)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running--
	a.flying -= s.size()
	if err != nil {
		if a.ctx.Err() == nil {
			a.fail(final(fmt.Sprintf("archive the log of branch %s at %s", s.meta.Branch, s.meta.Start.Key()), err))
		}
		return
	}
	s.meta, s.data = m, nil
	s.stored = true
	a.buffers.give(data)
	a.advance()
	a.dispatch()
	a.sealDue()
	a.notify()
}

// put stores one segment, and makes sure that it counts. It returns the log
// that it stored, too, which nobody needs any more.
func (a *Archiver) put(s *sealedSegment) (m repo.SegmentMeta, data []byte, err error) {
	failed := func(err error, since time.Time) {
		a.mu.Lock()
		defer a.mu.Unlock()
		if s.err == nil {
			a.o.Log.Warn("the store does not take the log; retrying", "branch", s.meta.Branch, "start", s.meta.Start.Key(), "err", err)
		}
		s.err, s.since = err, since
	}
	m, data = s.meta, s.data
	if data == nil {
		if data, err = a.o.Spool.Read(m.Branch, m.Start, m.End); err != nil {
			return m, nil, fmt.Errorf("read back from the spool: %w", err)
		}
	}
	err = a.retry(a.ctx, func(ctx context.Context) error {
		m = s.meta
		return a.store.PutSegment(ctx, &m, data)
	}, failed)
	if err == nil && m.Hash != s.hash {
		err = fmt.Errorf("stored as %s but received as %s: the bytes changed on their way", m.Hash, s.hash)
	}
	if err == nil && a.o.Fence != nil {
		err = a.retry(a.ctx, a.o.Fence, failed)
	}
	return m, data, err
}

// advance moves the stored position over the stored segments at the queue's
// head. A segment stored ahead of an earlier one waits here for it.
func (a *Archiver) advance() {
	if a.err != nil {
		return
	}
	for len(a.queue) > 0 && a.queue[0].stored {
		s := a.queue[0]
		a.queue[0] = nil
		a.queue = a.queue[1:]
		a.pending -= s.size()
		a.stored = max(a.stored, s.meta.End)
		a.last = &s.meta
		a.notes = append(a.notes, s.meta)
		if s.err != nil {
			a.o.Log.Info("the store takes the log again", "branch", s.meta.Branch, "stored", a.stored.Key())
		}
	}
	a.broadcast()
}

// notify calls OnDurable without the lock, by one goroutine at a time so that
// the order holds.
func (a *Archiver) notify() {
	if a.notifying {
		return
	}
	a.notifying = true
	for len(a.notes) > 0 {
		notes := a.notes
		a.notes = nil
		branch, stored := a.branch.ID, a.stored
		a.mu.Unlock()
		a.trimSpool(branch, stored)
		for _, m := range notes {
			if a.o.OnDurable != nil {
				a.o.OnDurable(m)
			}
		}
		a.mu.Lock()
	}
	a.notifying = false
	a.broadcast()
}

// persist retries op like an upload, for objects that are no segments.
func (a *Archiver) persist(ctx context.Context, op func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	set := func(err error, since time.Time) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.otherErr, a.otherFrom = err, since
	}
	err := a.retry(ctx, op, set)
	set(nil, time.Time{})
	return err
}

// retry runs op until it succeeds. It returns op's error if that is final or
// the bound has passed, and ctx's error if ctx ended. failed is told of every
// failed attempt, with the time of the first.
func (a *Archiver) retry(ctx context.Context, op func(context.Context) error, failed func(error, time.Time)) error {
	var since time.Time
	for n := 0; ; n++ {
		err := a.attempt(ctx, op)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, repo.ErrFork), errors.Is(err, ErrLeaseLost), errors.Is(err, ErrLeaseReleased):
			return err
		case ctx.Err() != nil:
			return fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		}
		now := a.o.Clock()
		if since.IsZero() {
			since = now
		}
		failed(err, since)
		if a.o.Retry > 0 && now.Sub(since) >= a.o.Retry {
			return fmt.Errorf("given up after %s: %w", a.o.Retry, err)
		}
		select {
		case <-time.After(backoff(n)):
		case <-ctx.Done():
			return fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		}
	}
}

// attempt runs op once under the stall deadline.
func (a *Archiver) attempt(ctx context.Context, op func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, a.o.Stall)
	defer cancel()
	err := op(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return &StallError{After: a.o.Stall, Err: err}
	}
	return err
}

func backoff(n int) time.Duration {
	d := backoffMost
	if n < 16 {
		d = min(backoffFirst<<n, backoffMost)
	}
	return d/2 + rand.N(d)
}

// finalize records an error of Begin or Close that no retry can mend, and
// passes others on.
func (a *Archiver) finalize(what string, err error) error {
	err = final(what, err)
	if errors.Is(err, repo.ErrFork) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.fail(err)
	}
	return err
}

// final words an error for the person who has to act on it.
func final(what string, err error) error {
	hint := "Nothing beyond the durable position was acknowledged; the server keeps its log. Mend the store, then start streaming again."
	switch {
	case errors.Is(err, ErrLeaseLost):
		hint = "Another holdfast follows this log now; nothing beyond the durable position was acknowledged. Stop one of the two."
	case errors.Is(err, repo.ErrFork) && errors.Is(err, repo.ErrDamaged):
		hint = "The archive holds an object here that cannot be read, so it is not known to be this log. Nothing was overwritten or acknowledged. " +
			"Find out what happened to it (holdfast verify); once it has been moved away, start streaming again."
	case errors.Is(err, repo.ErrFork):
		hint = "Two servers write the same history (a clone, a restored copy, a split brain), and the archive holds the other one's log here. " +
			"Nothing was overwritten or acknowledged. Stop the server that should not write, or promote it so that it gets a branch of its own."
	}
	return hferr.New(what, err, hint)
}
