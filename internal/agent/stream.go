package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// StreamRequest asks to follow one source's log until ctx ends.
type StreamRequest struct {
	// Connect opens the source anew for every session.
	Connect    func(ctx context.Context) (engines.Source, error)
	Database   string
	FlushEvery time.Duration
	MaxSegment int
	BeatEvery  time.Duration // 0: no heartbeat
	// Events reports what a person or a monitor should know. It is called
	// from several goroutines.
	Events func(StreamEvent)
	// GiveUp ends the job at the first lost connection that lasts longer;
	// 0: never. A first connection that fails always ends it.
	GiveUp time.Duration
}

// StreamEvent is one change in a stream's life, or a periodic status.
type StreamEvent struct {
	Kind    string // "streaming", "status", "lost", "retry", "heartbeat-failed", "stopped"
	Err     error
	Status  engines.TailStatus
	Archive wal.Status
	Segment *repo.SegmentMeta
}

// drain is how long a stopping stream may take to store what it holds.
const drain = 30 * time.Second

// Stream follows the log into the repository until ctx ends: connects, makes
// the slot, resumes at the first byte that the store lacks, beats, and starts
// over when the connection is lost. It returns nil when ctx ended and all that
// was received is durable.
func (d Deps) Stream(ctx context.Context, r StreamRequest) error {
	if r.Events == nil {
		r.Events = func(StreamEvent) {}
	}
	lost, delay, connected := time.Time{}, time.Second, false
	for {
		began := d.Clock()
		ok, err := d.streamOnce(ctx, r)
		connected = connected || ok
		if ctx.Err() != nil {
			r.Events(StreamEvent{Kind: "stopped", Err: err})
			return err
		}
		var permanent *engines.PermanentError
		if !connected || errors.As(err, &permanent) || errors.Is(err, repo.ErrFork) {
			return err
		}
		if ok && d.Clock().Sub(began) > time.Minute {
			delay = time.Second
		}
		if ok || lost.IsZero() {
			lost = d.Clock()
		}
		if r.GiveUp > 0 && d.Clock().Sub(lost) > r.GiveUp {
			return fmt.Errorf("the source stayed away for %s: %w", r.GiveUp, err)
		}
		r.Events(StreamEvent{Kind: "lost", Err: err})
		jittered := delay/2 + time.Duration(rand.Int64N(int64(delay)))
		if sleep(ctx, jittered) != nil {
			return nil
		}
		delay = min(delay*2, 15*time.Second)
		r.Events(StreamEvent{Kind: "retry"})
	}
}

// streamOnce is one session: from connecting to the loss of the connection.
// ok reports whether streaming had begun.
func (d Deps) streamOnce(ctx context.Context, r StreamRequest) (ok bool, err error) {
	src, err := r.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer src.Close()
	l, _, err := d.register(ctx, src, r.Database)
	if err != nil {
		return false, err
	}
	if err := src.Log().Prepare(ctx); err != nil {
		return false, err
	}
	arch := wal.NewArchiver(l, wal.ArchiverOptions{
		FlushEvery: r.FlushEvery, MaxSegment: r.MaxSegment, Log: d.Log, Clock: d.Clock,
		OnDurable: func(m repo.SegmentMeta) { r.Events(StreamEvent{Kind: "segment", Segment: &m}) },
	})
	sctx, stop := context.WithCancel(ctx)
	var beats sync.WaitGroup
	terr := src.Log().Tail(sctx, engines.TailOptions{
		Held: held(l),
		Ready: func(at repo.Position) {
			ok = true
			r.Events(StreamEvent{Kind: "streaming", Status: engines.TailStatus{Received: at, Durable: at}})
			beats.Go(func() { d.beat(sctx, src, r, arch) })
		},
		Status: func(s engines.TailStatus) { r.Events(StreamEvent{Kind: "status", Status: s, Archive: arch.Status()}) },
	}, arch)
	stop()
	beats.Wait()
	return ok, d.closeArchive(ctx, arch, terr)
}

// closeArchive stores what was received. While the source is gone these bytes
// may be the only copy, so only the user (or a fork) ends the attempt.
func (d Deps) closeArchive(ctx context.Context, arch *wal.Archiver, terr error) error {
	event, cctx, cancel := "source-lost", ctx, context.CancelFunc(func() {})
	if ctx.Err() != nil {
		event = "shutdown"
		cctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), drain)
	}
	defer cancel()
	cerr := arch.Close(cctx, event)
	if cerr != nil {
		cerr = hferr.New("store the last of the log", cerr, "what was not stored was not acknowledged: the server still has it, and the next stream fetches it")
	}
	return errors.Join(terr, cerr)
}

func (d Deps) beat(ctx context.Context, src engines.Source, r StreamRequest, arch *wal.Archiver) {
	if r.BeatEvery <= 0 {
		return
	}
	connect := func(ctx context.Context) (consistency.Pulse, error) {
		p, err := src.Heartbeat(ctx)
		if err != nil {
			return nil, err
		}
		if err := p.Setup(ctx); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return p, nil
	}
	consistency.Run(ctx, connect, r.BeatEvery, arch.Beat,
		func(err error) { r.Events(StreamEvent{Kind: "heartbeat-failed", Err: err}) }, d.Log)
}
