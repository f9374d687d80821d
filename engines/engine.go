// Package engines is what a database module must offer. The interfaces fit a
// physical engine (PostgreSQL: files and pages, log pulled as files), a
// logical dump into a running server (MySQL, MariaDB: log pulled as a stream
// from a source that we play) and raw documents plus an oplog (MongoDB: loaded
// standalone, given its oplog, restarted as a set). docs/engines.md shows each
// method for the three engines and who calls it when.
//
// A module lives in a folder below and imports none of its siblings; only cmd
// imports a module. Everything engine-specific (SQL, protocol, file names,
// checks) belongs there; if a caller needs to ask which engine it has, this
// contract is missing a method.
package engines

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// Engine is one database module. It is stateless and safe for concurrent use.
type Engine interface {
	// Name is the module's name in records and lineages: "postgres".
	Name() string
	// Schemes are the URL schemes it answers to.
	Schemes() []string
	// Connect opens a source. Errors carry a hint (unreachable, wrong
	// password, TLS, no replication entry in pg_hba.conf …) and no secret.
	Connect(ctx context.Context, c ConnectOptions) (Source, error)
	// Restorer is the way back.
	Restorer() Restorer
	// Resolver finds places in its log.
	Resolver() Resolver
}

// ConnectOptions say how to reach a source.
type ConnectOptions struct {
	URL      string      // without a password
	Password secret.Text // optional; the driver's own sources (passfile, service) work too
	Database string      // the name the user chose: names slots and application_name
	Log      *slog.Logger
	Clock    func() time.Time
}

// Source is one configured server, cluster or replica set. Methods may be
// called concurrently; each long-running one opens its own connections.
type Source interface {
	// Identify asks the server who it is. Cheap; called first by every job,
	// and its Lineage is compared with the one recorded.
	Identify(ctx context.Context) (Identity, error)
	// Check looks for everything that backup, stream and drill need or that
	// is risky: privileges, settings, slots, disk. Each finding has the exact
	// statement or command that fixes it.
	Check(ctx context.Context) ([]repo.Finding, error)
	// Clock is the server's own time now.
	Clock(ctx context.Context) (time.Time, error)
	// Backup takes a consistent base backup into sink.
	Backup(ctx context.Context, o BackupOptions, sink Sink) (BackupResult, error)
	// Log is the source's log.
	Log() LogSource
	// Heartbeat opens a connection that writes beats.
	Heartbeat(ctx context.Context) (consistency.Pulse, error)
	Close() error
}

// Identity is what a source says of itself.
type Identity struct {
	Lineage  repo.LineageInfo  // ID, Engine, Identity filled in; Database is the caller's
	Branch   repo.Branch       // the branch being written now
	Position repo.Position     // end of the log now
	Version  string            // as the server prints it
	Major    string            // "15"
	Time     time.Time         // the server's clock
	Facts    map[string]string // for people: in recovery, data directory, size …
	Size     int64             // bytes, estimate; 0 unknown
}

// BackupOptions go with one base backup.
type BackupOptions struct {
	Label string // seen in the server's views and log
	Fast  bool   // checkpoint at once instead of spread out
}

// Sink takes a backup's items; stream.Writer is one. Put may be called
// concurrently and drains r in the caller's goroutine.
type Sink interface {
	Put(ctx context.Context, item repo.Item, r io.Reader) error
}

// BackupResult is what the manifest needs. The engine has checked that the
// server finished the backup; log coverage is the caller's to wait for.
type BackupResult struct {
	Branch    string // of Stop
	Start     repo.Position
	LogFrom   repo.Position // log must be held from here …
	Stop      repo.Position // … through here before the backup may be committed
	StartTime time.Time     // source's clock
	StopTime  time.Time
	Details   []byte         // the engine's own JSON document, read by its Restorer
	Findings  []repo.Finding // e.g. damaged pages: committed, exit code 4
}

// LogSource is a source's log, and what we leave on the server for it.
type LogSource interface {
	// Prepare makes sure that the server keeps its log for us from now on
	// (PostgreSQL: the physical slot, reserved at once). Idempotent. Called by
	// stream before anything else and, first of all, before the first base.
	// It refuses a server that would make commits wait for what a log archive
	// never does (ConditionApplyDemanded, permanent).
	Prepare(ctx context.Context) error
	// Retained lists what we left on the server (slots) and what it costs.
	Retained(ctx context.Context) ([]Retained, error)
	// Release removes it (slot drop). ErrInUse-like hint while a stream runs.
	Release(ctx context.Context, name string) error
	// Tail streams the log into in until ctx ends or the connection fails,
	// acknowledging to the server exactly in.Durable(). held gives what the
	// store already has of a branch, so that Tail resumes at the first byte
	// that is missing: never from memory. With o.Temporary it leaves nothing
	// on the server, and starts at o.From.
	// It returns nil only when ctx ended or o.Until became durable.
	Tail(ctx context.Context, o TailOptions, in wal.Intake) error
	// Compare proves that the server's own log holds these very bytes from a
	// position on. An error that wraps repo.ErrFork says that it holds others.
	Compare(ctx context.Context, branch string, from repo.Position, archived []byte) error
	// Guarantee asks the server what a commit that returned is worth now:
	// whether commits wait for our acknowledgement. Cheap; status calls it.
	Guarantee(ctx context.Context) (Guarantee, error)
}

