package engines

import "github.com/holdfastdb/holdfast/internal/repo"

// GuaranteeLevel sorts what a commit that returned is worth.
type GuaranteeLevel string

const (
	// GuaranteeSynchronous: every commit waits for our acknowledgement, so
	// none that returned can be lost while what we acknowledged lives.
	GuaranteeSynchronous GuaranteeLevel = "synchronous"
	// GuaranteeShared: every commit waits for some of several receivers, of
	// which we are one; it may not be us.
	GuaranteeShared GuaranteeLevel = "shared"
	// GuaranteeStandingBy: commits wait for other receivers; ours counts once
	// one of them is gone.
	GuaranteeStandingBy GuaranteeLevel = "standing-by"
	// GuaranteeReceived: commits wait until we received them, not until they
	// are durable.
	GuaranteeReceived GuaranteeLevel = "received"
	// GuaranteeAbsent: commits are to wait for us and we do not answer now:
	// they hang, or other receivers answer for us.
	GuaranteeAbsent GuaranteeLevel = "absent"
	// GuaranteeAsynchronous: no commit waits for us.
	GuaranteeAsynchronous GuaranteeLevel = "asynchronous"
)

// Guarantee says what a commit that returned is worth at this moment, by the
// server's own settings and its view of our receiver. It is a snapshot: the
// server may fall back between two looks.
type Guarantee struct {
	Level    GuaranteeLevel `json:"level"`
	Sentence string         `json:"sentence"` // for people, one clause without a full stop
	// Receiver is the name to write where the server lists its synchronous
	// receivers.
	Receiver  string `json:"receiver"`
	Connected bool   `json:"connected"`
	// State is the server's own words for our receiver ("streaming, sync");
	// "" when it is not connected or cannot be seen.
	State string `json:"state,omitempty"`
	// Behind is the log written and not acknowledged by us, in bytes; -1 when
	// it is not known.
	Behind int64 `json:"behind"`
	// Hidden says what could not be seen and which right is missing.
	Hidden   string         `json:"hidden,omitempty"`
	Findings []repo.Finding `json:"findings,omitempty"`
}
