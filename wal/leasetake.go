package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// LeaseHeldError says that another holder's lease stands in the way.
type LeaseHeldError struct {
	Lease repo.Lease    // as last read
	Age   time.Duration // since it was acquired, by both hosts' clocks; not negative
	Here  bool          // its process runs on this host
}

func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("its log is written by another holdfast: %s, for %s (epoch %d)", holderText(&e.Lease), e.Age.Round(time.Second), e.Lease.Epoch)
}

// AcquireLease takes the lease on l's log under the next epoch, and keeps it.
// It may be taken if there is none, or it was released; if its holder's
// process on this very host has ended, or it is a one-shot backup's; and if
// this call itself has watched it unchanged for its whole TTL. Nobody's
// clock but our own is believed.
//
// Without Wait a lease held by another is watched only until it is known to
// be alive (its process runs here, or it changes: at most its renewal
// interval and half of ours), which is a LeaseHeldError, or dead. A store
// that fails is then given Stall. ctx bounds the acquisition, not the lease.
//
// The caller lists what the store holds after AcquireLease has returned, not
// before: that is its half of the fence (see the package comment).
//
// On a store without compare-and-swap nothing is kept, Check is always nil,
// and a warning is logged: two writers there are told apart by create-only
// keys alone.
func AcquireLease(ctx context.Context, l *repo.Lineage, o LeaseOptions) (*Lease, error) {
	return acquireLease(ctx, l, l.Info().ID, o)
}

func acquireLease(ctx context.Context, st leaseStore, lineage string, o LeaseOptions) (*Lease, error) {
	o = o.withDefaults()
	if !st.HasLeases() {
		o.Log.Warn("this store cannot hold leases (no compare-and-swap): make sure that only one holdfast writes this log", "lineage", lineage)
		return &Lease{o: o, none: true, lost: make(chan struct{})}, nil
	}
	t := &taker{st: st, o: o, what: "become the writer of lineage " + lineage}
	mine, v, err := t.take(ctx)
	if err != nil {
		return nil, err
	}
	return keepLease(st, o, mine, v), nil
}

// taker is one acquisition under way.
type taker struct {
	st   leaseStore
	o    LeaseOptions
	what string

	watched bool              // seen and since are set
	seen    repo.LeaseVersion // the state that was last found
	since   time.Time         // it was found first
	lives   bool              // it changed while we watched
	told    bool              // OnWait was called
	failing time.Time         // the store fails since
	held    *LeaseHeldError   // what was last in the way
}

func (t *taker) take(ctx context.Context) (repo.Lease, repo.LeaseVersion, error) {
	for fails := 0; ; {
		l, v, err := t.try(ctx)
		pause := t.o.Every / 2
		switch {
		case err == nil && l != nil:
			return *l, v, nil
		case err == nil:
			fails = 0
			t.failing = time.Time{}
		case errors.Is(err, repo.ErrLeaseChanged):
			continue // somebody was faster; see who
		case t.givesUp(err):
			return repo.Lease{}, "", t.fail(err)
		default:
			pause = min(backoff(fails), pause)
			fails++
		}
		if serr := sleep(ctx, pause); serr != nil {
			return repo.Lease{}, "", t.fail(t.interrupted(serr, err))
		}
	}
}

// try looks once, and takes the lease if it may. A nil lease without an error
// means: look again later.
func (t *taker) try(ctx context.Context) (*repo.Lease, repo.LeaseVersion, error) {
	ctx, cancel := context.WithTimeout(ctx, t.o.Stall)
	defer cancel()
	began := t.o.Clock()
	cur, v, err := t.st.ReadLease(ctx)
	if err != nil && !errors.Is(err, repo.ErrNotFound) {
		return nil, "", err
	}
	if cur != nil && cur.Holder.Nonce == t.o.Holder.Nonce && !cur.Released {
		return cur, v, nil // a swap of ours whose reply was lost
	}
	if !t.free(cur, v, began, t.o.Clock()) {
		return nil, "", t.inTheWay(cur)
	}
	next := repo.Lease{Epoch: 1, Kind: t.o.Kind, Holder: t.o.Holder, TTL: repo.Millis(t.o.TTL), Report: t.o.report()}
	if cur != nil {
		next.Epoch = cur.Epoch + 1
	}
	next.Acquired = t.o.Clock()
	next.Renewed = next.Acquired
	if v, err = t.st.SwapLease(ctx, v, next); err != nil {
		return nil, "", err
	}
	return &next, v, nil
}

// free reports whether the lease may be taken. It was read between began and
// ended: a state counts as unchanged from the end of the first read that
// found it to the begin of the last.
func (t *taker) free(cur *repo.Lease, v repo.LeaseVersion, began, ended time.Time) bool {
	if cur == nil || cur.Released || cur.Kind == repo.LeaseBackup || t.o.Takeover {
		return true
	}
	life := t.o.Life(cur.Holder)
	if life == LifeEnded {
		return true
	}
	t.held = &LeaseHeldError{Lease: *cur, Age: max(0, ended.Sub(cur.Acquired)), Here: life == LifeRuns}
	if !t.watched || v != t.seen {
		t.lives = t.watched
		t.watched, t.seen, t.since = true, v, ended
		return false
	}
	return began.Sub(t.since) >= time.Duration(cur.TTL)
}

// inTheWay decides whether to go on watching (nil).
func (t *taker) inTheWay(cur *repo.Lease) error {
	if !t.o.Wait {
		if t.lives || t.held.Here {
			return t.held
		}
		return nil
	}
	if !t.told && t.o.OnWait != nil {
		t.o.OnWait(t.held)
	}
	t.told = true
	return nil
}

// givesUp reports whether an error ends the acquisition: an answer at once,
// a failing store after a while.
func (t *taker) givesUp(err error) bool {
	held := (*LeaseHeldError)(nil)
	if errors.As(err, &held) || errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrFormat) || errors.Is(err, repo.ErrKey) {
		return true
	}
	now := t.o.Clock()
	if t.failing.IsZero() {
		t.failing = now
		if t.o.Wait {
			t.o.Log.Warn("the lease cannot be read or taken; retrying", "err", err)
		}
	}
	return !t.o.Wait && now.Sub(t.failing) >= t.o.Stall
}

// interrupted says what an ended context came between.
func (t *taker) interrupted(ctxErr, err error) error {
	switch {
	case t.held != nil:
		return fmt.Errorf("%w (%w)", ctxErr, t.held)
	case err != nil:
		return fmt.Errorf("%w (last: %w)", ctxErr, err)
	}
	return ctxErr
}

func (t *taker) fail(err error) error {
	hint := hferr.HintOf(err)
	if held := (*LeaseHeldError)(nil); errors.As(err, &held) {
		hint = fmt.Sprintf("One holdfast a log: let the one on %s go on, or stop it first (process %d). If it is gone for good, its lease can be taken %s after its last renewal.",
			held.Lease.Holder.Host, held.Lease.Holder.PID, time.Duration(held.Lease.TTL))
	}
	return hferr.New(t.what, err, hint)
}
