package postgres

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// LogGoneError: the server no longer has log that the archive lacks.
type LogGoneError struct {
	Branch   string
	From, To repo.Position // To 0: unknown
}

func (e *LogGoneError) Error() string {
	to := "an unknown position"
	if e.To != 0 {
		to = FormatLSN(e.To)
	}
	return fmt.Sprintf("the server has removed its log from %s to %s (branch %s), and the archive does not hold it", FormatLSN(e.From), to, e.Branch)
}

// AheadError: the archive holds log that the server has never written.
type AheadError struct {
	Held, Server repo.Position
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("the archive holds log through %s, but the server's ends at %s", FormatLSN(e.Held), FormatLSN(e.Server))
}

// LeftHistoryError: the server's timeline does not descend from the branch
// that was being streamed.
type LeftHistoryError struct {
	Branch, Server string
	At             repo.Position
}

func (e *LeftHistoryError) Error() string {
	return fmt.Sprintf("the server is now on branch %s, which does not continue branch %s at %s", e.Server, e.Branch, FormatLSN(e.At))
}

// tail is one Tail call.
type tail struct {
	l    *logSource
	o    engines.TailOptions
	in   wal.Intake
	slot string // keeps the server's log for us
	over string // the slot that is streamed over: the same, or a temporary one

	segment  int64         // bytes of a WAL segment
	recovery bool          // the source is a standby
	interval time.Duration // between unasked status messages
	floor    repo.Position // the server has its log from here, by the slot's promise
	until    *repo.Position
	ready    bool   // o.Ready has been called
	advance  func() // stops the advancer; nil: it has not begun
	noLead   bool   // the server no longer has what is before the first byte wanted
}

// Tail streams the log into in; see engines.LogSource. Every error may be
// retried but those engines.IsPermanent knows.
func (l *logSource) Tail(ctx context.Context, o engines.TailOptions, in wal.Intake) error {
	t := &tail{l: l, o: o, in: in, slot: slotName(l.name)}
	err := t.run(ctx)
	if ctx.Err() != nil && in.Err() == nil && !engines.IsPermanent(err) {
		return nil
	}
	return l.explain("stream the log of "+l.name, err)
}

func (t *tail) run(ctx context.Context) error {
	conn, err := t.open(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// A stream takes its connection over, to its end.
		if conn != nil {
			t.l.hangUp(conn)
		}
	}()
	defer t.stopAdvancing()
	where, err := t.begin(ctx, conn)
	if err != nil {
		return err
	}
	pos, fallback, err := t.startAt(ctx, conn, where)
	if err != nil {
		return err
	}
	for {
		i := owner(where.Path, pos)
		branch := where.Path[i]
		lead, err := t.leadUp(ctx, where.Path, pos)
		if err != nil {
			return err
		}
		next, taken, err := t.branch(ctx, conn, branch, lead, where.Flushed)
		if taken {
			conn = nil
		}
		if errors.Is(err, errLeadGone) {
			t.l.log.Info("the server no longer has the log before the first byte wanted: it cannot be compared with the archive", "at", FormatLSN(pos))
			t.noLead = true
			if conn, err = t.open(ctx); err != nil {
				return err
			}
			continue
		}
		var gone *LogGoneError
		if errors.As(err, &gone) && fallback != 0 && gone.From == pos {
			gone.To = fallback
			t.l.log.Error("log is lost: it is neither in the archive nor on the server any more; archiving goes on behind the hole",
				"branch", branch.ID, "from", FormatLSN(pos), "to", FormatLSN(fallback))
			pos, fallback = fallback, 0
			if conn, err = t.open(ctx); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		conn, pos, fallback = next.conn, next.pos, 0
		if where, err = locate(ctx, conn); err != nil {
			return err
		}
		if err := t.continues(where, branch, pos); err != nil {
			return err
		}
	}
}

// setupLimit bounds the questions before a stream: a server that hangs must
// not keep it for ever.
const setupLimit = 30 * time.Second

// begin asks what must be known before the first byte.
func (t *tail) begin(ctx context.Context, conn *pgconn.PgConn) (whereabouts, error) {
	ctx, cancel := context.WithTimeout(ctx, setupLimit)
	defer cancel()
	if err := t.prepare(ctx); err != nil {
		return whereabouts{}, err
	}
	where, err := locate(ctx, conn)
	if err != nil {
		return where, err
	}
	return where, t.sameSystem(where)
}

// continues checks that a server's new timeline begins where the old ended.
func (t *tail) continues(where whereabouts, old repo.Branch, pos repo.Position) error {
	i := owner(where.Path, pos)
	if b := where.Path[i]; b.Fork == pos && i > 0 {
		for _, ancestor := range where.Path[:i] {
			if ancestor.ID == old.ID {
				return nil
			}
		}
	}
	return engines.Permanent(hferr.New("follow a timeline switch",
		&LeftHistoryError{Branch: old.ID, Server: where.branch().ID, At: pos},
		"check which server is the true primary; take a new base backup of it"))
}

// temporarySlotName is unique, so that one-shot backups may run at once.
func temporarySlotName(database string) (string, error) {
	var b [4]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", err
	}
	suffix := "_once_" + hex.EncodeToString(b[:])
	name := slotName(database)
	return name[:min(len(name), maxSlotName-len(suffix))] + suffix, nil
}

