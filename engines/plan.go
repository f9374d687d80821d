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
	Time     time.Time `json:"time,omitzero"`    // the state just before the first commit at or after it; source's clock
	Point    *Point    `json:"point,omitempty"`  // an exact place instead of a time
	Branch   string    `json:"branch,omitempty"` // branch to end on; "" = the newest that descends from the base
	BackupID string    `json:"backup,omitempty"` // start from this base; "" = the newest that serves
}

// RestorePlan is what PlanRestore fixed before anything is written.
type RestorePlan struct {
	Base    repo.Manifest `json:"-"`
	Log     *wal.Plan     `json:"log"`
	Goal    Goal          `json:"goal"`
	Stop    *Stop         `json:"stop,omitempty"` // where the replay ends inside Log; nil: at its end
	EndTime time.Time     `json:"end_time"`       // source's clock at the plan's last byte
	Notes   []string      `json:"notes,omitempty"`
}

// PlanRestore chooses the base and fixes the log: the newest base that was
// finished before the goal, lies on the path to the goal's branch, and from
// whose LogFrom the log is held without a hole. Without a time the plan ends
// where the log held contiguously on that branch ends. A newer base that
// cannot be used is passed over with a note, never silently. What cannot be
// reached is an *hferr.E that names what can.
//
// The log of a plan with a time goes as far as the log is held, not to the
// time: that a commit lies beyond the time is how a server knows that it has
// reached it.
func PlanRestore(ctx context.Context, l *repo.Lineage, g Goal) (*RestorePlan, error) {
	p, err := newPlanner(ctx, l)
	if err != nil {
		return nil, err
	}
	return p.plan(ctx, g)
}

// planner is what one look at the repository found.
type planner struct {
	database   string
	index      *wal.Index
	bases      []repo.Manifest // newest first, by the source's clock
	unreadable error           // of the backups that are not in bases
}

func newPlanner(ctx context.Context, l *repo.Lineage) (*planner, error) {
	p := &planner{database: l.Info().Database}
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
	for _, base := range candidates {
		r, err := p.from(ctx, base, g)
		var skip *unusableError
		if errors.As(err, &skip) {
			notes = append(notes, "warning: passed over a newer backup: "+skip.Error())
			unusable = errors.Join(unusable, err)
			continue
		}
		if err != nil {
			return nil, err
		}
		r.Notes = append(notes, r.Notes...)
		return r, nil
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
		return nil, hferr.New(p.what(), fmt.Errorf("the target %s is not after the end of the first backup that could serve", stamp(g.Time)),
			fmt.Sprintf("The earliest reachable time is just after %s, when backup %s was finished.", stamp(first.StopTime), first.ID))
	}
	return out, nil
}

// unusableError: this base lacks what it needs; an older one may not.
type unusableError struct {
	base string
	err  error
}

func (e *unusableError) Error() string { return fmt.Sprintf("backup %s: %v", e.base, e.err) }
func (e *unusableError) Unwrap() error { return e.err }

// from plans a restore that starts with base.
func (p *planner) from(ctx context.Context, base repo.Manifest, g Goal) (*RestorePlan, error) {
	target := g.Branch
	if target == "" {
		leaves := p.leaves(base)
		switch len(leaves) {
		case 0:
			return nil, &unusableError{base.ID, fmt.Errorf("its branch %s is not recorded: %w", base.Branch, repo.ErrNotFound)}
		case 1:
			target = leaves[0].ID
		default:
			return nil, hferr.NewUsage(p.what(), fmt.Errorf("%d branches descend from backup %s", len(leaves), base.ID),
				"Choose one of these with --branch:\n"+listBranches(leaves))
		}
	}
	log, gap, err := p.reach(ctx, base, target)
	if err != nil {
		return nil, err
	}
	if gap != nil && g.Time.IsZero() && log.Legs[len(log.Legs)-1].Branch.ID != target {
		return nil, hferr.New(p.what(), fmt.Errorf("branch %s cannot be reached from backup %s: %w", target, base.ID, gap),
			fmt.Sprintf("Restore what lies before the gap with --target-time, or take a new base backup: holdfast backup %s", p.database))
	}
	end, err := p.index.EndTime(ctx, log)
	if err != nil {
		return nil, err
	}
	if !g.Time.IsZero() && !end.After(g.Time) {
		return nil, p.tooLate(g, base, end, gap)
	}
	r := &RestorePlan{Base: base, Log: log, Goal: g, EndTime: end}
	r.Goal.Branch = log.Legs[len(log.Legs)-1].Branch.ID
	r.Goal.BackupID = base.ID
	if gap != nil && g.Time.IsZero() {
		r.Notes = append(r.Notes, fmt.Sprintf("warning: the restore ends at a gap in the archive, at %s; what follows needs a newer base backup: %v", stamp(end), gap))
	}
	if g.Branch == "" {
		r.Notes = append(r.Notes, p.otherLeaves(log, target)...)
	}
	return r, nil
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

func (p *planner) tooLate(g Goal, base repo.Manifest, end time.Time, gap *wal.GapError) error {
	why := fmt.Errorf("the target %s is not before the last moment archived, %s", stamp(g.Time), stamp(end))
	if gap != nil {
		why = fmt.Errorf("the target %s lies behind a gap that begins at %s: %w", stamp(g.Time), stamp(end), gap)
	}
	return hferr.New(p.what(), why, fmt.Sprintf(
		"From backup %s, any time after %s and before %s can be reached. Leave out --target-time for the latest state.",
		base.ID, stamp(base.StopTime), stamp(end)))
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
