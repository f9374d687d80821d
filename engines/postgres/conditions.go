package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// SlotMissingError: a slot that was there is not there any more.
type SlotMissingError struct{ Slot string }

func (e *SlotMissingError) Error() string {
	return fmt.Sprintf("replication slot %s is missing", e.Slot)
}

// OtherSystemError: the server is not the one whose log the archive holds.
type OtherSystemError struct{ Archive, Server string } // lineages

func (e *OtherSystemError) Error() string {
	return fmt.Sprintf("the server is %s, and the archive is of %s", e.Server, e.Archive)
}

// StalledError: the connection stands, but the server does not answer.
type StalledError struct{ After time.Duration }

func (e *StalledError) Error() string {
	return fmt.Sprintf("the connection is stalled: the server has not answered for %v", e.After)
}

// sameSystem refuses to feed an archive from another server.
func (t *tail) sameSystem(where whereabouts) error {
	is := lineageID(where.System)
	if t.o.Lineage == "" || t.o.Lineage == is {
		return nil
	}
	return engines.Permanent(hferr.New("stream the log of "+t.l.name, &OtherSystemError{Archive: t.o.Lineage, Server: is},
		"the server behind the URL was replaced or re-initialised, or the URL names another one; "+
			"nothing of it was stored. Mend the URL, or start again: the new server gets an archive of its own, and needs a new base backup"))
}

// conditionOf sorts an error by its type, the server's SQLSTATE (manual,
// appendix A), and the system's error; "" when none of them tells.
func conditionOf(err error) engines.Condition {
	if err == nil || errors.Is(err, context.Canceled) {
		return ""
	}
	if c := engines.ConditionOf(err); c != "" {
		return c
	}
	if c := ownCondition(err); c != "" {
		return c
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return serverCondition(pgErr)
	}
	return networkCondition(err)
}

// ownCondition knows this package's errors.
func ownCondition(err error) engines.Condition {
	var lost *SlotLostError
	switch {
	case errors.As(err, &lost) && lost.Cause != "" && lost.Cause != causeRemoved:
		return engines.ConditionSlotInvalidated
	case errors.As(err, &lost):
		return engines.ConditionSlotLost
	case is[*SlotMissingError](err):
		return engines.ConditionSlotMissing
	case is[*LogGoneError](err):
		return engines.ConditionLogGone
	case is[*OtherSystemError](err):
		return engines.ConditionOtherSystem
	case is[*LeftHistoryError](err):
		return engines.ConditionOtherHistory
	case is[*AheadError](err):
		return engines.ConditionArchiveAhead
	case is[*StalledError](err):
		return engines.ConditionStalled
	case is[*ApplyDemandedError](err):
		return engines.ConditionApplyDemanded
	case errors.Is(err, ErrServerStopped), errors.Is(err, errShutdownWaits):
		return engines.ConditionServerStopped
	}
	return ""
}

func is[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

func serverCondition(e *pgconn.PgError) engines.Condition {
	switch e.Code {
	case stateBadPassword, stateBadAuth, stateNoPrivilege:
		return engines.ConditionAuthentication
	case stateCannotConnect, stateTooMany:
		return engines.ConditionRefused
	case stateAdminShutdown:
		return engines.ConditionServerStopped
	case stateCrashShutdown:
		return engines.ConditionServerRestarted
	case stateObjectInUse:
		return engines.ConditionSlotInUse
	}
	return ""
}

// networkCondition tells a connection that broke from one that never stood.
func networkCondition(err error) engines.Condition {
	var timeout net.Error
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns), errors.As(err, &op) && op.Op == "dial":
		return engines.ConditionUnreachable
	case is[*pgconn.ConnectError](err) && (errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded)):
		return engines.ConditionUnreachable
	case errors.As(err, &timeout) && timeout.Timeout():
		return engines.ConditionStalled
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed),
		errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), op != nil:
		return engines.ConditionConnectionLost
	}
	return ""
}
