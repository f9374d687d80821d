package agent

import (
	"context"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
)

// RestoreRequest asks for a copy in a directory, to be started by the user.
type RestoreRequest struct {
	Engine  engines.Engine
	Lineage *repo.Lineage
	Goal    engines.Goal
	Dir     string
	RepoURL string // for the feed, without credentials
	Binary  string // this program
	Stream  stream.Options
	Planned func(*engines.RestorePlan) // shown before anything is written
	DryRun  bool                       // plan and check, and write nothing
}

// RestoreReport says what was restored and how to go on.
type RestoreReport struct {
	Plan         *engines.RestorePlan
	Stats        stream.Stats
	Instructions engines.Instructions
}

// Restore plans, checks, loads and configures. The plan is fixed and proved
// complete before a byte is written. A dry run ends there; without a directory
// it does not look at one.
func (d Deps) Restore(ctx context.Context, r RestoreRequest) (*RestoreReport, error) {
	plan, err := engines.PlanRestore(ctx, r.Engine, r.Lineage, r.Goal)
	if err != nil {
		return nil, err
	}
	res := r.Engine.Restorer()
	if !r.DryRun || r.Dir != "" {
		if err := res.Preflight(ctx, plan, r.Dir); err != nil {
			return nil, err
		}
	}
	if r.Planned != nil {
		r.Planned(plan)
	}
	if r.DryRun {
		return &RestoreReport{Plan: plan}, nil
	}
	st, err := res.Load(ctx, engines.LoadRequest{Lineage: r.Lineage, Plan: plan, Dir: r.Dir, Stream: r.Stream})
	if err != nil {
		return nil, err
	}
	planFile, err := writeFeedPlan(ctx, r, plan)
	if err != nil {
		return nil, err
	}
	ins, err := res.Configure(ctx, engines.ConfigureRequest{
		Plan: plan, Dir: r.Dir,
		Fetch: []string{r.Binary, "fetch-log", "--plan", planFile},
		Done:  []string{r.Binary, "fetch-log", "--plan", planFile, "--done"},
	})
	if err != nil {
		return nil, err
	}
	return &RestoreReport{Plan: plan, Stats: st, Instructions: ins}, nil
}
