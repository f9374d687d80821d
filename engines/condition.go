package engines

import (
	"errors"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Condition is the kind of an event or failure of a source and its log: a
// stable code for status, notices and scripts. docs/operations.md says for
// each what is safe and what to do. Codes are only added.
type Condition string

const (
	// ConditionSlotLost: what keeps the log for us on the server gave log up.
	ConditionSlotLost Condition = "slot-lost"
	// ConditionSlotInvalidated: the server disabled it for another reason
	// (idle for too long); the log itself may still be there.
	ConditionSlotInvalidated Condition = "slot-invalidated"
	// ConditionSlotMissing: somebody removed it.
	ConditionSlotMissing Condition = "slot-missing"
	// ConditionSlotInUse: another connection streams it.
	ConditionSlotInUse Condition = "slot-in-use"
	// ConditionLogGone: the server has removed log that the archive lacks.
	ConditionLogGone Condition = "log-gone"
	// ConditionOtherSystem: the server behind the URL is another one.
	ConditionOtherSystem Condition = "other-system"
	// ConditionOtherHistory: the same system on a history that does not
	// continue the archive's.
	ConditionOtherHistory Condition = "other-history"
	// ConditionArchiveAhead: the archive holds log the server never wrote.
	ConditionArchiveAhead Condition = "archive-ahead"
	// ConditionServerStopped: the server shut down, or shuts down.
	ConditionServerStopped Condition = "server-stopped"
	// ConditionServerRestarted: the server restarts itself after a crash of
	// one of its processes. A planned restart is server-stopped, then refused.
	ConditionServerRestarted Condition = "server-restarted"
	// ConditionConnectionLost: the connection broke: the network was cut, the
	// host died, or the server was killed.
	ConditionConnectionLost Condition = "connection-lost"
	// ConditionStalled: the connection stands, and nothing comes.
	ConditionStalled Condition = "stalled"
	// ConditionUnreachable: nobody answers at the address.
	ConditionUnreachable Condition = "unreachable"
	// ConditionRefused: the server answers and does not let anybody in now:
	// it starts up, shuts down, recovers, or is full.
	ConditionRefused Condition = "refused"
	// ConditionAuthentication: the server does not let us in: password, role,
	// right, or its access rules.
	ConditionAuthentication Condition = "authentication-failed"
	// ConditionApplyDemanded: the server may make commits wait until we have
	// applied log, which an archive never does.
	ConditionApplyDemanded Condition = "sync-remote-apply"
)

// Classified is an error whose condition is known.
type Classified struct {
	Condition Condition
	Err       error
}

func (e *Classified) Error() string { return e.Err.Error() }
func (e *Classified) Unwrap() error { return e.Err }

// Classify gives err a condition; nil stays nil, and a condition given before
// stays.
func Classify(c Condition, err error) error {
	if err == nil || c == "" || ConditionOf(err) != "" {
		return err
	}
	return &Classified{Condition: c, Err: err}
}

// ConditionOf is the outermost condition in err's chain, "" when there is
// none. What the repository itself says of another history counts too.
func ConditionOf(err error) Condition {
	var c *Classified
	switch {
	case errors.As(err, &c):
		return c.Condition
	case errors.Is(err, repo.ErrFork):
		return ConditionOtherHistory
	}
	return ""
}
