package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// logSource is the server's WAL, kept for us by a physical replication slot.
type logSource struct {
	*source
	stall time.Duration // a stream without any answer for so long is dead
}

var _ engines.LogSource = (*logSource)(nil)

const (
	slotKind   = "physical replication slot"
	slotPrefix = "holdfast_"
	// maxSlotName is NAMEDATALEN-1.
	maxSlotName = 63
)

// slotName makes a database's name fit a slot: lower-case letters, digits and
// underscores (ReplicationSlotValidateName in replication/slot.c).
func slotName(database string) string {
	name := slotPrefix + strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9', r == '_':
			return r
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		}
		return '_'
	}, database)
	return name[:min(len(name), maxSlotName)]
}

// SlotLostError: the slot exists but the server has removed log it was to keep.
type SlotLostError struct {
	Slot  string
	State string // the server's word: "lost" or "unreserved"
	Cause string // the server's invalidation_reason, from 17 on
}

// causeRemoved is the invalidation_reason of a slot that was too far behind
// (RS_INVAL_WAL_REMOVED in replication/slot.c).
const causeRemoved = "wal_removed"

func (e *SlotLostError) Error() string {
	if e.Cause != "" && e.Cause != causeRemoved {
		return fmt.Sprintf("replication slot %s is invalidated (%s): the server does not keep log for it any more", e.Slot, e.Cause)
	}
	return fmt.Sprintf("replication slot %s is %s: the server removed log that it should have kept", e.Slot, e.State)
}

// slotState is one row of pg_replication_slots.
type slotState struct {
	Name    string
	Type    string
	Active  bool
	Restart string // "" when nothing is reserved
	State   string
	Bytes   int64
	Temp    bool
	Cause   string // why it is invalidated, from 17 on
}

// A column that a version lacks is asked for by way of JSON, where it is null.
// The log a slot holds back is measured from the end that can be known: a
// standby has no insert position.
const slotSQL = `
select slot_name::text, slot_type, active, coalesce(restart_lsn::text, ''), coalesce(wal_status, ''),
       coalesce((case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end) - restart_lsn, 0)::bigint,
       temporary, coalesce(to_jsonb(s) ->> 'invalidation_reason', '')
  from pg_replication_slots s`

func readSlot(ctx context.Context, conn *pgx.Conn, name string) (slotState, bool, error) {
	rows, err := conn.Query(ctx, slotSQL+` where slot_name = $1`, name)
	if err != nil {
		return slotState{}, false, err
	}
	st, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[slotState])
	if errors.Is(err, pgx.ErrNoRows) {
		return slotState{}, false, nil
	}
	return st, err == nil, err
}

// lost reports whether the slot no longer keeps what it promised.
func (st slotState) lost() bool { return st.State == "lost" || st.Restart == "" }

func (l *logSource) lostError(what string, st slotState) error {
	state := st.State
	if state == "" || state == "reserved" {
		state = "without a position"
	}
	then := "start the stream again (it makes a new slot) and take a new base backup; raise max_slot_wal_keep_size if the stream must survive longer outages"
	if st.Cause != "" && st.Cause != causeRemoved {
		then = "start the stream again at once: it makes a new slot and fetches what the server still has; if the log names a hole then, take a new base backup"
		if st.Cause == "idle_timeout" {
			then += "\nALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();"
		}
	}
	return l.explain(what, engines.Permanent(hferr.New(what, &SlotLostError{st.Name, state, st.Cause},
		"the log between the last stored position and now may be gone; keep what is stored, then:\n"+
			fmt.Sprintf("SELECT pg_drop_replication_slot('%s');  -- or: holdfast slot drop %s\n", st.Name, l.name)+then)))
}

