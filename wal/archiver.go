package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// ErrClosed is returned by an archiver's methods after Close.
var ErrClosed = errors.New("the archiver is closed")

// DefaultSegment is where a segment is cut unless ArchiverOptions say
// otherwise, bytes: at 50 MB/s still several a second, and four of them, and
// once more what they become when sealed, are what a stream holds at most.
const DefaultSegment = 8 << 20

// ArchiverOptions bound an archiver.
type ArchiverOptions struct {
	FlushEvery time.Duration // a segment is sealed so long after its first byte; 0: 5 s
	MaxSegment int           // … or at so many bytes; 0: 8 MiB
	MaxPending int           // bytes in memory: sealed but not yet durable, plus the open segment. With a spool a few segments are the bound; 0: 32 MiB, two segments at least
	Stall      time.Duration // a put without an answer for so long is given up and retried; 0: 1 minute
	Retry      time.Duration // how long a failing store is retried before Err; 0: for ever
	Log        *slog.Logger
	Clock      func() time.Time
	// OnDurable is called after each segment is durable in the store, in
	// order. It must not call Begin, Flush or Close, which wait for it.
	OnDurable func(repo.SegmentMeta)
	// Spool, if there is one, answers for what the store does not hold yet:
	// Durable follows it, Stored the store. Its owner closes it, after Close.
	Spool Spool
	// Fence is asked after every put, before anything that it stored counts:
	// nil while this archiver is the log's one writer. An error that wraps
	// ErrLeaseLost is final; others (the store could not be asked) are retried.
	Fence func(ctx context.Context) error
}

