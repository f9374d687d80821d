package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// open opens the connection that is streamed over, with its slot.
func (t *tail) open(ctx context.Context) (*pgconn.PgConn, error) {
	conn, err := t.l.receiver(ctx, t.o.Temporary)
	if err != nil {
		return nil, err
	}
	if err := t.temporarySlot(ctx, conn); err != nil {
		t.l.hangUp(conn)
		return nil, err
	}
	return conn, nil
}

// temporarySlot makes the slot that is streamed over, where that is not the
// one which keeps the log. With a spool the acknowledgements of the stream are
// ahead of the store, so they must not move the slot that says what the server
// may remove: that one follows the store (advanceSlot).
func (t *tail) temporarySlot(ctx context.Context, conn *pgconn.PgConn) (err error) {
	t.over = t.slot
	if !t.o.Temporary && !t.o.Spooled {
		return nil
	}
	if t.over, err = temporarySlotName(t.l.name); err != nil {
		return err
	}
	if t.o.Temporary {
		t.slot = t.over
	}
	if err := createSlot(ctx, conn, t.over, true); err != nil {
		return t.l.slotError("make a temporary replication slot", err)
	}
	return nil
}

// startAdvancing begins once the intake has taken this server's log for the
// archive's: before that what is stored says nothing of this server.
func (t *tail) startAdvancing(ctx context.Context) {
	if t.o.Spooled && t.advance == nil {
		t.advance = t.advanceSlot(ctx)
	}
}

func (t *tail) stopAdvancing() {
	if t.advance != nil {
		t.advance()
	}
}

// advanceEvery is how often the slot that keeps the log is moved at most.
const advanceEvery = time.Second

// advanceSlot moves the slot that keeps the log to what the store holds, in
// the background, until the function it returns is called; that one moves it a
// last time. Failing is no reason to end the stream: the server then only
// keeps more than it must.
func (t *tail) advanceSlot(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // it outlives the branch it began with
	done := make(chan struct{})
	a := &slotAdvancer{t: t}
	go func() {
		defer close(done)
		a.run(ctx)
	}()
	return func() {
		cancel()
		<-done
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbye)
		defer cancel()
		a.move(last)
		a.hangUp()
	}
}

type slotAdvancer struct {
	t     *tail
	conn  *pgx.Conn
	moved repo.Position
	down  bool
}

func (a *slotAdvancer) run(ctx context.Context) {
	tick := time.NewTicker(advanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			a.move(ctx)
		}
	}
}

// move advances the slot to what is stored now. The server refuses to move it
// back, and beyond what it has flushed.
func (a *slotAdvancer) move(ctx context.Context) {
	at := a.t.in.Stored()
	if at <= a.moved || at <= a.t.floor {
		return
	}
	err := a.advance(ctx, at)
	switch {
	case err == nil:
		if a.down {
			a.t.l.log.Info("the slot follows the store again", "slot", a.t.slot, "at", FormatLSN(at))
		}
		a.moved, a.down = at, false
	case ctx.Err() != nil:
	default:
		a.hangUp()
		if !a.down {
			a.t.l.log.Warn("the slot could not be moved to what the store holds; the server keeps more log than it must", "slot", a.t.slot, "error", err)
		}
		a.down = true
	}
}

func (a *slotAdvancer) advance(ctx context.Context, at repo.Position) (err error) {
	if a.conn == nil {
		if a.conn, err = a.t.l.sql(ctx, ""); err != nil {
			a.conn = nil
			return err
		}
	}
	// A slot that is there already is not asked to move: that is an error.
	var state string
	err = a.conn.QueryRow(ctx, `select coalesce(wal_status, ''),
		case when restart_lsn < $2::text::pg_lsn then pg_replication_slot_advance(slot_name, $2::text::pg_lsn)::text end
		from pg_replication_slots where slot_name = $1`, a.t.slot, FormatLSN(at)).Scan(&state, new(*string))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("replication slot %s is missing", a.t.slot)
	case err == nil && state == "lost":
		return &SlotLostError{Slot: a.t.slot, State: state}
	}
	return err
}

func (a *slotAdvancer) hangUp() {
	if a.conn != nil {
		a.t.l.hangUp(a.conn)
		a.conn = nil
	}
}