// Prepare makes the slot if it is missing and proves that it holds its log.
// RESERVE_WAL reserves from the last checkpoint's redo position at once.
func (l *logSource) Prepare(ctx context.Context) error {
	name := slotName(l.name)
	what := "prepare replication slot " + name
	conn, err := l.sql(ctx, "")
	if err != nil {
		return err
	}
	defer l.hangUp(conn)
	if err := l.refuseApply(ctx, conn); err != nil {
		return l.explain(what, err)
	}
	st, found, err := readSlot(ctx, conn, name)
	if err != nil {
		return l.explain(what, err)
	}
	if !found {
		repl, err := l.replication(ctx, nil)
		if err != nil {
			return err
		}
		defer l.hangUp(repl)
		err = createSlot(ctx, repl, name, false)
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) && pgErr.Code == stateDuplicate {
			err = nil // somebody was quicker; looked at below
		}
		if err != nil {
			return l.slotError(what, err)
		}
		if st, found, err = readSlot(ctx, conn, name); err != nil {
			return l.explain(what, err)
		}
		if !found {
			return hferr.New(what, errors.New("it vanished as soon as it was made"), "see who drops replication slots on this server")
		}
	}
	if st.Type != "physical" {
		return engines.Permanent(hferr.New(what, fmt.Errorf("a %s slot has this name", st.Type),
			"drop or rename it, or choose another name for the database in holdfast.yaml"))
	}
	if st.lost() {
		return l.lostError(what, st)
	}
	return nil
}

// createSlot speaks both grammars: the options' parentheses came with 15, and
// the older form is still understood.
func createSlot(ctx context.Context, conn *pgconn.PgConn, name string, temporary bool) error {
	kind := ""
	if temporary {
		kind = "TEMPORARY "
	}
	_, err := conn.Exec(ctx, fmt.Sprintf("CREATE_REPLICATION_SLOT %s %sPHYSICAL RESERVE_WAL", name, kind)).ReadAll()
	return err
}

func (l *logSource) slotError(what string, err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case stateConfigLimit:
			return hferr.New(what, pgErr, "all replication slots are in use: drop an unused one (SELECT * FROM pg_replication_slots WHERE NOT active) or\nALTER SYSTEM SET max_replication_slots = 10;  -- needs a restart")
		case stateNotInState:
			return hferr.New(what, pgErr, "ALTER SYSTEM SET wal_level = replica;\nALTER SYSTEM SET max_replication_slots = 10;  -- both need a restart")
		}
	}
	return l.explain(what, err)
}

// Retained lists every physical slot, ours marked; logical slots of others
// are none of our business.
func (l *logSource) Retained(ctx context.Context) ([]engines.Retained, error) {
	conn, err := l.sql(ctx, "")
	if err != nil {
		return nil, err
	}
	defer l.hangUp(conn)
	rows, err := conn.Query(ctx, slotSQL+` where slot_type = 'physical' order by slot_name`)
	if err != nil {
		return nil, l.explain("list replication slots", err)
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[slotState])
	if err != nil {
		return nil, l.explain("list replication slots", err)
	}
	out := make([]engines.Retained, 0, len(slots))
	for _, st := range slots {
		var at repo.Position
		if st.Restart != "" {
			if at, err = ParseLSN(st.Restart); err != nil {
				return nil, err
			}
		}
		out = append(out, engines.Retained{
			Name: st.Name, Kind: slotKind, Active: st.Active, Position: at, Bytes: max(st.Bytes, 0),
			State: st.State,
			// A one-shot backup's own slot ends with that backup: it is not
			// left behind, and nobody may take it for a live streamer.
			Ours: strings.HasPrefix(st.Name, slotPrefix) && !st.Temp,
		})
	}
	return out, nil
}

// Release drops a slot of ours; name "" means this database's.
func (l *logSource) Release(ctx context.Context, name string) error {
	if name == "" {
		name = slotName(l.name)
	}
	what := "drop replication slot " + name
	if !strings.HasPrefix(name, slotPrefix) {
		return hferr.NewUsage(what, errors.New("holdfast did not make it"),
			fmt.Sprintf("SELECT pg_drop_replication_slot('%s');  -- if you are sure", strings.ReplaceAll(name, "'", "''")))
	}
	conn, err := l.sql(ctx, "")
	if err != nil {
		return err
	}
	defer l.hangUp(conn)
	_, err = conn.Exec(ctx, `select pg_drop_replication_slot($1)`, name)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case stateObjectInUse:
			return hferr.New(what, pgErr, "a stream is using it: stop holdfast stream (or run) for "+l.name+" first")
		case stateUndefined:
			return hferr.New(what, pgErr, "holdfast slot list "+l.name+" shows what is there")
		}
	}
	return l.explain(what, err)
}
