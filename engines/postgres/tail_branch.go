package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// continuation is where the stream goes on after the end of a timeline.
type continuation struct {
	conn *pgconn.PgConn
	pos  repo.Position
}

// branchRun streams one branch over one link.
type branchRun struct {
	t      *tail
	link   *link
	branch repo.Branch
	lead   lead
	start  repo.Position // where the intake begins
	taken  repo.Position // end of what was received: the lead, then what the intake has
	begun  bool
	index  wal.Indexer // the intake's once it has begun
	rep    *reporter
}

// branch streams from the lead's end until ctx ends, Until is durable (nil, nil), the
// timeline ends (a continuation) or something fails. taken says that conn was
// used up.
func (t *tail) branch(ctx context.Context, conn *pgconn.PgConn, b repo.Branch, up lead, flushed repo.Position) (next *continuation, taken bool, err error) {
	l, err := t.start(ctx, conn, b, up.from)
	if err != nil {
		return nil, false, err
	}
	next, err = t.follow(ctx, l, b, up, flushed)
	return next, true, err
}

func (t *tail) follow(ctx context.Context, l *link, b repo.Branch, up lead, flushed repo.Position) (*continuation, error) {
	r := &branchRun{t: t, link: l, branch: b, lead: up, start: up.to, taken: up.from, index: newIndexer(b, t.segment, up.to)}
	r.rep = newReporter(r, flushed)
	err := r.loop(ctx)
	if !errors.Is(err, errEndOfTimeline) {
		_ = r.rep.report(false) // a last word; if it is lost the slot stays behind a little
		l.close()
		return nil, r.gone(err)
	}
	next, at, err := l.nextTimeline(ctx)
	if err != nil {
		l.close()
		return nil, err
	}
	if at != r.taken {
		t.l.hangUp(next)
		return nil, fmt.Errorf("%w: the next timeline begins at %s, this one ended at %s", errStream, FormatLSN(at), FormatLSN(r.taken))
	}
	return &continuation{next, at}, nil
}

// slotPatience is how long a slot may still be held by our own last
// connection, whose end the server has not noticed yet.
const slotPatience = 3 * time.Second

func (t *tail) start(ctx context.Context, conn *pgconn.PgConn, b repo.Branch, pos repo.Position) (*link, error) {
	for deadline := time.Now().Add(slotPatience); ; {
		l, err := startReplication(ctx, conn, t.over, pos, b.Number, t.l.stall)
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != stateObjectInUse {
			return l, err
		}
		if time.Now().After(deadline) {
			return nil, hferr.New("stream the log of "+t.l.name, pgErr,
				"another holdfast streams this database, or the server has not noticed yet that an earlier connection is dead (wal_sender_timeout)")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(slotPatience / 15):
		}
	}
}

// gone says exactly what is missing when the server cannot find a segment.
func (r *branchRun) gone(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateNoFile && r.taken == r.lead.from {
		if r.lead.from < segmentStart(r.start, r.t.segment) {
			return errLeadGone // the segment wanted may be there all the same
		}
		return engines.Permanent(hferr.New("stream the log of "+r.t.l.name, &LogGoneError{Branch: r.branch.ID, From: r.start},
			"the server said: "+pgErr.Message+"\nkeep what is stored; drop the slot (holdfast slot drop "+r.t.l.name+"), start the stream again and take a new base backup"))
	}
	return err
}

// beginIdle begins where the server has no byte yet that we want. Where bytes
// are waiting, the intake is told only when the first has come: the server
// finds out only then whether it still has them.
func (r *branchRun) beginIdle(ctx context.Context) error {
	if r.begun || r.taken != r.start || r.start < r.rep.serverEnd() {
		return nil
	}
	return r.begin(ctx)
}

func (r *branchRun) begin(ctx context.Context) error {
	if err := r.t.in.Begin(ctx, r.branch, r.start, r.index); err != nil {
		return err
	}
	r.begun = true
	r.rep.began()
	r.t.startAdvancing(ctx)
	if !r.t.ready && r.t.o.Ready != nil {
		r.t.o.Ready(r.start)
	}
	r.t.ready = true
	return nil
}

// loop moves messages to the intake. The reports go out from a goroutine of
// their own, because Write blocks while the store is slow.
func (r *branchRun) loop(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.rep.run(ctx); err != nil {
			cancel(err)
		}
	}()
	defer func() { cancel(nil); <-done }()
	// Reports go out meanwhile: the intake may wait for a slow store.
	if err := r.beginIdle(ctx); err != nil {
		return err
	}
	for {
		changed := r.t.in.Changed()
		if err := r.t.in.Err(); err != nil {
			return err
		}
		if r.t.until != nil && r.begun && r.t.in.Durable() >= *r.t.until {
			return nil
		}
		var err error
		select {
		case a := <-r.link.arrivals:
			err = r.take(ctx, a)
		case <-r.link.ended:
			// What arrived before the end is still queued.
			for err == nil && len(r.link.arrivals) > 0 {
				err = r.take(ctx, <-r.link.arrivals)
			}
			if err == nil {
				err = r.link.err
			}
		case p := <-r.t.o.Until:
			r.t.until = &p
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return r.lastWords(err)
		}
	}
}

// lastWords prefers what the server said before it hung up to the broken pipe
// that a report met afterwards.
func (r *branchRun) lastWords(err error) error {
	var broken *net.OpError
	if !errors.As(err, &broken) || broken.Op != "write" {
		return err
	}
	r.link.discard()
	select {
	case <-r.link.ended:
	case <-time.After(goodbye):
		return err
	}
	var said *pgconn.PgError
	if errors.As(r.link.err, &said) || errors.Is(r.link.err, ErrServerStopped) {
		return r.link.err
	}
	return err
}

// take hands one message to the intake.
func (r *branchRun) take(ctx context.Context, a arrival) error {
	if a.Data == nil {
		if r.begun {
			r.t.in.Tick(a.Sent)
		}
	} else {
		if a.Pos != r.taken {
			return fmt.Errorf("%w: log at %s in place of %s", errStream, FormatLSN(a.Pos), FormatLSN(r.taken))
		}
		data, err := r.compare(a.Data)
		if err != nil {
			return err
		}
		if err := r.write(ctx, data, a.Sent); err != nil {
			return err
		}
	}
	if err := r.rep.took(a, r.taken); err != nil {
		return err
	}
	return r.beginIdle(ctx)
}

// write hands log to the intake, from its beginning on.
func (r *branchRun) write(ctx context.Context, data []byte, sent time.Time) error {
	if len(data) == 0 {
		return nil
	}
	if !r.begun {
		if err := r.begin(ctx); err != nil {
			return err
		}
	}
	if err := r.t.in.Write(ctx, wal.Chunk{Pos: r.taken, Data: data, SentTime: sent}); err != nil {
		return err
	}
	r.taken += repo.Position(len(data))
	return nil
}
