// Package enginetest is a complete small engine for tests, and the suite that
// every engine must pass. The engine ("fake") is an in-memory database of
// tables, keys and values whose log is a byte stream: it takes fuzzy base
// backups through concurrent streams, needs its log to become consistent,
// retains log for slots, switches branches, and is restored into a sandbox
// where it runs as a process. Nothing of the contract in engines is left out.
//
// It holds no test of its own callers (verify, cmd) and nothing that a user's
// binary needs; only tests import it.
package enginetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// Name is the fake engine's name and URL scheme.
const Name = "fake"

// Version is what the fake server prints; Major is its major version.
const (
	Version = "1.0 (fake)"
	Major   = "1"
)

// Engine is the fake module. URLs are "fake://NAME", where NAME is one of
// Servers.
type Engine struct {
	Servers map[string]*Server
	Faults  Faults
}

// Faults make the way back fail on purpose.
type Faults struct {
	Replay error  // Replay fails with it after the boot phase
	Reads  error  // ReadAll fails with it
	Skip   int64  // the copy loses this heartbeat silently (a hole)
	Damage string // Integrity reports this table as damaged
	// OnReplay, if not nil, is called when the replay phase begins.
	OnReplay func(ctx context.Context)
	// Version is what the copy says of itself, if not empty.
	Version string
	// Overshoot makes replay ignore the plan's stop.
	Overshoot bool
}

// New makes an engine with the given servers.
func New(servers ...*Server) *Engine {
	e := &Engine{Servers: map[string]*Server{}}
	for _, s := range servers {
		e.Servers[s.name] = s
	}
	return e
}

// Name … see engines.Engine.
func (e *Engine) Name() string { return Name }

// Schemes … see engines.Engine.
func (e *Engine) Schemes() []string { return []string{Name} }

// Restorer … see engines.Engine.
func (e *Engine) Restorer() engines.Restorer { return restorer{faults: &e.Faults} }

// Connect … see engines.Engine.
func (e *Engine) Connect(ctx context.Context, c engines.ConnectOptions) (engines.Source, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var name string
	if _, err := fmt.Sscanf(c.URL, Name+"://%s", &name); err != nil {
		return nil, hferr.NewUsage("connect to "+c.URL, err, "write the URL as fake://NAME")
	}
	srv, ok := e.Servers[name]
	if !ok {
		return nil, hferr.New("connect to "+name, errors.New("no such server"), "start it first")
	}
	if err := srv.alive(); err != nil {
		return nil, err
	}
	return &source{srv: srv, slot: "holdfast_" + c.Database}, nil
}
