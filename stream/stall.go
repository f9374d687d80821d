package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// maxAttempts at one put or get.
const maxAttempts = 5

// retrier runs store operations under the stall deadline.
type retrier struct {
	stall   time.Duration // of all attempts at one operation together
	backoff time.Duration // before the second attempt; doubles, ±50%
	log     *slog.Logger
}

func newRetrier(o Options) retrier {
	return retrier{stall: o.Stall, backoff: o.backoff, log: o.Log}
}

// do runs fn until it succeeds, fails for good, or the stall deadline passes.
// fn gets a context that ends with the deadline; a store honours it, so fn's
// buffers are free again when do returns. what names the operation in errors.
//
// The unit is a whole object or range (at most 32 MiB): the store's interface
// shows no progress inside one, so that the deadline is for all of it.
func (r retrier) do(ctx context.Context, what string, fn func(context.Context) error) error {
	return r.moving(ctx, what, func(ctx context.Context, _ func()) error { return fn(ctx) })
}

// moving is do for an operation that shows its progress: every call of moved
// begins the deadline anew.
func (r retrier) moving(ctx context.Context, what string, fn func(ctx context.Context, moved func()) error) error {
	dctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(r.stall, func() { cancel(ErrStalled) })
	defer deadline.Stop()
	wait := r.backoff
	for attempt := 1; ; attempt++ {
		err := fn(dctx, func() { deadline.Reset(r.stall) })
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case dctx.Err() != nil:
			return fmt.Errorf("%s: %w of %s: %w", what, ErrStalled, r.stall, err)
		case permanent(err) || attempt == maxAttempts:
			return fmt.Errorf("%s: %w", what, err)
		}
		r.log.Warn("store operation failed, trying again", "op", what, "attempt", attempt, "err", err)
		select {
		case <-time.After(wait/2 + rand.N(wait+1)):
		case <-dctx.Done():
		}
		wait *= 2
	}
}

// permanent errors stay what they are however often one asks.
func permanent(err error) bool {
	for _, e := range []error{
		repo.ErrDamaged, repo.ErrFormat, repo.ErrKey, repo.ErrNotFound, repo.ErrFork,
		blob.ErrExists, blob.ErrNotFound, blob.ErrRetained, blob.ErrUnsupported,
		fs.ErrPermission, syscall.ENOSPC, syscall.EROFS, syscall.EDQUOT,
	} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
