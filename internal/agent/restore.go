package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/wal"
)

// FeedDir is the folder inside a restored directory that holds what its
// recovery needs: the plan and this lineage's key. It is removed when
// recovery has ended.
const FeedDir = "holdfast.recovery"

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
	planFile, err := writeFeedPlan(r, plan)
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

// FeedPlan is plan.json: what fetch-log needs to serve one recovery, and
// nothing it could serve another with.
type FeedPlan struct {
	Engine  string               `json:"engine"`
	Repo    string               `json:"repo"`
	Lineage string               `json:"lineage"`
	Plan    *engines.RestorePlan `json:"plan"`
	Base    repo.Manifest        `json:"base"`
}

func writeFeedPlan(r RestoreRequest, plan *engines.RestorePlan) (string, error) {
	dir, err := filepath.Abs(filepath.Join(r.Dir, FeedDir))
	if err != nil {
		return "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("prepare the log feed: %w", err)
	}
	doc, err := json.MarshalIndent(FeedPlan{
		Engine: r.Engine.Name(), Repo: r.RepoURL, Lineage: r.Lineage.Info().ID, Plan: plan, Base: plan.Base,
	}, "", "  ")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "plan.json")
	if err := os.WriteFile(file, doc, 0o600); err != nil {
		return "", err
	}
	// The key opens this lineage alone, whose plaintext stands in the same
	// directory; it never stands in an argument vector or an environment.
	return file, os.WriteFile(filepath.Join(dir, "key"), []byte(r.Lineage.ExportKey().Reveal()), 0o600)
}

// OpenFeed opens the feed of a plan file. open gives the store for a URL.
func (d Deps) OpenFeed(ctx context.Context, planFile string, e func(name string) (engines.Engine, error), open func(context.Context, string) (blob.Store, error)) (wal.Feed, engines.Restorer, error) {
	raw, err := os.ReadFile(planFile)
	if err != nil {
		return nil, nil, hferr.New("read the recovery plan", err, "it is written by holdfast restore and removed when recovery has ended")
	}
	var fp FeedPlan
	if err := json.Unmarshal(raw, &fp); err != nil || fp.Plan == nil {
		return nil, nil, fmt.Errorf("recovery plan %s: %w", planFile, errors.Join(err, errors.New("not a plan")))
	}
	fp.Plan.Base = fp.Base
	key, err := os.ReadFile(filepath.Join(filepath.Dir(planFile), "key"))
	if err != nil {
		return nil, nil, fmt.Errorf("read the recovery key: %w", err)
	}
	eng, err := e(fp.Engine)
	if err != nil {
		return nil, nil, err
	}
	st, err := open(ctx, fp.Repo)
	if err != nil {
		return nil, nil, err
	}
	l, err := repo.OpenLineage(ctx, st, fp.Lineage, secret.New(string(key)), repo.Options{Log: d.Log, Clock: d.Clock})
	if err != nil {
		return nil, nil, err
	}
	rd, err := wal.NewReader(ctx, l, fp.Plan.Log)
	if err != nil {
		return nil, nil, err
	}
	res := eng.Restorer()
	f, err := res.Feed(fp.Plan, rd)
	return f, res, err
}

// RemoveFeed deletes a finished recovery's plan and key.
func RemoveFeed(planFile string) error {
	dir := filepath.Dir(planFile)
	if filepath.Base(dir) != FeedDir {
		return fmt.Errorf("%s is not inside a %s folder", planFile, FeedDir)
	}
	return os.RemoveAll(dir)
}
