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

	lineage  *repo.Lineage
	lease    *wal.Lease
	spool    *spool.Spool
	clock    sourceClock
	streamed bool                   // streaming has begun once in this run
	ranges   map[string][]wal.Range // of each branch, what the store was last seen to hold
	// arch outlives a session where there is a spool: a primary that waits for
	// us must not wait for a store that is away before it can go on.
	arch *wal.Archiver
}

func (d Deps) newStreamJob(r StreamRequest) *streamJob {
	j := &streamJob{d: d, r: r, clock: sourceClock{log: d.Log}}
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
			j.box.trouble(StateWaiting, troubleOf(held))
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
		damage := err.Error()
		j.box.set(func(r *StreamReport) { r.SpoolDamage = damage })
		j.event(StreamEvent{Kind: "spool-damaged", Err: err})
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
	pctx, cancel := context.WithTimeout(ctx, answerLimit)
	err = src.Log().Prepare(pctx)
	cancel()
	if err != nil {
		return false, err
	}
	if j.arch == nil {
		j.arch = j.archiver()
	}
	ok, err = j.tail(ctx, src)
	j.streamed = j.streamed || ok
	if aerr := j.arch.Err(); aerr != nil && !final(err) {
		err = engines.Permanent(errors.Join(err, aerr)) // it takes nothing any more
	}
	if j.spool == nil || ctx.Err() != nil || final(err) || errors.As(err, new(*wal.GapError)) {
		if ctx.Err() == nil {
			j.lost(err)
		}
		err = j.closeArchive(ctx, err)
	}
	return ok, err
}

// lost tells at once that a session is over and why: storing what it received
// may take as long as the store is away.
func (j *streamJob) lost(err error) {
	t := troubleOf(err)
	if j.box.get().Message == t.message {
		return
	}
	j.box.trouble(StateConnecting, t)
	j.event(StreamEvent{Kind: "lost", Err: err})
}

// identify makes sure that this is the server whose log the job writes.
func (j *streamJob) identify(ctx context.Context, src engines.Source) error {
	if j.streamed { // then the store need not be asked, which may be away
		ictx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		id, err := src.Identify(ictx)
		if err == nil && id.Lineage.ID != j.lineage.Info().ID {
			err = otherSystem(j.r.Database, j.lineage.Info().ID, id.Lineage.ID)
		}
		return err
	}
	l, _, err := j.d.register(ctx, src, j.r.Database, j.r.NewLineage)
	if err != nil {
		return err
	}
	if j.lineage != nil && j.lineage.Info().ID != l.Info().ID {
		// What was drained was of an earlier lineage of this name.
		var serr error
		if j.spool != nil {
			serr = j.spool.Close()
		}
		if err := errors.Join(serr, j.lease.Release(ctx)); err != nil {
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
	if err == nil {
		if j.ranges == nil {
			j.ranges = map[string][]wal.Range{}
		}
		j.ranges[branch] = ranges
	}
	if known, ok := j.ranges[branch]; err != nil && !errors.Is(err, repo.ErrDamaged) && ok && j.spool != nil && j.arch != nil {
		// The store is away: it has at least what it had, for we are its one writer.
		ranges, err = known, nil
	}
	if err != nil || j.spool == nil || j.arch == nil {
		return ranges, fromStore(err)
	}
	if st := j.arch.Status(); st.Branch == branch && st.Durable > st.Begun {
		ranges = wal.Merge(append(ranges, wal.Range{Branch: branch, Start: st.Begun, End: st.Durable}))
	}
	return ranges, nil
}

// archived reads what held promised: from the store what it holds, the rest
// from the spool. While the store is away the spool's part alone will do.
func (j *streamJob) archived(ctx context.Context, branch string, from, to repo.Position) ([]byte, error) {
	split := to // where the spool's part begins
	if j.spool != nil && j.arch != nil {
		if st := j.arch.Status(); st.Branch == branch {
			split = min(to, max(from, st.Begun, st.Stored))
		}
	}
	var spooled []byte
	var err error
	if split < to {
		if spooled, err = j.spool.Read(branch, split, to); err != nil {
			return nil, err
		}
	}
	if from == split {
		return spooled, nil
	}
	stored, err := wal.ReadRange(ctx, j.lineage, branch, from, split)
	if err != nil && len(spooled) > 0 && !errors.Is(err, repo.ErrDamaged) {
		j.d.Log.Debug("comparing the server's log with the spool alone: the store did not answer", "error", err)
		return spooled, nil
	}
	return append(stored, spooled...), fromStore(err)
}

// errUnstored: not all that was received is in the store.
var errUnstored = errors.New("not all that was received is stored")

// graceful is a context that ends so long after ctx.
func graceful(ctx context.Context, after time.Duration) (context.Context, context.CancelFunc) {
	out, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		t := time.AfterFunc(after, cancel)
		context.AfterFunc(out, func() { t.Stop() })
	})
	return out, func() { stop(); cancel() }
}

// closeArchive stores what was received. While the source is gone these bytes
// may be the only copy outside the spool, so only the user (or a fork) ends
// the attempt.
func (j *streamJob) closeArchive(ctx context.Context, terr error) error {
	arch := j.arch
	j.arch = nil
	event := wal.EventSourceLost
	if ctx.Err() != nil {
		event = "shutdown"
	}
	cctx, cancel := graceful(ctx, drain)
	defer cancel()
	cerr := arch.Close(cctx, event)
	if st := arch.Status(); cerr == nil && ctx.Err() != nil && j.spool != nil && st.Stored >= st.Received {
		// Heartbeats behind the last log are noted in the store now, and this
		// process spools nothing more.
		if err := j.spool.Trim(st.Branch, st.Stored+1); err != nil {
			j.d.Log.Warn("the spool could not be trimmed", "error", err)
		}
	}
	switch {
	case cerr == nil:
	case j.spool != nil && !final(cerr):
		// Not lost: the next start drains it.
		j.d.Log.Warn("the rest of the log stays in the spool until the next start", "error", cerr)
		cerr = nil
	default:
		cerr = hferr.New("store the last of the log", fmt.Errorf("%w: %w", errUnstored, cerr), "what was not stored was not acknowledged: the server still has it, and the next stream fetches it")
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
	why = errors.Join(why, err)
	j.box.trouble(StateStopped, troubleOf(why)) // none: who was told to stop and has stored everything
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

// answerLimit is how long a server may take for the few questions before a
// stream: one that hangs must not keep a session for ever.
const answerLimit = 30 * time.Second

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
