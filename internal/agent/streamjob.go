package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// streamJob is one Stream call. Its sessions run one after the other.
type streamJob struct {
	d   Deps
	r   StreamRequest
	box *reportBox

	lineage *repo.Lineage
	lease   *wal.Lease
	spool   *spool.Spool
	// arch outlives a session where there is a spool: a primary that waits for
	// us must not wait for a store that is away before it can go on.
	arch *wal.Archiver
}

func (d Deps) newStreamJob(r StreamRequest) *streamJob {
	j := &streamJob{d: d, r: r}
	durability := "store"
	if r.OpenSpool != nil {
		durability = "spool"
	}
	j.box = &reportBox{clock: d.Clock, r: StreamReport{State: StateConnecting, Durability: durability},
		changed: func(now StreamReport) {
			if j.lease != nil {
				j.lease.Nudge()
			}
			r.Events(StreamEvent{Kind: "condition", Report: now})
		}}
	return j
}

func (j *streamJob) event(e StreamEvent) {
	e.Report = j.box.get()
	j.r.Events(e)
}

// drainBefore stores what an earlier run left, before the source is asked for
// anything: if the source is gone, it is the only copy.
func (j *streamJob) drainBefore(ctx context.Context) error {
	if j.r.OpenSpool == nil {
		return nil
	}
	l, err := FindLineage(ctx, j.d.Repo, j.r.Database)
	if errors.Is(err, repo.ErrNotFound) {
		return nil // nothing was ever streamed
	}
	if err != nil {
		return err
	}
	return j.adopt(ctx, l)
}

// adopt makes the job the one writer of a lineage's log.
func (j *streamJob) adopt(ctx context.Context, l *repo.Lineage) error {
	lease, err := wal.AcquireLease(ctx, l, wal.LeaseOptions{
		Kind: repo.LeaseStream, Clock: j.d.Clock, Log: j.d.Log, Takeover: j.r.Takeover,
		Report: func() any { return j.box.get() },
		Wait:   true,
		OnWait: func(held *wal.LeaseHeldError) {
			t := troubleOf(held)
			j.box.set(func(r *StreamReport) {
				r.State, r.Condition, r.Message, r.Hint = StateWaiting, t.condition, t.message, t.hint
			})
			j.event(StreamEvent{Kind: "waiting", Err: held})
		},
	})
	if err != nil {
		return err
	}
	j.lineage, j.lease = l, lease
	j.box.in(StateConnecting)
	if j.r.OpenSpool == nil {
		return nil
	}
	if j.spool, err = j.r.OpenSpool(ctx, l); err != nil {
		return err
	}
	return j.drain(ctx)
}

func (j *streamJob) drain(ctx context.Context) error {
	held := j.spool.Held()
	if len(held.Ranges) == 0 && held.Beats == 0 && held.Damage == nil {
		return nil
	}
	j.box.in(StateDraining)
	j.event(StreamEvent{Kind: "draining", Bytes: held.Bytes})
	n, err := j.d.drainSpool(ctx, j.lineage, j.spool, j.lease.Check)
	if errors.As(err, new(*spool.DamageError)) {
		j.d.Log.Error("the spool is damaged; what could be read is stored, the files are put aside", "stored", n, "error", err)
		j.box.trouble(trouble{ConditionSpoolDamaged, err.Error(), hferr.HintOf(err)})
		err = nil
	}
	if err != nil {
		return err
	}
	j.event(StreamEvent{Kind: "drained", Bytes: n})
	j.box.in(StateConnecting)
	return nil
}

// session is one connection, from connecting to its loss. ok reports whether
// streaming had begun.
func (j *streamJob) session(ctx context.Context) (ok bool, err error) {
	src, err := j.r.Connect(ctx)
	if err != nil {
		return false, err
	}
	defer src.Close()
	if err := j.identify(ctx, src); err != nil {
		return false, err
	}
	if err := src.Log().Prepare(ctx); err != nil {
		return false, err
	}
	if j.arch == nil {
		j.arch = j.archiver()
	}
	ok, err = j.tail(ctx, src)
	if j.spool == nil || ctx.Err() != nil || final(err) || errors.As(err, new(*wal.GapError)) {
		err = j.closeArchive(ctx, err)
	}
	return ok, err
}

// identify makes sure that this is the server whose log the job writes.
func (j *streamJob) identify(ctx context.Context, src engines.Source) error {
	l, _, err := j.d.register(ctx, src, j.r.Database, j.r.NewLineage)
	if err != nil {
		return err
	}
	if j.lineage != nil && j.lineage.Info().ID != l.Info().ID {
		if j.arch != nil || !j.r.NewLineage {
			return otherSystem(j.r.Database, j.lineage.Info().ID, l.Info().ID)
		}
		// The drained lineage was an earlier one of this name.
		if err := errors.Join(j.spool.Close(), j.lease.Release(ctx)); err != nil {
			return err
		}
		j.lineage, j.lease, j.spool = nil, nil, nil
	}
	if j.lineage == nil {
		return j.adopt(ctx, l)
	}
	return nil
}

func (j *streamJob) archiver() *wal.Archiver {
	o := wal.ArchiverOptions{
		FlushEvery: j.r.FlushEvery, MaxSegment: j.r.MaxSegment, Log: j.d.Log, Clock: j.d.Clock,
		OnDurable: func(m repo.SegmentMeta) { j.event(StreamEvent{Kind: "segment", Segment: &m}) },
		Fence:     j.lease.Check,
	}
	if j.spool != nil {
		o.Spool = j.spool
	}
	return wal.NewArchiver(j.lineage, o)
}

