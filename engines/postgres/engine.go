package postgres

import (
	"context"

	"github.com/holdfastdb/holdfast/engines"
)

// Engine is the PostgreSQL module.
type Engine struct{}

var _ engines.Engine = (*Engine)(nil)

// New makes the module. It holds no state.
func New() *Engine { return &Engine{} }

// Name is the module's name in records.
func (*Engine) Name() string { return "postgres" }

// Schemes are the URL schemes it answers to.
func (*Engine) Schemes() []string { return []string{"postgres", "postgresql"} }

// Connect opens one SQL connection to prove that the server can be reached
// and is new enough, and closes it; the methods of Source open their own.
func (*Engine) Connect(ctx context.Context, o engines.ConnectOptions) (engines.Source, error) {
	return connect(ctx, o)
}

// Restorer is the way back.
func (*Engine) Restorer() engines.Restorer { return newRestorer() }
