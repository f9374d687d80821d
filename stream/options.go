package stream

import (
	"errors"
	"log/slog"
	"runtime"
	"time"
)

// ErrStalled means that a transfer made no progress within its deadline.
var ErrStalled = errors.New("no progress within the stall deadline")

// Options are shared by both directions.
type Options struct {
	Budget  *Budget
	Workers int           // 0: GOMAXPROCS; fewer run if the budget does not carry them
	Stall   time.Duration // a put or get that has not ended after so long fails with ErrStalled; 0: 2 minutes
	Log     *slog.Logger  // nil: silent
	Clock   func() time.Time
	// Progress receives counts; it must be cheap and safe for concurrent use.
	Progress Progress
	// NoSelfCheck turns off decrypting, decompressing and re-hashing own
	// packs before they are put.
	NoSelfCheck bool

	backoff time.Duration // first wait between attempts; tests shorten it
}

// Progress is told what moved. Implementations: Meter (behind cmd's terminal
// bar and plain lines), a drill's phase counters, Discard.
type Progress interface {
	Total(bytes int64)  // estimate of plaintext bytes to move; may be revised
	Read(bytes int64)   // plaintext read from the source, or restored
	Stored(bytes int64) // bytes put into or fetched from the store
	Item(path string)   // an item began
}

// Stats are a finished transfer's totals, bytes.
type Stats struct {
	Items     int64 // files, directories, links
	Bytes     int64 // plaintext
	NewBytes  int64 // plaintext not found at the parent's same position
	NewStored int64 // bytes put, maps in packs included; on restore, bytes fetched
	Packs     int64 // packs put; on restore, packs read
}

// Discard is a Progress that keeps nothing.
type Discard struct{}

func (Discard) Total(int64)  {}
func (Discard) Read(int64)   {}
func (Discard) Stored(int64) {}
func (Discard) Item(string)  {}

const (
	defaultStall   = 2 * time.Minute
	defaultBackoff = 200 * time.Millisecond
)

// withDefaults fills what was left out and refuses what cannot work.
func (o Options) withDefaults() (Options, error) {
	if o.Budget == nil {
		return o, errors.New("stream: Options.Budget is missing")
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.Stall <= 0 {
		o.Stall = defaultStall
	}
	if o.backoff <= 0 {
		o.backoff = defaultBackoff
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Progress == nil {
		o.Progress = Discard{}
	}
	return o, nil
}