// tail streams until the connection is lost, the lease is, or ctx ends.
func (j *streamJob) tail(ctx context.Context, src engines.Source) (ok bool, err error) {
	sctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var latest latestStatus
	var side sync.WaitGroup
	side.Go(func() {
		select {
		case <-j.lease.Lost():
			stop(j.lease.Err())
		case <-sctx.Done():
		}
	})
	arch := j.arch
	err = src.Log().Tail(sctx, engines.TailOptions{
		Lineage: j.lineage.Info().ID,
		Held:    j.held, Archived: j.archived, Spooled: j.spool != nil,
		Ready: func(at repo.Position) {
			ok = true
			j.box.in(StateStreaming)
			j.event(StreamEvent{Kind: "streaming", At: at})
			side.Go(func() { j.beat(sctx, src, arch) })
			w := &watch{job: j, src: src, arch: arch, tail: latest.get}
			side.Go(func() { w.run(sctx) })
		},
		Status: func(s engines.TailStatus) {
			latest.set(s)
			j.event(StreamEvent{Kind: "status"})
		},
	}, arch)
	if cause := context.Cause(sctx); err == nil && cause != nil && ctx.Err() == nil {
		err = cause
	}
	stop(nil)
	side.Wait()
	return ok, err
}

type latestStatus struct {
	mu sync.Mutex
	s  engines.TailStatus
}

func (l *latestStatus) get() engines.TailStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.s
}

func (l *latestStatus) set(s engines.TailStatus) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.s = s
}

// held is what needs not be streamed again: what the store has of a branch,
// and what the spool has for it.
func (j *streamJob) held(ctx context.Context, branch string) ([]wal.Range, error) {
	ranges, err := held(j.lineage)(ctx, branch)
	if err != nil || j.spool == nil || j.arch == nil {
		return ranges, err
	}
	if st := j.arch.Status(); st.Branch == branch && st.Durable > st.Begun {
		ranges = wal.Merge(append(ranges, wal.Range{Branch: branch, Start: st.Begun, End: st.Durable}))
	}
	return ranges, nil
}

// archived reads what held promised.
func (j *streamJob) archived(ctx context.Context, branch string, from, to repo.Position) ([]byte, error) {
	if j.spool != nil && j.arch != nil {
		if st := j.arch.Status(); st.Branch == branch && st.Stored < to && st.Begun <= from {
			b, err := j.spool.Read(branch, max(from, st.Begun), to)
			if err == nil {
				return b, nil
			}
			j.d.Log.Debug("not in the spool; asking the store", "error", err)
		}
	}
	return wal.ReadRange(ctx, j.lineage, branch, from, to)
}

// closeArchive stores what was received. While the source is gone these bytes
// may be the only copy outside the spool, so only the user (or a fork) ends
// the attempt.
func (j *streamJob) closeArchive(ctx context.Context, terr error) error {
	arch := j.arch
	j.arch = nil
	event, cctx, cancel := wal.EventSourceLost, ctx, context.CancelFunc(func() {})
	if ctx.Err() != nil {
		event = "shutdown"
		cctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), drain)
	}
	defer cancel()
	cerr := arch.Close(cctx, event)
	switch {
	case cerr == nil:
	case j.spool != nil && !final(cerr):
		// Not lost: the next start drains it.
		j.d.Log.Warn("the rest of the log stays in the spool until the next start", "error", cerr)
		cerr = nil
	default:
		cerr = hferr.New("store the last of the log", cerr, "what was not stored was not acknowledged: the server still has it, and the next stream fetches it")
	}
	return errors.Join(terr, cerr)
}

// close gives up what the job holds. A lease that was lost is not ours to give.
func (j *streamJob) close(ctx context.Context, why error) error {
	var err error
	if j.arch != nil {
		err = j.closeArchive(ctx, nil)
	}
	if j.spool != nil {
		err = errors.Join(err, j.spool.Close())
	}
	j.box.set(func(r *StreamReport) { r.State = StateStopped })
	if j.lease != nil {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseLimit)
		defer cancel()
		if lerr := j.lease.Release(cctx); lerr != nil && !errors.Is(lerr, wal.ErrLeaseLost) {
			j.d.Log.Warn("the log's lease could not be released; the next writer waits until it has expired", "error", lerr)
		}
	}
	j.event(StreamEvent{Kind: "stopped", Err: why})
	return err
}

const releaseLimit = 10 * time.Second

func (j *streamJob) beat(ctx context.Context, src engines.Source, arch *wal.Archiver) {
	if j.r.BeatEvery <= 0 {
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
	consistency.Run(ctx, connect, j.r.BeatEvery, arch.Beat,
		func(err error) { j.event(StreamEvent{Kind: "heartbeat-failed", Err: err}) }, j.d.Log)
}

// otherSystem: the server behind a name is not the one recorded under it.
func otherSystem(database, recorded, found string) error {
	return engines.Permanent(engines.Classify(engines.ConditionOtherSystem, hferr.New("identify "+database,
		fmt.Errorf("the server is %s, but %s is recorded under this name", found, recorded),
		"If the server was initialised anew, replaced or upgraded, say so with --new-lineage, and take a new base backup; "+
			"what is recorded stays. If not, the URL leads to the wrong server.")))
}
