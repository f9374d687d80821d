package engines

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// unusableError: this base lacks what it needs; an older one may not.
type unusableError struct {
	base string
	err  error
}

func (e *unusableError) Error() string { return fmt.Sprintf("backup %s: %v", e.base, e.err) }
func (e *unusableError) Unwrap() error { return e.err }

// from plans a restore that starts with base.
func (p *planner) from(ctx context.Context, base repo.Manifest, g Goal) (*RestorePlan, error) {
	target, err := p.target(base, g)
	if err != nil {
		return nil, err
	}
	log, gap, err := p.reach(ctx, base, target)
	if err != nil {
		return nil, err
	}
	if gap != nil && !g.exact() && log.Legs[len(log.Legs)-1].Branch.ID != target {
		return nil, hferr.New(p.what(), fmt.Errorf("branch %s cannot be reached from backup %s: %w", target, base.ID, gap),
			fmt.Sprintf("Restore what lies before the gap with --target-time, or take a new base backup: holdfast backup %s", p.database))
	}
	r := &RestorePlan{Base: base, Log: log, Goal: g}
	if g.exact() {
		if err := p.findStop(ctx, r, gap); err != nil {
			return nil, err
		}
	}
	if r.EndTime, err = p.index.EndTime(ctx, r.Log); err != nil {
		return nil, err
	}
	r.Goal.Branch = r.Log.Legs[len(r.Log.Legs)-1].Branch.ID
	r.Goal.BackupID = base.ID
	if gap != nil && !g.exact() {
		r.Notes = append(r.Notes, fmt.Sprintf("warning: the restore ends at a gap in the archive, at %s; what follows needs a newer base backup: %v", stamp(r.EndTime), gap))
	}
	if g.Branch == "" {
		r.Notes = append(r.Notes, p.otherLeaves(log, target)...)
	}
	return r, nil
}

// target is the branch that a restore from base is to end on.
func (p *planner) target(base repo.Manifest, g Goal) (string, error) {
	if g.Branch != "" {
		return g.Branch, nil
	}
	leaves := p.leaves(base)
	switch len(leaves) {
	case 0:
		return "", &unusableError{base.ID, fmt.Errorf("its branch %s is not recorded: %w", base.Branch, repo.ErrNotFound)}
	case 1:
		return leaves[0].ID, nil
	}
	return "", hferr.NewUsage(p.what(), fmt.Errorf("%d branches descend from backup %s", len(leaves), base.ID),
		"Choose one of these with --branch:\n"+listBranches(leaves))
}

// reach is all the log that is held contiguously from base towards target,
// and the gap that ends it, if more follows behind one.
func (p *planner) reach(ctx context.Context, base repo.Manifest, target string) (*wal.Plan, *wal.GapError, error) {
	log, err := p.index.Plan(ctx, base.Branch, base.LogFrom, target, 0)
	var gap *wal.GapError
	if errors.As(err, &gap) && gap.From > base.LogFrom {
		log, err = p.index.Plan(ctx, base.Branch, base.LogFrom, target, gap.From)
	}
	switch {
	case errors.As(err, new(*wal.GapError)), errors.Is(err, repo.ErrNotFound):
		return nil, nil, &unusableError{base.ID, err}
	case err != nil:
		return nil, nil, err
	}
	if gap == nil {
		if gap, err = p.behind(ctx, log); err != nil {
			return nil, nil, err
		}
	}
	if log.To() < base.Stop {
		if gap == nil || gap.To > base.Stop {
			gap = &wal.GapError{Branch: log.Legs[len(log.Legs)-1].Branch.ID, From: log.To(), To: base.Stop}
		}
		return nil, nil, &unusableError{base.ID, fmt.Errorf("it needs log through %x: %w", uint64(base.Stop), gap)}
	}
	return log, gap, nil
}

// behind is the gap at the end of a plan if its branch holds more after it.
func (p *planner) behind(ctx context.Context, log *wal.Plan) (*wal.GapError, error) {
	id := log.Legs[len(log.Legs)-1].Branch.ID
	refs, err := p.index.Segments(ctx, id)
	if err != nil {
		return nil, err
	}
	for _, r := range wal.Coverage(refs) {
		if r.Start > log.To() {
			return &wal.GapError{Branch: id, From: log.To(), To: r.Start}, nil
		}
	}
	return nil, nil
}
