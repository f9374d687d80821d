package agent

import (
	"errors"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Conditions of a stream that are not the source's (see engines.Condition).
const (
	// ConditionStoreFailing: the store does not take the log.
	ConditionStoreFailing engines.Condition = "store-failing"
	// ConditionSpoolFull: nothing more is received until the store takes some.
	ConditionSpoolFull engines.Condition = "spool-full"
	// ConditionSpoolDamaged: what an earlier run left could not be read whole.
	ConditionSpoolDamaged engines.Condition = "spool-damaged"
	// ConditionClockStep: the source's clock was set.
	ConditionClockStep engines.Condition = "clock-step"
	// ConditionLogHole: log was lost before this run; what follows is archived.
	ConditionLogHole engines.Condition = "log-hole"
	// ConditionLeaseHeld: another writer follows this log.
	ConditionLeaseHeld engines.Condition = "lease-held"
	// ConditionLeaseLost: another writer has taken this log over.
	ConditionLeaseLost engines.Condition = "lease-lost"
	// ConditionFork: another history holds a place of the log.
	ConditionFork engines.Condition = "fork"
)

// States of a stream.
const (
	StateWaiting    = "waiting"    // for the log's lease
	StateDraining   = "draining"   // what an earlier run left in the spool
	StateConnecting = "connecting" // to the source
	StateStreaming  = "streaming"
	StateStopped    = "stopped"
)

// StreamReport is a stream at one moment: what it prints, and what travels
// with the log's lease so that `status` elsewhere can show it.
type StreamReport struct {
	State      string             `json:"state"`
	Condition  engines.Condition  `json:"condition,omitempty"` // what is wrong; "": nothing is
	Message    string             `json:"message,omitempty"`
	Hint       string             `json:"hint,omitempty"`
	Since      time.Time          `json:"since,omitzero"` // of the condition, this host's clock
	Durability string             `json:"durability"`     // "store" or "spool"
	Branch     string             `json:"branch,omitempty"`
	ServerEnd  repo.Position      `json:"server_end"`
	Received   repo.Position      `json:"received"`
	Durable    repo.Position      `json:"durable"` // may be acknowledged
	Stored     repo.Position      `json:"stored"`
	StoredTime time.Time          `json:"stored_time,omitzero"` // source's clock when the last stored byte was sent
	SourceTime time.Time          `json:"source_time,omitzero"` // source's clock at the last good round trip
	Idle       bool               `json:"idle"`                 // the store holds all that the server has written
	Spool      *SpoolReport       `json:"spool,omitempty"`
	Guarantee  *engines.Guarantee `json:"guarantee,omitempty"`
	Hole       *wal.Range         `json:"hole,omitempty"`
	// SpoolDamage says that what an earlier run left in the spool was damaged.
	SpoolDamage string `json:"spool_damage,omitempty"`
}

// SpoolReport is what the spool holds.
type SpoolReport struct {
	Bytes int64 `json:"bytes"`
	Limit int64 `json:"limit"`
	Full  bool  `json:"full"`
}

// conditionOf names what an error is to a stream.
func conditionOf(err error) engines.Condition {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, wal.ErrLeaseLost):
		return ConditionLeaseLost
	case errors.As(err, new(*wal.LeaseHeldError)):
		return ConditionLeaseHeld
	case errors.Is(err, repo.ErrFork):
		return ConditionFork
	case errors.As(err, new(*storeError)):
		return ConditionStoreFailing
	}
	if c := engines.ConditionOf(err); c != "" {
		return c
	}
	return engines.ConditionConnectionLost
}

// storeError is an error of the store among those of a session.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

func fromStore(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

// trouble is one thing that is wrong.
type trouble struct {
	condition     engines.Condition
	message, hint string
}

func troubleOf(err error) trouble {
	if err == nil {
		return trouble{}
	}
	t := trouble{conditionOf(err), err.Error(), hferr.HintOf(err)}
	if t.hint == "" && t.condition == ConditionStoreFailing {
		t.hint = storeHint(err, nil)
	}
	if t.hint == "" {
		t.hint = "The stream connects again by itself and resumes at the first byte that the archive lacks; nothing that was acknowledged is lost. " +
			"If it lasts, look at the server and the network between."
	}
	return t
}

// reportBox holds a stream's report; changed is told of a new state or
// condition.
type reportBox struct {
	clock   func() time.Time
	changed func(StreamReport)

	mu sync.Mutex
	r  StreamReport
}

func (b *reportBox) get() StreamReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.r
}

// set changes the report.
func (b *reportBox) set(fn func(r *StreamReport)) {
	b.mu.Lock()
	was := b.r
	fn(&b.r)
	if b.r.Condition != was.Condition {
		b.r.Since = time.Time{}
		if b.r.Condition != "" {
			b.r.Since = b.clock().UTC()
		}
	}
	now := b.r
	b.mu.Unlock()
	if now.State != was.State || now.Condition != was.Condition {
		b.changed(now)
	}
}

// in says what the stream is doing, and that nothing is wrong with it.
func (b *reportBox) in(state string) { b.trouble(state, trouble{}) }

// trouble says what the stream is doing, and what is wrong with it.
func (b *reportBox) trouble(state string, t trouble) {
	b.set(func(r *StreamReport) {
		r.State, r.Condition, r.Message, r.Hint = state, t.condition, t.message, t.hint
	})
}
