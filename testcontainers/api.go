// Package testcontainers provides throwaway database servers: a sandbox with
// the binaries of one server version in it, in which an engine starts, stops
// and talks to server processes. Drills use it, and so do the tests and the
// demo. Providers are local processes and Docker; Kubernetes follows and must
// fit the same interface.
//
// It knows how to get a server and where its binaries are; it knows no SQL,
// no file formats and no recovery settings (those are the engines').
package testcontainers

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"
)

// ErrMissing means that no provider can offer the server asked for; its text
// says what was looked for, and where, and how to get it.
var ErrMissing = errors.New("no such server available")

// Spec asks for one throwaway server.
type Spec struct {
	Engine  string // "postgres"
	Version string // major version, "15"; empty with Image means whatever the image has
	Image   string // container image to prefer, tag or digest; empty: the engine's default for Version
	// Provider forces one provider by name ("docker", "process"); empty
	// tries Docker, then a local process.
	Provider string
	// Dir is the host directory under which the sandbox's own directory is
	// made. It must exist. It must be traversable by the unprivileged user
	// the server runs as.
	Dir string
	// Label marks everything created, so that leftovers can be found.
	Label string
}

// Description says what a sandbox is, for the drill's record.
type Description struct {
	Provider  string `json:"provider"`           // "process" or "docker"
	Isolation string `json:"isolation"`          // "none", or "container, no network"
	Image     string `json:"image,omitempty"`    // image reference
	ImageID   string `json:"image_id,omitempty"` // digest or local id
	Binaries  string `json:"binaries,omitempty"` // directory of the binaries, process only
	Version   string `json:"version"`            // what the server binary says of itself
	User      string `json:"user"`               // the user servers run as
}

// Command is one process to run inside a sandbox.
type Command struct {
	// Path is a binary's name ("postgres", found among the server's
	// binaries) or a guest path.
	Path string
	Args []string
	// Env is the whole environment beside PATH, HOME and LANG=C.UTF-8: nothing is
	// inherited, so no secret of the caller leaks into a child.
	Env    []string
	Stdin  io.Reader
	Stdout io.Writer // nil: discarded
	Stderr io.Writer // nil: discarded
}

// Process is a running server. Its output goes to Command.Stdout and Stderr.
type Process interface {
	// Signal sends a signal by its number (2 = fast shutdown of PostgreSQL).
	Signal(ctx context.Context, sig int) error
	// Wait blocks until the process ended; an exit status other than 0 is
	// an *ExitError.
	Wait(ctx context.Context) error
	// PID is the process id on the host, 0 if it cannot be known.
	PID() int
}

// ExitError is an unsuccessful end of a process.
type ExitError struct {
	Path string
	Code int // exit code; 128+signal for a death by signal
}

// Sandbox is one throwaway place for a server: a directory that the host and
// the guest share, and the processes started in it. Methods may be called
// concurrently. Remove ends every process and deletes everything; it is
// idempotent and must be called in any case.
type Sandbox interface {
	// Dir is the shared directory as the host sees it, owned by the user
	// servers run as, mode 0700. GuestPath maps a host path below it to what
	// the guest sees (the same for a local process).
	Dir() string
	GuestPath(host string) string
	// Share makes a host file (a static binary) readable inside, read-only,
	// and returns its guest path.
	Share(ctx context.Context, hostFile string) (string, error)
	// Own makes a host path below Dir, recursively, belong to the user
	// servers run as.
	Own(ctx context.Context, path string) error
	// Start starts a long-running process; Run waits for a short one.
	Start(ctx context.Context, c Command) (Process, error)
	Run(ctx context.Context, c Command) error
	// Dial reaches a unix socket below Dir (host path), as a client.
	Dial(ctx context.Context, socket string) (net.Conn, error)
	Describe() Description
	// Remove stops everything (fast, then SIGKILL after the grace period) and
	// deletes it. Leftovers are an error that names them.
	Remove(ctx context.Context, grace time.Duration) error
}

// Killer is a Sandbox that can model a crash. Both providers' sandboxes are.
type Killer interface {
	// KillAll sends SIGKILL to every process in the sandbox, grandchildren
	// included, and returns when none is left. What they wrote stays in the
	// page cache, so it shows nothing about fsync. The sandbox stays usable.
	KillAll(ctx context.Context) error
}

// Provider makes sandboxes.
type Provider interface {
	Name() string
	// Provision returns ErrMissing (wrapped, with what was looked for) if it
	// cannot offer the server.
	Provision(ctx context.Context, s Spec) (Sandbox, error)
}

func (e *ExitError) Error() string { return e.Path + " ended with exit status " + strconv.Itoa(e.Code) }
