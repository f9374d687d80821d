package engines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Goal says where a restore should end. The zero value is the end of the
// archive on the newest branch.
type Goal struct {
	Time     time.Time `json:"time,omitzero"`    // the state just before the first commit or abort at or after it; source's clock
	Point    *Point    `json:"point,omitempty"`  // an exact place instead of a time
	Branch   string    `json:"branch,omitempty"` // branch to end on; "" = the newest that descends from the base
	BackupID string    `json:"backup,omitempty"` // start from this base; "" = the newest that serves
}

// RestorePlan is what PlanRestore fixed before anything is written.
type RestorePlan struct {
	Base    repo.Manifest `json:"-"`
	Log     *wal.Plan     `json:"log"`
	Goal    Goal          `json:"goal"`
	Stop    *Stop         `json:"stop,omitempty"` // where the replay ends inside Log; nil: at its end, without a target
	EndTime time.Time     `json:"end_time"`       // source's clock at the plan's last byte
	Notes   []string      `json:"notes,omitempty"`
}

// PlanRestore chooses the base and fixes the log: the newest base that was
// finished before the goal, lies on the path to the goal's branch, and from
// whose LogFrom the log is held without a hole. Without a time or a point the
// plan ends where the log held contiguously on that branch ends. A newer base
// that cannot be used is passed over with a note, never silently. What cannot
// be reached is an *hferr.E that names what can; a time or a point that no
// replay reaches is an *UnreachableError in its chain.
//
// With a time or a point the place is looked up in the log itself, so that
// RestorePlan.Stop is where the replay will end and not merely where it
// should; the plan then holds the log through there and little more (see
// cutLog). Nothing is written.
func PlanRestore(ctx context.Context, e Engine, l *repo.Lineage, g Goal) (*RestorePlan, error) {
	if g.Point != nil && !g.Time.IsZero() {
		return nil, hferr.NewUsage("plan a restore", errors.New("both a time and a point are given"), "give one of the two")
	}
	p, err := newPlanner(ctx, l)
	if err != nil {
		return nil, err
	}
	p.resolver, p.format = e.Resolver(), e.Restorer().FormatPosition
	return p.plan(ctx, g)
}

// exact says whether the goal is a place to look up in the log.
func (g Goal) exact() bool { return g.Point != nil || !g.Time.IsZero() }

// planner is what one look at the repository found.
type planner struct {
	lineage    *repo.Lineage
	database   string
	index      *wal.Index
	bases      []repo.Manifest // newest first, by the source's clock
	unreadable error           // of the backups that are not in bases

	// For goals that are looked up; nil where only windows are asked for.
	resolver Resolver
	format   func(repo.Position) string
}

func newPlanner(ctx context.Context, l *repo.Lineage) (*planner, error) {
	p := &planner{lineage: l, database: l.Info().Database}
	bases, err := l.Backups(ctx)
	if err != nil {
		if len(bases) == 0 {
			return nil, fmt.Errorf("list the base backups of %s: %w", p.database, err)
		}
		p.unreadable = err
	}
	p.bases = bases
	slices.SortStableFunc(p.bases, func(a, b repo.Manifest) int { return b.StopTime.Compare(a.StopTime) })
	p.index, err = wal.NewIndex(ctx, l)
	return p, err
}

func (p *planner) plan(ctx context.Context, g Goal) (*RestorePlan, error) {
	g, err := p.resolve(g)
	if err != nil {
		return nil, err
	}
	candidates, err := p.candidates(g)
	if err != nil {
		return nil, err
	}
	var notes []string
	if p.unreadable != nil {
		notes = append(notes, fmt.Sprintf("warning: not every backup could be read, so the newest may have been passed over: %v", p.unreadable))
	}
	var unusable error
	var misses []*missError
	for _, base := range candidates {
		r, err := p.from(ctx, base, g)
		var skip *unusableError
		var miss *missError
		switch {
		case errors.As(err, &skip):
			notes = append(notes, "warning: passed over a newer backup: "+skip.Error())
			unusable = errors.Join(unusable, err)
		case errors.As(err, &miss):
			misses = append(misses, miss) // an older base may reach it
		case err != nil:
			return nil, err
		default:
			r.Notes = append(notes, r.Notes...)
			return r, nil
		}
	}
	if len(misses) > 0 {
		return nil, p.unreachable(ctx, g, misses)
	}
	return nil, hferr.New(p.what(), unusable,
		"No base backup has all the log it needs. Take a new one: holdfast backup "+p.database)
}

func (p *planner) what() string { return "plan a restore of " + p.database }

// resolve turns a branch given as a number ("2", a timeline) into its id.
func (p *planner) resolve(g Goal) (Goal, error) {
	if g.Branch == "" {
		return g, nil
	}
	if _, ok := p.index.Branch(g.Branch); ok {
		return g, nil
	}
	var ids []string
	for _, b := range p.index.Branches() {
		if fmt.Sprint(b.Number) == g.Branch {
			ids = append(ids, b.ID)
		}
	}
	if len(ids) == 1 {
		g.Branch = ids[0]
		return g, nil
	}
	return g, hferr.NewUsage(p.what(), fmt.Errorf("branch %q names %d branches: %w", g.Branch, len(ids), repo.ErrNotFound),
		"Choose one of these with --branch:\n"+listBranches(p.index.Branches()))
}

// candidates are the bases that could serve, newest first.
func (p *planner) candidates(g Goal) ([]repo.Manifest, error) {
	if len(p.bases) == 0 {
		return nil, hferr.New(p.what(), errors.New("there is no base backup"), "Take one: holdfast backup "+p.database)
	}
	var named, onPath, out []repo.Manifest
	for _, b := range p.bases {
		if g.BackupID == "" || b.ID == g.BackupID {
			named = append(named, b)
		}
	}
	for _, b := range named {
		if g.Branch == "" || p.onPath(b, g.Branch) {
			onPath = append(onPath, b)
		}
	}
	for _, b := range onPath {
		if g.Time.IsZero() || b.StopTime.Before(g.Time) {
			out = append(out, b)
		}
	}
	switch {
	case len(named) == 0:
		return nil, hferr.NewUsage(p.what(), fmt.Errorf("backup %s: %w", g.BackupID, repo.ErrNotFound), "List what there is: holdfast list "+p.database)
	case len(onPath) == 0:
		return nil, hferr.New(p.what(), fmt.Errorf("no backup lies on the path to branch %s", g.Branch),
			"Choose another of these with --branch:\n"+listBranches(p.index.Branches()))
	case len(out) == 0:
		first := onPath[len(onPath)-1]
		return nil, hferr.New(p.what(), &UnreachableError{Target: describe(g), Why: "it is not after the end of the first backup that could serve"},
			fmt.Sprintf("The earliest reachable time is just after %s, when backup %s was finished.", stamp(first.StopTime), first.ID))
	}
	return out, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.999999Z07:00") }

func listBranches(branches []repo.Branch) string {
	var lines []string
	for _, b := range branches {
		line := fmt.Sprintf("  %s (number %d)", b.ID, b.Number)
		if b.Parent != "" {
			line += fmt.Sprintf(", left %s at %x", b.Parent, uint64(b.Fork))
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}