func (o ArchiverOptions) withDefaults() ArchiverOptions {
	if o.FlushEvery <= 0 {
		o.FlushEvery = 5 * time.Second
	}
	if o.MaxSegment <= 0 {
		o.MaxSegment = DefaultSegment
	}
	if o.MaxPending <= 0 {
		o.MaxPending = max(4*DefaultSegment, 2*o.MaxSegment)
	}
	// A segment larger than what may wait would never be full.
	o.MaxSegment = min(o.MaxSegment, o.MaxPending)
	if o.Stall <= 0 {
		o.Stall = time.Minute
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o
}

// segmentStore is what an archiver needs of a lineage.
type segmentStore interface {
	PutBranch(ctx context.Context, b repo.Branch) error
	PutSegment(ctx context.Context, m *repo.SegmentMeta, data []byte) error
	Segments(ctx context.Context, branch string, from Position) ([]repo.SegmentRef, error)
	ReadSegmentMeta(ctx context.Context, ref repo.SegmentRef) (*repo.SegmentMeta, error)
	PutNote(ctx context.Context, n repo.Note) error
}

// Archiver implements Intake over a lineage: it cuts the stream into segments
// and uploads them beside receiving, several at a time; a position counts as
// durable only when every segment before it is. A failing store is retried
// and shows in Status; a place taken by another history (repo.ErrFork) is
// final. Safe for concurrent use, but Begin and Write from one goroutine.
type Archiver struct {
	store  segmentStore
	o      ArchiverOptions
	ctx    context.Context // ends every upload: after a failure and after Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	changed   chan struct{}
	err       error
	closed    bool
	begun     bool
	branch    repo.Branch
	start     Position // where Begin put this run of the branch
	end       Position // of what was written
	stored    Position
	synced    Position // in the spool
	full      bool     // the spool, and Write waits for it
	prev      link     // of the segment to be sealed next
	index     Indexer
	open      *openSegment
	buffers   buffers
	queue     []*sealedSegment // in order, not durable yet
	pending   int              // bytes in queue
	running   int              // uploads
	flying    int              // their bytes
	beats     []repo.Beat      // not in a sealed segment yet
	source    time.Time        // source's clock at the last good round trip
	last      *repo.SegmentMeta
	hole      *Range
	otherErr  error // of a put that is no segment (branch, note)
	otherFrom time.Time
	notes     []repo.SegmentMeta // durable, OnDurable not called yet
	notifying bool

	appended chan struct{} // the spool has bytes that are not synced
	spoolRun int           // counts Spool.Begin
}

// NewArchiver starts an archiver; Close ends it.
func NewArchiver(l *repo.Lineage, o ArchiverOptions) *Archiver { return newArchiver(l, o) }

func newArchiver(st segmentStore, o ArchiverOptions) *Archiver {
	a := &Archiver{store: st, o: o.withDefaults(), changed: make(chan struct{}), appended: make(chan struct{}, 1)}
	a.buffers.most = a.o.MaxSegment
	a.ctx, a.cancel = context.WithCancel(context.Background())
	if a.o.Spool != nil {
		a.wg.Go(a.syncSpool)
	}
	return a
}

// Write: see Intake. A chunk longer than MaxPending is taken once nothing
// else is waiting.
func (a *Archiver) Write(ctx context.Context, c Chunk) error {
	if len(c.Data) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.room(ctx, c); err != nil {
		return err
	}
	if a.o.Spool != nil {
		// Not under the lock: whoever asks for a position must not wait for
		// the disk. Only this goroutine moves the end.
		if err := a.spool(ctx, c); err != nil {
			return err
		}
	}
	a.take(c)
	return nil
}

// room waits until the chunk may be held in memory.
func (a *Archiver) room(ctx context.Context, c Chunk) error {
	for {
		if err := a.usable(); err != nil {
			return err
		}
		if !a.begun {
			return errors.New("log written before Begin")
		}
		if c.Pos > a.end {
			return &GapError{Branch: a.branch.ID, From: a.end, To: c.Pos}
		}
		if c.Pos < a.end {
			return fmt.Errorf("log of branch %s sent from %x, expected from %x", a.branch.ID, uint64(c.Pos), uint64(a.end))
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		held := a.heldBytes()
		if a.o.Spool != nil {
			// Commits may wait for the spool, so only the spool may block.
			// What cannot be shed is open or on its way. The rest leaves room
			// for what is read back meanwhile.
			a.shed(held + len(c.Data) - a.o.MaxPending/2)
			return nil
		}
		if held == 0 || held+len(c.Data) <= a.o.MaxPending {
			return nil
		}
		if len(a.queue) == 0 {
			a.seal(reasonSize) // or nothing would ever make room
		}
		if err := a.wait(ctx); err != nil {
			return err
		}
	}
}

// take appends a chunk, sealing at every full segment.
func (a *Archiver) take(c Chunk) {
	data := c.Data
	for len(data) > 0 {
		if a.open == nil {
			a.openAt(a.end, c.SentTime)
		}
		n := min(len(data), a.o.MaxSegment-len(a.open.data))
		a.open.data = a.buffers.extend(a.open.data, n)
		a.open.add(data[:n], c.SentTime)
		if a.index != nil {
			a.index.Add(a.end, data[:n])
		}
		a.end += Position(n)
		data = data[n:]
		if len(a.open.data) >= a.o.MaxSegment {
			a.seal(reasonSize)
		}
	}
	a.tick(c.SentTime)
}

// openAt starts a segment and its timer, which runs from the first byte:
// later bytes do not postpone it, or a busy source would never be flushed.
func (a *Archiver) openAt(at Position, sent time.Time) {
	s := newOpenSegment(at, sent)
	s.data = a.buffers.take()
	s.timer = time.AfterFunc(a.o.FlushEvery, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.open != s {
			return
		}
		s.due = true
		a.sealDue()
	})
	a.open = s
}

// sealDue seals a segment whose time is up once an uploader is free for it:
// while the store is slow, many small segments would only make it slower.
func (a *Archiver) sealDue() {
	if a.open != nil && a.open.due && len(a.queue) < parallelPuts && a.err == nil {
		a.seal(reasonTime)
	}
}

// seal closes the open segment, if there is one, and hands it to the uploaders.
func (a *Archiver) seal(reason string) {
	if a.open == nil {
		return
	}
	s := a.open.seal(a.branch.ID, reason, a.prev, a.beats, a.source, a.o.Clock())
	if a.index != nil {
		cut := a.index.Cut()
		s.meta.Index = &cut
	}
	a.open, a.beats = nil, nil
	a.prev = link{s.meta.End, s.hash}
	a.queue = append(a.queue, s)
	a.pending += len(s.data)
	a.dispatch()
}

// Tick: see Intake. Safe for concurrent use.
func (a *Archiver) Tick(source time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tick(source)
}

// tick takes the source's clock as it comes: it may have been set back.
func (a *Archiver) tick(source time.Time) {
	if !source.IsZero() {
		a.source = source
	}
}

// Beat hands over an acknowledged heartbeat, to travel with the next segment.
func (a *Archiver) Beat(b repo.Beat) {
	a.mu.Lock()
	a.beats = append(a.beats, b)
	if b.At.After(a.source) {
		a.tick(b.At) // a beat's time may be older than what has come since
	}
	keep := a.o.Spool != nil && a.begun && !a.closed && a.err == nil
	a.mu.Unlock()
	if keep {
		a.spoolBeat(b)
	}
}

// Durable: see Intake. It is 0 before the first Begin.
func (a *Archiver) Durable() Position {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.durable()
}

func (a *Archiver) durable() Position { return max(a.stored, a.synced) }

// Stored: see Intake.
func (a *Archiver) Stored() Position {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.stored
}

// Err: see Intake.
func (a *Archiver) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// Changed: see Intake.
func (a *Archiver) Changed() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Flush seals the open segment now and waits until all that was written
// before the call is durable and OnDurable has been told.
func (a *Archiver) Flush(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.usable(); err != nil {
		return err
	}
	a.seal(reasonBoundary)
	return a.drain(ctx)
}

// drain waits until nothing sealed is left to store.
func (a *Archiver) drain(ctx context.Context) error {
	for a.err == nil && (len(a.queue) > 0 || a.notifying) {
		if err := a.wait(ctx); err != nil {
			return fmt.Errorf("%d bytes of log are not in the store yet: %w", a.waiting(), err)
		}
	}
	return a.err
}

// wait gives up the lock until something changed.
func (a *Archiver) wait(ctx context.Context) error {
	ch := a.changed
	a.mu.Unlock()
	defer a.mu.Lock()
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *Archiver) broadcast() {
	close(a.changed)
	a.changed = make(chan struct{})
}

func (a *Archiver) usable() error {
	if a.closed {
		return ErrClosed
	}
	return a.err
}

// waiting is what is not in the store.
func (a *Archiver) waiting() int {
	n := a.pending
	if a.open != nil {
		n += len(a.open.data)
	}
	return n
}

// heldBytes is what is in memory.
func (a *Archiver) heldBytes() int {
	n := 0
	for _, s := range a.queue {
		n += len(s.data)
	}
	if a.open != nil {
		n += len(a.open.data)
	}
	return n
}

// fail ends the archiver's work: nothing more becomes durable.
func (a *Archiver) fail(err error) {
	if a.err != nil {
		return
	}
	a.err = err
	a.cancel()
	a.broadcast()
}
