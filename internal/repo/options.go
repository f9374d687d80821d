package repo

import (
	"log/slog"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// Options are injected into every Repo. A nil Log discards; a nil Clock is
// time.Now.
type Options struct {
	Log   *slog.Logger
	Clock func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	return o
}

// Unlock is what a user has to open a key slot with: one of the two is set,
// none for an unencrypted repository.
type Unlock struct {
	Passphrase secret.Text
	Identity   secret.Text // an age identity (AGE-SECRET-KEY-1…): the user's own, or the recovery key
}

// InitOptions are the choices made once.
type InitOptions struct {
	Options
	Passphrase   secret.Text // the user's slot: either this …
	Recipients   []string    // … or age recipients (age1…), one slot each
	ScryptWork   int         // log2 N of the passphrase slot, 10 to 22; 0 means 16 (about a quarter of a second and 64 MiB)
	Unencrypted  bool        // refused unless set on purpose: frames and maps in clear
	Capabilities blob.Capabilities
	Probe        []byte // result of the conformance suite, JSON, kept in repo.json
	Tool         string
}

// Info is what repo.json says in clear.
type Info struct {
	Format       int               `json:"format"`
	ID           string            `json:"id"`
	Created      time.Time         `json:"created"`
	Encrypted    bool              `json:"encrypted"`
	Capabilities blob.Capabilities `json:"capabilities"`
}

// SlotInfo describes a key slot without opening it.
type SlotInfo struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"` // "passphrase", "age", "recovery"
	Created time.Time `json:"created"`
}
