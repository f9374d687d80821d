package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/wal"
)

// Bounds of the watch. Whatever goes wrong must show within ten seconds.
const (
	watchEvery     = time.Second
	guaranteeEvery = 10 * time.Second
	storePatience  = 3 * time.Second // a put that fails once, or a spool that is full for a moment, is no condition
	silentTooLong  = 6 * time.Second // of a server that is asked every 2.5 s
)

// watch follows a running session: it derives what is wrong from what the
// tail and the archiver say, never from a wall clock, and asks the server
// what a commit is worth.
type watch struct {
	job  *streamJob
	src  engines.Source
	arch *wal.Archiver
	tail func() engines.TailStatus

	fullSince time.Time // monotonic
}

func (w *watch) run(ctx context.Context) {
	// Questions to the server may hang where the network does, and must not
	// keep that from being seen.
	var asking sync.WaitGroup
	defer asking.Wait()
	asking.Go(func() { w.every(ctx, clockEvery, w.job.clock.ask(w.src)) })
	asking.Go(func() { w.every(ctx, guaranteeEvery, w.guarantee) })
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		w.look()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// every asks the server now and then, each time with a limit.
func (w *watch) every(ctx context.Context, period time.Duration, ask func(context.Context)) {
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		limited, cancel := context.WithTimeout(ctx, period)
		ask(limited)
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *watch) look() {
	st, ts := w.arch.Status(), w.tail()
	var spool *SpoolReport
	if w.job.spool != nil {
		h := w.job.spool.Held()
		spool = &SpoolReport{Bytes: h.Bytes, Limit: h.Limit, Full: st.SpoolFull}
	}
	if !st.SpoolFull {
		w.fullSince = time.Time{}
	} else if w.fullSince.IsZero() {
		w.fullSince = time.Now()
	}
	t := w.judge(st, ts, spool)
	w.job.box.set(func(r *StreamReport) {
		r.State, r.Branch = StateStreaming, st.Branch
		r.Condition, r.Message, r.Hint = t.condition, t.message, t.hint
		r.ServerEnd, r.Received, r.Durable, r.Stored = ts.ServerEnd, st.Received, st.Durable, st.Stored
		r.StoredTime, r.SourceTime = later(r.StoredTime, st.StoredTime), later(r.SourceTime, st.SourceTime)
		r.Idle = ts.ServerEnd <= st.Stored && st.Stored > 0
		r.Spool, r.Hole = spool, st.Hole
	})
}

// judge names the worst thing that is wrong.
func (w *watch) judge(st wal.Status, ts engines.TailStatus, spool *SpoolReport) trouble {
	out := !st.RetryingSince.IsZero() && w.job.d.Clock().Sub(st.RetryingSince) > storePatience
	switch {
	case st.Err != nil:
		return troubleOf(st.Err)
	case spool != nil && spool.Full && time.Since(w.fullSince) > storePatience:
		return trouble{ConditionSpoolFull, "the spool is full and the store does not take the log: nothing more is received, and commits that wait for us hang",
			"Make the store reachable, or raise the spool's limit. Nothing is lost while the server lives: its slot keeps what the store lacks."}
	case out && st.StoreErr != nil:
		return trouble{ConditionStoreFailing, "the store does not take the log: " + st.StoreErr.Error(), storeHint(st.StoreErr, spool)}
	case ts.Silent > silentTooLong:
		return trouble{engines.ConditionStalled, fmt.Sprintf("the server has said nothing for %s", ts.Silent.Round(time.Second)),
			"Look at the network and the server's load; the connection is given up soon and made again."}
	case st.Hole != nil:
		return trouble{ConditionLogHole, fmt.Sprintf("log was lost: branch %s from %s to %s is neither in the archive nor on the server", st.Hole.Branch, w.job.r.Position(st.Hole.Start), w.job.r.Position(st.Hole.End)),
			"Moments inside and just before the hole's end cannot be restored. Take a new base backup: holdfast backup " + w.job.r.Database}
	case w.job.clock.lately() != "":
		return trouble{ConditionClockStep, w.job.clock.lately(), "For moments near the step restore by position (--target-lsn or the like) rather than by time."}
	}
	return trouble{}
}

func storeHint(err error, spool *SpoolReport) string {
	hint := hferr.HintOf(err)
	if hint == "" {
		hint = "Make the store reachable."
	}
	if spool != nil {
		return hint + "\nUntil then the spool answers for what is acknowledged, up to its limit."
	}
	return hint + "\nUntil then the server keeps its log: mind the disk it is on."
}

func (w *watch) guarantee(ctx context.Context) {
	g, err := w.src.Log().Guarantee(ctx)
	if err != nil {
		w.job.d.Log.Debug("the server's guarantee could not be asked for", "error", err)
		return
	}
	w.job.box.set(func(r *StreamReport) { r.Guarantee = &g })
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
