// Package verify runs drills: a measured restore of one database from the
// repository alone into a throwaway server, checked, judged and recorded.
//
//	observe → plan → provision → fetch → boot → replay → ready → check → teardown → record
//
// It knows no database (engines do, through their contract), starts no
// process itself (testcontainers does) and stores nothing but its record. It
// never touches a server of the user's: the source is asked for its clock and
// its last heartbeat before anything else, and never for data.
//
// A newcomer reads drill.go (the order of things), verdict.go (what counts as
// pass, fail, could not verify), beats.go and rpo.go (what the heartbeat
// proves) and record.go (what is kept; docs/drill-record.md explains it).
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// Mode says which moment a drill restores.
type Mode string

const (
	// ModeLatest restores the end of the archive and measures the RPO.
	ModeLatest Mode = "latest"
	// ModeTime restores Goal.Time and proves "present before, absent after".
	ModeTime Mode = "time"
	// ModePoint restores Goal.Point, an exact place in the log.
	ModePoint Mode = "point"
	// ModeRandom picks the moment of a noted heartbeat, anywhere in what the
	// archive holds, and goes on like ModeTime.
	ModeRandom Mode = "random"
)

// Request is one drill.
type Request struct {
	Engine  engines.Engine
	Lineage *repo.Lineage
	// Source is nil where it cannot be reached or was not given. It is asked
	// for its identity, its clock and its last beat, first of all; an error
	// there is noted and the drill goes on without it.
	Source engines.Source
	// SourceNote says why Source is nil, for the record. "": none was given.
	SourceNote string

	Mode Mode // "" is ModeTime or ModePoint as Goal has the one or the other, else ModeLatest
	Goal engines.Goal
	Rand *rand.Rand // for ModeRandom; nil: seeded by the system
	// AllowBase accepts a drill that replays no log beyond the base backup.
	AllowBase bool

	Provider testcontainers.Provider
	Image    string // container image; "": the engine's choice
	WorkDir  string // existing directory on the disk to restore to
	Binary   string // host path of a static holdfast, for the copy's log fetches
	Stream   stream.Options
	Output   io.Writer // the copy's own log; nil: dropped

	Checks     []UserCheck
	Objectives Objectives

	// For the record.
	Trigger    string // "manual", "schedule", …
	Operator   string // who or what asked for it
	Policy     string // id of the policy that asks for drills
	Ticket     string
	Tool       string // name and version of this program
	Repository string // the repository's address without credentials
	OpenedWith repo.SlotInfo
	StoreLocal bool   // the store is on this host: a label in the record
	RecordDir  string // a copy of the record is written here as <id>.json; "": none

	Started  time.Time // when the user's command began; zero: now
	Log      *slog.Logger
	Clock    func() time.Time // nil: the system's
	Progress func(PhaseEvent) // called in order, one at a time; nil: none
	// FreeSpace is the number of bytes free for us at a path; negative if
	// unknown. nil: the file system is asked.
	FreeSpace func(path string) (int64, error)
}

// UserCheck is a user's own assertion about the copy. It is sent to the copy
// as it is.
type UserCheck struct {
	Name     string
	Database string // "": the engine's default
	SQL      string
	// Expect is the first column of the first row as text. nil: the value
	// must be true or a number other than zero.
	Expect *string
}

// Objectives fail a drill that misses them. Zero: none.
type Objectives struct {
	RPO time.Duration
	RTO time.Duration
}

// PhaseEvent tells a live display what is going on.
type PhaseEvent struct {
	Phase  string        // "plan", "fetch", "check/read" …
	Done   bool          // false: it begins
	Failed bool          // with Done
	Took   time.Duration // with Done
	Bytes  int64         // with Done; 0: not counted
}

// Drill runs one drill and returns its record, which is stored in the lineage
// (and in RecordDir) before it returns. Whatever happens, the sandbox is
// removed first, on a cancelled ctx too, within a minute.
//
// The error says only that the drill could not even start (a faulty request).
// Everything else, damage, a lost store, cancellation, is the record's verdict.
func Drill(ctx context.Context, q Request) (*Record, error) {
	if err := q.complete(); err != nil {
		return nil, err
	}
	d := newDrill(q)
	d.run(ctx)
	d.tearDown(ctx)
	d.conclude()
	d.store(ctx)
	return d.rec, nil
}

// complete refuses what cannot be run and fills in what has a default.
func (q *Request) complete() error {
	usage := func(why, hint string) error { return hferr.NewUsage("drill", errors.New(why), hint) }
	switch {
	case q.Engine == nil || q.Lineage == nil:
		return usage("no engine or no lineage given", "name a database that has been backed up")
	case q.Provider == nil:
		return usage("no provider of throwaway servers given", "use docker or process")
	case q.WorkDir == "":
		return usage("no work directory given", "name a directory with room for the restored copy")
	case q.Log == nil:
		return usage("no logger given", "pass one")
	}
	if q.Mode == "" {
		q.Mode = ModeLatest
		switch {
		case q.Goal.Point != nil:
			q.Mode = ModePoint
		case !q.Goal.Time.IsZero():
			q.Mode = ModeTime
		}
	}
	switch {
	case q.Mode != ModeLatest && q.Mode != ModeTime && q.Mode != ModePoint && q.Mode != ModeRandom:
		return usage(fmt.Sprintf("unknown target %q", q.Mode), "use latest, random, a time or a point")
	case q.Mode == ModeTime && q.Goal.Time.IsZero():
		return usage("no target time given", "give one")
	case q.Mode != ModeTime && !q.Goal.Time.IsZero():
		return usage(fmt.Sprintf("a target time contradicts the target %q", q.Mode), "give one of the two")
	case (q.Mode == ModePoint) != (q.Goal.Point != nil):
		return usage(fmt.Sprintf("the target %q and a target point go together", q.Mode), "give both or none")
	}
	for _, c := range q.Checks {
		if c.Name == "" || c.SQL == "" {
			return usage("a check without a name or without SQL", "give each check both")
		}
	}
	if q.Clock == nil {
		q.Clock = time.Now
	}
	if q.FreeSpace == nil {
		q.FreeSpace = freeSpace
	}
	if q.Started.IsZero() {
		q.Started = q.Clock()
	}
	return nil
}
