package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// ownLog archives a one-shot backup's own log over a temporary slot, which
// the server removes by itself when the connection ends.
type ownLog struct {
	d     Deps
	r     BackupRequest
	l     *repo.Lineage
	lease *wal.Lease
	arch  *wal.Archiver
	until chan repo.Position
	done  chan error
	stop  context.CancelFunc
}

func (d Deps) startOwnLog(ctx context.Context, l *repo.Lineage, lease *wal.Lease, r BackupRequest, fail context.CancelCauseFunc) (coverage, error) {
	r.phase("log slot")
	tctx, stop := context.WithCancel(ctx)
	o := &ownLog{
		d: d, r: r, l: l, lease: lease, stop: stop,
		arch:  wal.NewArchiver(l, wal.ArchiverOptions{FlushEvery: time.Second, Log: d.Log, Clock: d.Clock, Fence: lease.Check}),
		until: make(chan repo.Position, 1),
		done:  make(chan error, 1),
	}
	ready := make(chan repo.Position, 1)
	go func() {
		err := r.Source.Log().Tail(tctx, engines.TailOptions{
			Lineage:   l.Info().ID,
			Temporary: true,
			Held:      held(l),
			Archived:  archived(l),
			Ready:     func(p repo.Position) { ready <- p },
			Until:     o.until,
		}, o.arch)
		if err != nil && !errors.Is(err, wal.ErrLeaseLost) {
			// Without its log the copy is worthless: stop it now. But who
			// takes the lease over archives the log instead.
			fail(fmt.Errorf("stream the log of this backup: %w", err))
		}
		o.done <- err
	}()
	select {
	case <-ready:
		return o, nil
	case err := <-o.done:
		stop()
		if err == nil {
			err = errors.New("the log stream ended before it began")
		}
		return nil, errors.Join(err, o.arch.Close(ctx, "shutdown"), o.release(ctx))
	case <-ctx.Done():
		cause := context.Cause(ctx)
		o.close(ctx)
		return nil, cause
	}
}

func (o *ownLog) release(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
	defer cancel()
	if err := o.lease.Release(ctx); !errors.Is(err, wal.ErrLeaseLost) {
		return err
	}
	return nil
}

func (o *ownLog) own() bool { return true }

// wait returns when the log through the base's stop is durable, and, where
// asked for, a few heartbeats beyond it.
func (o *ownLog) wait(ctx context.Context, res engines.BackupResult) error {
	end := res.Stop
	if o.r.Beat {
		end = max(end, o.beat(ctx))
	}
	o.until <- end
	stall := o.r.logWait()
	idle := time.NewTimer(stall)
	defer idle.Stop()
	for last := o.arch.Durable(); ; {
		changed := o.arch.Changed()
		if at := o.arch.Durable(); at > last {
			last = at
			idle.Reset(stall)
		}
		select {
		case err := <-o.done:
			if errors.Is(err, wal.ErrLeaseLost) {
				o.d.Log.Info("a streamer follows the log now; relying on it")
				return (&liveCoverage{d: o.d, l: o.l, src: o.r.Source, stall: stall}).wait(ctx, res)
			}
			if err != nil {
				return err
			}
			return o.finish(ctx, end, stall)
		case <-changed:
		case <-idle.C:
			return hferr.New("wait for the log of this backup",
				errors.Join(&wal.GapError{From: last, To: end}, o.arch.Status().StoreErr),
				"the log does not become durable: look at the store; the backup was not committed")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// finish stores what the log still has to say. A tail ends without an error
// when ctx does, too: only the durable position proves the log.
func (o *ownLog) finish(ctx context.Context, end repo.Position, stall time.Duration) error {
	if at := o.arch.Durable(); at < end {
		return errors.Join(&wal.GapError{From: at, To: end}, context.Cause(ctx))
	}
	ctx, cancel := context.WithTimeout(ctx, stall)
	defer cancel()
	if err := o.arch.Close(ctx, "shutdown"); !errors.Is(err, wal.ErrLeaseLost) {
		return err
	}
	return nil // what this backup needs is durable; who took over archives the rest
}

// beat commits heartbeats after the base and returns a position that later
// log certainly passes: that of the last but one. Having no right to a
// heartbeat is no reason to refuse a backup.
func (o *ownLog) beat(ctx context.Context) repo.Position {
	p, err := o.r.Source.Heartbeat(ctx)
	if err == nil {
		defer p.Close()
		err = p.Setup(ctx)
	}
	var last repo.Position
	for i := 0; err == nil && i < 3; i++ {
		var b repo.Beat
		if b, err = p.Beat(ctx); err == nil {
			if i < 2 {
				last = b.Pos
			}
			o.arch.Beat(b)
		}
	}
	if err != nil {
		o.d.Log.Warn("no heartbeat: a drill of this backup alone can prove less", "error", err)
	}
	return last
}

func (o *ownLog) close(ctx context.Context) {
	o.stop()
	cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := o.arch.Close(cctx, "shutdown"); err != nil && !errors.Is(err, wal.ErrClosed) && !errors.Is(err, wal.ErrLeaseLost) {
		o.d.Log.Warn("the rest of this backup's log was not stored; the server still has it", "error", err)
	}
	if err := o.release(ctx); err != nil {
		o.d.Log.Warn("the log's lease could not be released; anybody may take it over all the same", "error", err)
	}
}

// archived reads what the store has of a branch.
func archived(l *repo.Lineage) func(context.Context, string, repo.Position, repo.Position) ([]byte, error) {
	return func(ctx context.Context, branch string, from, to repo.Position) ([]byte, error) {
		return wal.ReadRange(ctx, l, branch, from, to)
	}
}

// held lists what the store has of a branch.
func held(l *repo.Lineage) func(context.Context, string) ([]wal.Range, error) {
	return func(ctx context.Context, branch string) ([]wal.Range, error) {
		refs, err := l.Segments(ctx, branch, 0)
		if err != nil {
			return nil, err
		}
		return wal.Coverage(refs), nil
	}
}
