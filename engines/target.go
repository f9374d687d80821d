package engines

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// PointKind says how a Point names its place.
type PointKind string

const (
	// PointPosition: everything before the first record that begins at or
	// after the position ("0/3000028").
	PointPosition PointKind = "position"
	// PointTransaction: through the commit (or abort) of a transaction.
	PointTransaction PointKind = "transaction"
	// PointBefore: everything before the commit of a transaction, named by
	// its id or by a position inside its commit record.
	PointBefore PointKind = "before"
	// PointName: through a restore point that was named at the source.
	PointName PointKind = "name"
	// PointConsistent: as soon as the base is consistent ("immediate").
	PointConsistent PointKind = "immediate"
)

// Point names an exact place in the log, in the engine's own notation.
type Point struct {
	Kind  PointKind `json:"kind"`
	Value string    `json:"value,omitempty"`
}

func (p Point) String() string { return strings.TrimSpace(string(p.Kind) + " " + p.Value) }

// Stop is the exact end of a replay: every record that begins before At is
// applied and none that begins at or after it.
type Stop struct {
	At     repo.Position `json:"at"`     // the beginning of a record, or the end of the last one
	Branch string        `json:"branch"` // the branch At is on
	// AtEnd: nothing that could be recognised follows At in the archive, so
	// the plan's log ends exactly there and the replay with it.
	AtEnd bool `json:"at_end,omitempty"`
	// Consistent: the goal is the first consistent state, which the engine
	// knows best itself; At is the base's Stop.
	Consistent bool       `json:"consistent,omitempty"`
	Last       *repo.Mark `json:"last,omitempty"` // the last commit before At, if it was looked at
	Next       *repo.Mark `json:"next,omitempty"` // the first commit or abort at or after At, likewise
}

// Resolver finds places in a log. It reads through rd what it needs, and
// writes nothing.
type Resolver interface {
	// Resolve finds where a replay from base must stop to reach the goal's
	// Time or Point. rd covers all the log held contiguously along the path.
	// An *UnreachableError says what the nearest reachable places are; a
	// value that is not in the engine's notation is an hferr usage error.
	Resolve(ctx context.Context, base *repo.Manifest, g Goal, rd *wal.Reader) (*Stop, error)
	// Marks lists what can be named as a target between two positions of the
	// log, in order: restore points, and the commits where all is asked for.
	Marks(ctx context.Context, rd *wal.Reader, from, to repo.Position, all bool, fn func(repo.Mark) error) error
}

// UnreachableError: a target that no replay reaches.
type UnreachableError struct {
	Target string     // as the user named it
	Why    string     // "no commit of this transaction in the log held"
	Before *repo.Mark // nearest reachable place before it, if there is one
	After  *repo.Mark // nearest reachable place after it
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("%s cannot be reached: %s", e.Target, e.Why)
}

// Nearest tells a person what can be reached instead, a line each.
func (e *UnreachableError) Nearest(position func(repo.Position) string) string {
	var lines []string
	tell := func(word string, m *repo.Mark) {
		if m == nil {
			return
		}
		line := fmt.Sprintf("nearest reachable place %s it: %s", word, m.Kind)
		if m.Name != "" {
			line += fmt.Sprintf(" %q", m.Name)
		}
		if m.ID != "" {
			line += " of transaction " + m.ID
		}
		if !m.Time.IsZero() {
			line += " at " + m.Time.UTC().Format(time.RFC3339Nano)
		}
		lines = append(lines, line+" ("+position(m.Start)+")")
	}
	tell("before", e.Before)
	tell("after", e.After)
	return strings.Join(lines, "\n")
}
