package consistency

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// RingSize is how many beats a source keeps: the row of beat n is n mod RingSize.
const RingSize = 4096

// Bounds of Run.
const (
	minBeatTimeout = 5 * time.Second  // a beat may take twice the period, but at least this
	connectTimeout = 30 * time.Second // connecting and setting up, each
	firstBackoff   = 500 * time.Millisecond
	mostBackoff    = 30 * time.Second
)

// Pulse writes beats; an engine implements it over its own connection.
type Pulse interface {
	// Setup makes database, schema and table as needed. Idempotent.
	Setup(ctx context.Context) error
	// Beat commits the next beat and returns what the source acknowledged:
	// its number, its time by the source's clock, and a log position at or
	// after its commit. After an error the commit is in doubt; the number may
	// or may not be used up.
	Beat(ctx context.Context) (repo.Beat, error)
	Close() error
}

// Run beats every period until ctx ends, handing each acknowledged beat to
// record. Failures are logged, retried over a new connection with back-off,
// and reported to onError; they never stop the caller's stream. A beat whose
// commit is in doubt is not recorded: only what was acknowledged proves loss.
// Periods are counted from the first beat, so a slow beat does not shift the
// next ones; those it made late are left out. record and onError are called
// from the calling goroutine; onError and log may be nil.
func Run(ctx context.Context, connect func(context.Context) (Pulse, error), every time.Duration, record func(repo.Beat), onError func(error), log *slog.Logger) {
	if onError == nil {
		onError = func(error) {}
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	r := runner{connect: connect, every: max(every, time.Millisecond), record: record}
	for failures := 0; ctx.Err() == nil; failures++ {
		beaten, err := r.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if beaten {
			failures = 0
		}
		log.Info("the heartbeat failed; connecting again", "err", err, "failures", failures+1)
		onError(err)
		sleep(ctx, backoff(failures))
	}
}

type runner struct {
	connect func(context.Context) (Pulse, error)
	every   time.Duration
	record  func(repo.Beat)
}

// session beats over one connection until it fails; beaten says whether a
// beat was acknowledged.
func (r runner) session(ctx context.Context) (beaten bool, err error) {
	pulse, err := bounded(ctx, connectTimeout, r.connect)
	if err != nil {
		return false, err
	}
	defer func() { _ = pulse.Close() }() // the connection is given up either way
	if _, err := bounded(ctx, connectTimeout, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, pulse.Setup(ctx)
	}); err != nil {
		return false, err
	}
	ticker := time.NewTicker(r.every) // keeps the phase and drops missed ticks
	defer ticker.Stop()
	for {
		b, err := bounded(ctx, max(minBeatTimeout, 2*r.every), pulse.Beat)
		if err != nil {
			return beaten, err
		}
		beaten = true
		r.record(b)
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return beaten, ctx.Err()
		}
	}
}

func bounded[T any](ctx context.Context, d time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return fn(ctx)
}

// backoff doubles with each failure in a row and is drawn from [½, 1½) of
// that, so that many agents do not come back to a server at once.
func backoff(failures int) time.Duration {
	d := mostBackoff
	if failures < 16 {
		d = min(firstBackoff<<failures, mostBackoff)
	}
	return d/2 + rand.N(d)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
