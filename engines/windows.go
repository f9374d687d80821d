package engines

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Window is what can be restored from one base along one branch path: every
// moment after From and before To, by the source's clock.
type Window struct {
	Backup  string        `json:"backup"`
	Branch  string        `json:"branch"` // the path's last branch
	From    time.Time     `json:"from"`
	To      time.Time     `json:"to,omitzero"` // zero: nothing, see Problem
	FromPos repo.Position `json:"from_position"`
	ToPos   repo.Position `json:"to_position"`
	Problem string        `json:"problem,omitempty"` // why it ends early or cannot be used
}

// Windows lists the recovery windows of all backups, oldest first. Windows
// overlap: a moment may be reached from several bases. Unreadable manifests
// are in the error; the others are returned all the same.
func Windows(ctx context.Context, l *repo.Lineage) ([]Window, error) {
	p, err := newPlanner(ctx, l)
	if err != nil {
		return nil, err
	}
	unreadable := p.unreadable
	var out []Window
	for _, base := range slices.Backward(p.bases) {
		leaves := p.leaves(base)
		if len(leaves) == 0 {
			out = append(out, Window{Backup: base.ID, Branch: base.Branch, From: base.StopTime, FromPos: base.Stop,
				Problem: "its branch is not recorded"})
		}
		for _, leaf := range leaves {
			w, err := p.window(ctx, base, leaf.ID)
			if err != nil {
				return out, errors.Join(unreadable, err)
			}
			out = append(out, w)
		}
	}
	return out, unreadable
}

func (p *planner) window(ctx context.Context, base repo.Manifest, target string) (Window, error) {
	w := Window{Backup: base.ID, Branch: target, From: base.StopTime, FromPos: base.Stop}
	log, gap, err := p.reach(ctx, base, target)
	var unusable *unusableError
	if errors.As(err, &unusable) {
		w.Problem = unusable.err.Error()
		return w, nil
	}
	if err != nil {
		return w, err
	}
	w.Branch, w.ToPos = log.Legs[len(log.Legs)-1].Branch.ID, log.To()
	if gap != nil {
		w.Problem = gap.Error()
	}
	w.To, err = p.index.EndTime(ctx, log)
	return w, err
}
