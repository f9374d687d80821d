package wal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// renewals renews until the lease is lost or released.
func (k *Lease) renewals() {
	defer close(k.done)
	t := time.NewTimer(k.o.Every)
	defer t.Stop()
	for fails := 0; ; {
		select {
		case <-t.C:
		case <-k.nudge:
		case <-k.ctx.Done():
			return
		}
		err := k.renew(k.ctx)
		if k.ctx.Err() != nil {
			return // lost, or released meanwhile
		}
		k.mu.Lock()
		k.renewErr = err
		k.mu.Unlock()
		next := k.o.Every
		switch {
		case err == nil && fails > 0:
			k.o.Log.Info("the lease is renewed again", "failures", fails)
			fails = 0
		case err != nil:
			if fails == 0 {
				k.o.Log.Warn("the lease could not be renewed; retrying", "err", err)
			}
			next = min(backoff(fails), next)
			fails++
		}
		t.Reset(next)
	}
}

// renew makes one renewal.
func (k *Lease) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.o.Stall)
	defer cancel()
	next, v := k.successor()
	now, err := k.st.SwapLease(ctx, v, next)
	if errors.Is(err, repo.ErrLeaseChanged) {
		// Another's, or an earlier renewal of ours that arrived late.
		if v, err = k.observe(ctx); err != nil {
			return err
		}
		now, err = k.st.SwapLease(ctx, v, next)
	}
	if err != nil {
		return err
	}
	k.stored(next, now)
	return nil
}

// successor is the lease to store next.
func (k *Lease) successor() (repo.Lease, repo.LeaseVersion) {
	report := k.o.report()
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.mine
	next.Renewed, next.Report = k.o.Clock(), report
	return next, k.version
}

func (k *Lease) stored(l repo.Lease, v repo.LeaseVersion) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mine, k.version = l, v
}

// Release ends the renewals and gives the lease back, so that the next holder
// need not wait for its TTL. From the call on Check refuses. A failing store
// is retried until ctx ends; then the lease is only left to expire, and
// Release may be called again. Idempotent. A lost lease is left alone.
func (k *Lease) Release(ctx context.Context) error {
	if k.none {
		return nil
	}
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.cancel()
	k.releasing.Lock()
	defer k.releasing.Unlock()
	select {
	case <-k.done:
	case <-ctx.Done():
		return fmt.Errorf("release the lease: %w", ctx.Err())
	}
	for n := 0; !k.released && k.Err() == nil; n++ {
		err := k.release(ctx)
		if err == nil {
			k.released = true
			break
		}
		if errors.Is(err, repo.ErrLeaseChanged) {
			continue // the state is known now
		}
		if serr := sleep(ctx, backoff(n)); serr != nil {
			return fmt.Errorf("release the lease, which will expire in %s: %w (last: %w)", k.o.TTL, serr, err)
		}
	}
	return nil
}

// release makes one attempt. ErrLeaseChanged: go on from what was found.
func (k *Lease) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.o.Stall)
	defer cancel()
	next, v := k.successor()
	next.Released = true
	now, err := k.st.SwapLease(ctx, v, next)
	if err == nil {
		k.stored(next, now)
		return nil
	}
	if !errors.Is(err, repo.ErrLeaseChanged) {
		return err
	}
	found, now, rerr := k.st.ReadLease(ctx)
	switch {
	case errors.Is(rerr, repo.ErrNotFound):
		return nil // gone, and nothing to give back
	case rerr != nil:
		return rerr
	case !found.Same(&next) || found.Released:
		return nil // taken, or an earlier attempt arrived late
	}
	k.mu.Lock()
	k.version = now // a renewal of ours arrived late
	k.mu.Unlock()
	return err
}

// sleep waits for d or ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