const (
	statusEvery  = 2500 * time.Millisecond // at most, between unasked status messages, each of which asks for an answer
	streamStall  = 20 * time.Second        // without any answer: the connection is dead
	askedAgain   = 100 * time.Millisecond
	shutdownWait = 20 * time.Second
)

// prepare reads what the stream must know of slot and server.
func (t *tail) prepare(ctx context.Context) error {
	conn, err := t.l.sql(ctx, "")
	if err != nil {
		return err
	}
	defer t.l.hangUp(conn)
	facts, err := readFacts(ctx, conn)
	if err != nil {
		return err
	}
	t.segment, t.recovery = facts.SegmentSize, facts.InRecovery
	t.interval, err = t.statusInterval(ctx, conn)
	if err != nil {
		return err
	}
	st, found, err := readSlot(ctx, conn, t.slot)
	switch {
	case err != nil:
		return err
	case !found:
		return hferr.New("stream the log of "+t.l.name, &SlotMissingError{t.slot},
			"somebody dropped it; start the stream again, which makes a new one and shows what is missing")
	case st.lost():
		return t.l.lostError("stream the log of "+t.l.name, st)
	}
	if !t.o.Temporary {
		if err := t.l.refuseApply(ctx, conn); err != nil {
			return err
		}
	}
	restart, err := ParseLSN(st.Restart)
	if err != nil {
		return err
	}
	t.floor = segmentStart(restart, t.segment)
	return nil
}

// statusInterval: the server ends a stream from which it has heard nothing
// for wal_sender_timeout, so we speak three times as often at least.
func (t *tail) statusInterval(ctx context.Context, conn *pgx.Conn) (time.Duration, error) {
	var ms int64
	if err := conn.QueryRow(ctx, `select setting::bigint from pg_settings where name = 'wal_sender_timeout'`).Scan(&ms); err != nil {
		return 0, err
	}
	every := min(statusEvery, t.l.stall/3)
	if timeout := time.Duration(ms) * time.Millisecond; timeout > 0 {
		every = min(every, timeout/3)
	}
	return max(every, 50*time.Millisecond), nil
}

// startAt is the first byte that the archive lacks, from the slot's promise
// on. If the archive ends before that promise (the slot is newer than the
// archive), the server may still have what is between: it is tried, and
// fallback is where to go on if the server has removed it.
func (t *tail) startAt(ctx context.Context, conn *pgconn.PgConn, where whereabouts) (pos, fallback repo.Position, err error) {
	floor := t.floor
	if t.o.Temporary && t.o.From != 0 {
		floor = t.o.From
	}
	held, err := t.heldAlong(ctx, where.Path)
	if err != nil {
		return 0, 0, err
	}
	pos = nextMissing(held, floor)
	if end := endBefore(held, floor); !t.o.Temporary && end != 0 && end < floor {
		pos, fallback = end, pos
	}
	flushed := where.Flushed
	if pos > flushed {
		// Another writer (a one-shot backup, a stream that is draining) may
		// have stored what the server wrote since it was asked: ask again.
		now, err := locate(ctx, conn)
		if err != nil {
			return 0, 0, err
		}
		flushed = now.Flushed
	}
	if pos > flushed {
		err := hferr.New("resume the stream of "+t.l.name, &AheadError{Held: pos, Server: flushed},
			"the server was put back to an older state (a snapshot, lost writes) or is another copy of the same cluster: find out which; a new base backup under a new name is safe")
		if t.recovery {
			return 0, 0, err // a standby may only be behind
		}
		return 0, 0, engines.Permanent(err)
	}
	return pos, fallback, nil
}

// interval of positions [Start, End) that the archive holds.
type heldRange struct{ Start, End repo.Position }

// heldAlong lists what the archive holds along a path of branches, each
// counted only where the path runs on it. Ordered.
func (t *tail) heldAlong(ctx context.Context, path []repo.Branch) ([]heldRange, error) {
	var out []heldRange
	if t.o.Held == nil {
		return nil, nil
	}
	for i, b := range path {
		ranges, err := t.o.Held(ctx, b.ID)
		if err != nil {
			return nil, err
		}
		for _, r := range ranges {
			h := heldRange{max(r.Start, b.Fork), r.End}
			if i+1 < len(path) {
				h.End = min(h.End, path[i+1].Fork)
			}
			if h.Start < h.End {
				out = append(out, h)
			}
		}
	}
	return out, nil
}

// nextMissing is the first position at or after from outside held.
func nextMissing(held []heldRange, from repo.Position) repo.Position {
	for _, h := range held {
		if h.Start <= from && from < h.End {
			from = h.End
		}
	}
	return from
}

// endBefore is where the last range that begins before p ends, 0 if none.
func endBefore(held []heldRange, p repo.Position) repo.Position {
	var end repo.Position
	for _, h := range held {
		if h.Start < p {
			end = max(end, h.End)
		}
	}
	return end
}
