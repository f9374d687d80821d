package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// StreamRequest asks to follow one source's log until ctx ends.
type StreamRequest struct {
	// Connect opens the source anew for every session.
	Connect    func(ctx context.Context) (engines.Source, error)
	Database   string
	FlushEvery time.Duration
	MaxSegment int
	BeatEvery  time.Duration // 0: no heartbeat
	// OpenSpool opens the lineage's spool, which then answers for what is
	// acknowledged (durability: spool). nil: the store does.
	OpenSpool func(ctx context.Context, l *repo.Lineage) (*spool.Spool, error)
	// Takeover takes the log's lease from whoever has it.
	Takeover bool
	// NewLineage accepts a server that is not the one recorded under this
	// name: it was initialised anew, or upgraded.
	NewLineage bool
	// Position prints a position the engine's way; nil: hexadecimal.
	Position func(repo.Position) string
	// Events reports what a person or a monitor should know. It is called
	// from several goroutines.
	Events func(StreamEvent)
	// GiveUp ends the job at the first lost connection that lasts longer;
	// 0: never. A first connection that fails always ends it.
	GiveUp time.Duration
}

// StreamEvent is one change in a stream's life, or a periodic status.
type StreamEvent struct {
	// Kind: "waiting" (for the lease), "draining" and "drained" (the spool),
	// "spool-damaged", "streaming", "status", "condition" (what is wrong changed), "segment",
	// "lost", "retry", "heartbeat-failed", "stopped".
	Kind    string
	Err     error
	At      repo.Position // "streaming": the first position
	Bytes   int64         // "draining", "drained"
	Segment *repo.SegmentMeta
	Report  StreamReport
}

// mostDelay is between attempts at a source that is away: what is wrong, and
// that it is over, must show within ten seconds.
const mostDelay = 5 * time.Second

// drain is how long a stopping stream may take to store what it holds.
const drain = 30 * time.Second

// Stream follows the log into the repository until ctx ends: takes the log's
// lease, drains what an earlier run left in the spool, connects, makes the
// slot, resumes at the first byte that the archive lacks, beats, and starts
// over when the connection is lost. It returns nil when ctx ended and all that
// was received is durable.
func (d Deps) Stream(ctx context.Context, r StreamRequest) error {
	if r.Events == nil {
		r.Events = func(StreamEvent) {}
	}
	if r.Position == nil {
		r.Position = repo.Position.Key
	}
	j := d.newStreamJob(r)
	err := j.run(ctx)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) && !errors.Is(err, errUnstored) && !final(err) {
		err = nil // it was told to stop before there was anything to store
	}
	return errors.Join(err, j.close(ctx, err))
}

// run is the life of a job: session after session.
func (j *streamJob) run(ctx context.Context) error {
	if err := j.drainBefore(ctx); err != nil {
		return err
	}
	lost, delay, connected := time.Time{}, time.Second, false
	for {
		began := time.Now() // monotonic: the clock may be set
		ok, err := j.session(ctx)
		connected = connected || ok
		if ctx.Err() != nil {
			return err
		}
		if !connected || final(err) {
			return err
		}
		if ok && time.Since(began) > time.Minute {
			delay = time.Second
		}
		if ok || lost.IsZero() {
			lost = time.Now()
		}
		if j.r.GiveUp > 0 && time.Since(lost) > j.r.GiveUp {
			return fmt.Errorf("the source stayed away for %s: %w", j.r.GiveUp, err)
		}
		j.lost(err)
		jittered := delay/2 + time.Duration(rand.Int64N(int64(delay)))
		if sleep(ctx, jittered) != nil {
			return nil
		}
		delay = min(delay*2, mostDelay)
		j.event(StreamEvent{Kind: "retry"})
	}
}

// final reports whether another attempt cannot help.
func final(err error) bool {
	return engines.IsPermanent(err) || errors.Is(err, repo.ErrFork) || errors.Is(err, wal.ErrLeaseLost) || errors.Is(err, spool.ErrFailed)
}
