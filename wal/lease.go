package wal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

var (
	// ErrLeaseLost is in the chain of every LeaseLostError.
	ErrLeaseLost = errors.New("the lease was lost")
	// ErrLeaseReleased is returned by Check after Release.
	ErrLeaseReleased = errors.New("the lease was released")
)

// LeaseLostError says that somebody else writes the log now. It is final.
type LeaseLostError struct {
	Epoch uint64      // what was held
	By    *repo.Lease // what was found instead; nil if there is no lease any more
}

func (e *LeaseLostError) Error() string {
	if e.By == nil {
		return fmt.Sprintf("%v: epoch %d is gone from the store", ErrLeaseLost, e.Epoch)
	}
	return fmt.Sprintf("%v: epoch %d was followed by epoch %d of %s", ErrLeaseLost, e.Epoch, e.By.Epoch, holderText(e.By))
}
func (e *LeaseLostError) Unwrap() error { return ErrLeaseLost }

// LeaseOptions say who wants a lease, and how it is kept.
type LeaseOptions struct {
	Kind   string           // repo.LeaseStream or repo.LeaseBackup
	Holder repo.LeaseHolder // zero: ThisProcess(); a missing nonce is drawn
	TTL    time.Duration    // unchanged for so long it may be taken; 0: 30 s
	Every  time.Duration    // between renewals, at most a third of TTL; 0: 5 s
	Stall  time.Duration    // a request without an answer for so long is given up and retried; 0: a third of TTL
	Clock  func() time.Time // with a monotonic reading, as time.Now has it; nil: time.Now
	Log    *slog.Logger
	// Report makes the report that travels with the lease, as JSON of at most
	// repo.MaxLeaseReport bytes (else it is left out); called by one goroutine
	// at a time. nil: none.
	Report func() any

	// Takeover takes the lease at once, whoever holds it: an operator's
	// decision, which stops the other and loses nothing.
	Takeover bool
	// Wait keeps watching a lease that is held, until it can be taken or ctx
	// ends, and a store that fails. OnWait is told once, when it begins.
	Wait   bool
	OnWait func(*LeaseHeldError)
	// Life tells about a holder's process; nil: ProcessLife.
	Life func(repo.LeaseHolder) Life
}

func (o LeaseOptions) withDefaults() LeaseOptions {
	if o.TTL <= 0 {
		o.TTL = 30 * time.Second
	}
	if o.Every <= 0 {
		o.Every = 5 * time.Second
	}
	o.Every = min(o.Every, o.TTL/3)
	if o.Stall <= 0 {
		o.Stall = o.TTL / 3
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Life == nil {
		o.Life = ProcessLife
	}
	if o.Holder == (repo.LeaseHolder{}) {
		o.Holder = ThisProcess()
	}
	if o.Holder.Nonce == "" {
		o.Holder.Nonce = newNonce()
	}
	return o
}

// report makes the report, or none: a lease must not be lost for one.
func (o LeaseOptions) report() json.RawMessage {
	if o.Report == nil {
		return nil
	}
	b, err := json.Marshal(o.Report())
	if err == nil && len(b) > repo.MaxLeaseReport {
		err = fmt.Errorf("%d bytes, at most %d", len(b), repo.MaxLeaseReport)
	}
	if err != nil {
		o.Log.Warn("the lease carries no report", "err", err)
		return nil
	}
	return b
}

// leaseStore is what a keeper needs of a lineage.
type leaseStore interface {
	HasLeases() bool
	ReadLease(ctx context.Context) (*repo.Lease, repo.LeaseVersion, error)
	SwapLease(ctx context.Context, old repo.LeaseVersion, l repo.Lease) (repo.LeaseVersion, error)
}

// Lease is a lease that is held: renewed in the background until Release, or
// until it is found to be another's. It saves two writers from working
// against each other; the fence (Check) is what makes it matter for an
// acknowledgement, and create-only keys keep the data safe in any case.
// Safe for concurrent use.
type Lease struct {
	st     leaseStore
	o      LeaseOptions
	none   bool // the store has no leases: nothing to keep
	ctx    context.Context
	cancel context.CancelFunc // ends the renewals
	done   chan struct{}      // they have ended
	nudge  chan struct{}
	lost   chan struct{}

	releasing sync.Mutex // one Release at a time
	released  bool       // under it

	mu       sync.Mutex
	mine     repo.Lease
	version  repo.LeaseVersion // of mine; only the renewals and then Release use it
	err      error             // lost
	closed   bool              // Release was called
	renewErr error             // of the last renewal
}

func keepLease(st leaseStore, o LeaseOptions, mine repo.Lease, v repo.LeaseVersion) *Lease {
	k := &Lease{
		st: st, o: o, mine: mine, version: v,
		done: make(chan struct{}), nudge: make(chan struct{}, 1), lost: make(chan struct{}),
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	go k.renewals()
	return k
}

// Held returns the lease as it was last stored, and why the last renewal
// failed, nil if it did not. A failing renewal is retried; the lease stays
// held until somebody else takes it. Without leases it is the zero Lease.
func (k *Lease) Held() (repo.Lease, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.mine, k.renewErr
}

// Lost is closed when the lease is found to be another's. What the holder
// does from then on is wasted, and Check refuses it.
func (k *Lease) Lost() <-chan struct{} { return k.lost }

// Err is nil while the lease is not known to be lost, then a LeaseLostError.
func (k *Lease) Err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.err
}

// Nudge renews at once, because the report changed. It does not wait, and
// several calls may become one renewal.
func (k *Lease) Nudge() {
	select {
	case k.nudge <- struct{}{}:
	default: // one is due already, or there is nothing to renew
	}
}

// Check is the fence (see the package comment): call it after a put has been
// confirmed and before telling anybody. It reads the lease now, with a read
// of its own that begins after the call: answers are never shared between
// callers, because one that was under way may be older than the put. nil
// means that the lease was still this holder's after the put. LeaseLostError
// (final) and ErrLeaseReleased mean: acknowledge nothing. Any other error is
// the store's, and says nothing: try again.
func (k *Lease) Check(ctx context.Context) error {
	if k.none {
		return nil
	}
	_, err := k.observe(ctx)
	return err
}

// observe reads the lease, and finds it lost unless it is ours.
func (k *Lease) observe(ctx context.Context) (repo.LeaseVersion, error) {
	k.mu.Lock()
	err, mine := k.err, k.mine
	if err == nil && k.closed {
		err = ErrLeaseReleased
	}
	k.mu.Unlock()
	if err != nil {
		return "", err
	}
	now, v, err := k.st.ReadLease(ctx)
	switch {
	case errors.Is(err, repo.ErrNotFound):
		return "", k.lose(nil)
	case err != nil:
		return "", err
	case !now.Same(&mine):
		return "", k.lose(now)
	case now.Released:
		return "", ErrLeaseReleased // by a Release that began since
	}
	return v, nil
}

// lose ends the holder's time for good.
func (k *Lease) lose(by *repo.Lease) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		k.err = &LeaseLostError{Epoch: k.mine.Epoch, By: by}
		k.o.Log.Error("another writer has this log now; nothing more is acknowledged here", "err", k.err)
		close(k.lost)
		k.cancel()
	}
	return k.err
}

func holderText(l *repo.Lease) string {
	return fmt.Sprintf("%s on %s, process %d, since %s", l.Kind, l.Holder.Host, l.Holder.PID, l.Acquired.UTC().Format(time.RFC3339))
}