// TailOptions go with one Tail.
type TailOptions struct {
	// Lineage is the lineage whose archive is fed; Tail refuses a server of
	// another one (ConditionOtherSystem, permanent), also after a reconnect.
	// "": not compared.
	Lineage string
	Held    func(ctx context.Context, branch string) ([]wal.Range, error)
	// Archived returns [from, to) of the log held, as seen on a branch. Tail
	// compares it with what the server sends, so that a copy that went its own
	// way on the same branch is found before its log is taken for the same
	// history. It may return only the end of the range. nil: not compared.
	Archived  func(ctx context.Context, branch string, from, to repo.Position) ([]byte, error)
	Temporary bool                 // use a temporary slot (a one-shot backup)
	Spooled   bool                 // Durable runs ahead of Stored: what the server keeps for us follows Stored
	From      repo.Position        // with Temporary: start here; 0: where the temporary slot begins, which serves a backup begun after Ready
	Ready     func(repo.Position)  // called once streaming has begun, with its first position
	Until     <-chan repo.Position // receives once: stop when this position is durable; nil: never
	Status    func(TailStatus)     // called after each server message or reply, at most a few times a second
}

// TailStatus is live exposure: where the server is, where the store is.
type TailStatus struct {
	Branch     string
	ServerEnd  repo.Position // end of the server's log
	Received   repo.Position
	Durable    repo.Position
	ServerTime time.Time     // server's clock at its last message
	Silent     time.Duration // how long we have been waiting for the server to say anything
}

// Retained is one thing left on a server.
type Retained struct {
	Name     string        `json:"name"`
	Kind     string        `json:"kind"` // "physical replication slot"
	Active   bool          `json:"active"`
	Position repo.Position `json:"position"`
	Bytes    int64         `json:"bytes"` // log held back because of it
	State    string        `json:"state"` // the server's word: reserved, extended, unreserved, lost
	Ours     bool          `json:"ours"`
}

// Restorer is the way back, for a user's own directory and for drills.
type Restorer interface {
	// Preflight refuses a base or target that cannot work here, before
	// anything is written (a non-empty directory, wrong platform).
	Preflight(ctx context.Context, p *RestorePlan, dir string) error
	// Load places the base in dir (physical: files; logical: an empty server
	// is started in the sandbox and loaded). It leaves nothing that could be
	// taken for a finished copy if it fails.
	Load(ctx context.Context, r LoadRequest) (stream.Stats, error)
	// Configure makes a loaded directory recover by the user's own server to
	// the plan's goal, with the feed served by fetch (an argument vector; the
	// engine adds its placeholders), and says how to start it.
	Configure(ctx context.Context, r ConfigureRequest) (Instructions, error)
	// Replay runs the loaded copy in a sandbox until it has reached the goal
	// and answers queries. It writes the copy's whole configuration, so that
	// the copy cannot act on anything outside, and drives the server's starts
	// and stops.
	Replay(ctx context.Context, r ReplayRequest) (Copy, error)
	// Feed names the plan's log the way a server asks for it.
	Feed(p *RestorePlan, rd *wal.Reader) (wal.Feed, error)
	// FeedExit is the exit status with which a fetch command answers the
	// server for what Feed.Fetch returned: nil, wal.ErrBeyondPlan (replay may
	// end here) or anything else (replay must stop hard).
	FeedExit(err error) int
	// Server is the throwaway server a copy of this base needs.
	Server(p *RestorePlan) testcontainers.Spec
	// FormatPosition prints a position the engine's way ("0/3000028").
	FormatPosition(p repo.Position) string
}

// LoadRequest asks for a base in a directory.
type LoadRequest struct {
	Lineage *repo.Lineage
	Plan    *RestorePlan
	Dir     string                 // empty or missing
	Sandbox testcontainers.Sandbox // nil when loading for a user's own server; see ErrNeedsServer
	Stream  stream.Options
}

// ConfigureRequest makes a directory ready for the user's server.
type ConfigureRequest struct {
	Plan  *RestorePlan
	Dir   string
	Fetch []string // e.g. [/usr/bin/holdfast fetch-log --plan /dir/…]: no secret in it
	Done  []string // run once when recovery has ended, to remove plan and key
}

// Instructions tell a person how to go on.
type Instructions struct {
	Start string   // command that starts the server
	Notes []string // what was kept aside, what to look at before clients come
}

// ReplayRequest runs a copy.
type ReplayRequest struct {
	Plan    *RestorePlan
	Dir     string
	Sandbox testcontainers.Sandbox
	Feed    wal.Feed
	Binary  string // host path of a static holdfast, shared into the sandbox for fetch-log
	Log     *slog.Logger
	Output  io.Writer // the server's own log
	// Phase is called as replay proceeds: "boot", "replay", "ready".
	Phase func(name string)
}

// Copy is a restored server that answers. Close stops it.
type Copy interface {
	// Reached is the position and the time of the last commit replayed.
	Reached(ctx context.Context) (repo.Position, time.Time, error)
	// Beats reads the heartbeat ring; none is not an error.
	Beats(ctx context.Context) ([]repo.Beat, error)
	// ReadAll reads every row of every table through the server.
	ReadAll(ctx context.Context) (ReadStats, error)
	// Integrity runs the engine's own structural checks.
	Integrity(ctx context.Context) ([]CheckResult, error)
	// Query runs a user's check and returns the first column of the first
	// row as text. database "" is the engine's default.
	Query(ctx context.Context, database, query string) (string, error)
	// Version is what the copy says of itself.
	Version() string
	Close(ctx context.Context) error
}

// ReadStats are a full read's totals.
type ReadStats struct {
	Databases int   `json:"databases"`
	Tables    int   `json:"tables"`
	Rows      int64 `json:"rows"`
	Bytes     int64 `json:"bytes"`
}

// CheckResult is one check's outcome; Expected and Actual hold counts or
// hashes, never rows.
type CheckResult struct {
	ID       string `json:"id"`
	Tier     string `json:"tier"` // "boot", "replay", "heartbeat", "read", "integrity", "user"
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Verdict  string `json:"verdict"` // "pass", "fail", "not-run"
	Detail   string `json:"detail,omitempty"`
}
