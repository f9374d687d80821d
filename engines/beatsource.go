package engines

import (
	"context"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// BeatSource is what a Source offers beside its contract where it can tell
// its last heartbeat without writing one. A drill asks it once, first of all,
// so that a beat that never reached the archive counts as lost.
type BeatSource interface {
	// LastBeat is the newest committed beat and a log position at or after
	// its commit; nil where there is no heartbeat.
	LastBeat(ctx context.Context) (*repo.Beat, error)
}
