package testcontainers_test

import (
	"context"
	"errors"
	"fmt"

	tc "github.com/holdfastdb/holdfast/testcontainers"
)

// missing is a provider that never has a server, failing one that breaks.
type (
	missing struct{}
	failing struct{}
)

var errBroken = errors.New("the disk is full")

func (missing) Name() string { return "absent" }
func (missing) Provision(context.Context, tc.Spec) (tc.Sandbox, error) {
	return nil, fmt.Errorf("%w: nothing here", tc.ErrMissing)
}

func (failing) Name() string                                           { return "failing" }
func (failing) Provision(context.Context, tc.Spec) (tc.Sandbox, error) { return nil, errBroken }
