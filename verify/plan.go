package verify

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

const (
	// beatSpan is how far back from the target noted beats are collected:
	// holes further back than that are the affair of earlier drills.
	beatSpan = 2 * time.Hour
	// freshBase is how soon after its base a drill counts as flattering.
	freshBase = 10 * time.Minute
	// toyData is the size below which rates say nothing about real data.
	toyData = 1 << 30
)

// observe asks the source for its clock and its last beat: from then on it is
// not trusted and not asked again.
func (d *drill) observe(ctx context.Context) error {
	src := &d.rec.Source
	if d.q.Source == nil {
		src.Note = d.q.SourceNote
		if src.Note == "" {
			src.Note = "no source was given"
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, observeLimit)
	defer cancel()
	id, err := d.q.Source.Identify(ctx)
	if err == nil {
		if want := d.q.Lineage.Info().ID; id.Lineage.ID != want {
			return hferr.New("compare the source with its backups",
				fmt.Errorf("the source is %s now, these are the backups of %s", id.Lineage.ID, want),
				"take a base backup of the new source, or drill the old lineage without a source")
		}
		d.t, err = d.q.Source.Clock(ctx)
	}
	if err != nil {
		src.Note = "the source did not answer: " + err.Error()
		d.log.Info("source not reachable, measuring from what the archive noted", "error", err)
		return nil
	}
	src.Reachable, src.Version, d.tBasis = true, id.Version, "source's clock when the drill began"
	bs, ok := d.q.Source.(engines.BeatSource)
	if !ok {
		return nil
	}
	if d.live, err = bs.LastBeat(ctx); err != nil {
		src.Note = "the source's last heartbeat could not be read: " + err.Error()
	}
	return nil
}

// makePlan fixes base, log and end, and refuses a drill that cannot work
// before anything is fetched.
func (d *drill) makePlan(ctx context.Context) error {
	goal := d.q.Goal
	if d.q.Mode == ModeRandom {
		var err error
		if goal.Time, err = d.randomTime(ctx, goal); err != nil {
			return err
		}
		d.rec.Target.Time = goal.Time.UTC()
	}
	p, err := engines.PlanRestore(ctx, d.q.Engine, d.q.Lineage, goal)
	if err != nil {
		return err
	}
	d.plan = p
	d.recordPlan(p)
	if p.Log.To() <= p.Base.Stop && !d.q.AllowBase {
		return hferr.New("plan a drill", fmt.Errorf("nothing to replay: the log ends at %s, where base %s ends", d.format(p.Log.To()), p.Base.ID),
			"let the stream run on after the base backup, then drill again")
	}
	if d.q.Mode == ModeLatest {
		if err := errors.Join(d.continuity(ctx), d.newestBase(ctx)); err != nil {
			return err
		}
	}
	return d.room(p)
}

func (d *drill) recordPlan(p *engines.RestorePlan) {
	b := p.Base
	why := "the newest base from which the target can be reached"
	if d.q.Goal.BackupID != "" {
		why = "named by the user"
	}
	d.rec.Base = BaseRecord{
		ID: b.ID, Parent: b.Parent, Why: why, Branch: b.Branch, Stop: d.format(b.Stop), StopTime: b.StopTime.UTC(),
		Items: b.Items, Bytes: b.Bytes, Packs: len(b.Packs), MapSHA256: b.MapSHA256, Tool: b.Tool,
	}
	for _, pack := range b.Packs {
		d.rec.Base.PackBytes += pack.Size
	}
	branches := p.Log.Branches()
	d.rec.Target.Branch = branches[len(branches)-1]
	d.rec.Target.PlanEnd, d.rec.Target.PlanEndTime = d.format(p.Log.To()), p.EndTime.UTC()
	if p.Stop != nil {
		d.rec.Target.Stop = d.format(p.Stop.At)
	}
	d.rec.Replayed = LogRecord{From: d.format(p.Log.From()), To: d.format(p.Log.To()), Branches: branches}
	for _, n := range p.Notes {
		severity := "info"
		if rest, ok := strings.CutPrefix(n, "warning: "); ok {
			severity, n = "warning", rest
		}
		d.finding(severity, "plan", n)
	}
	d.labels(p)
}

// labels names what makes this drill look better than a real recovery.
func (d *drill) labels(p *engines.RestorePlan) {
	if d.q.StoreLocal {
		d.label("store on the same host: fetching did not cross a network")
	}
	d.label("page cache unknown: parts of the store may have been read from memory")
	if after := p.EndTime.Sub(p.Base.StopTime); d.q.Mode == ModeLatest && after < freshBase {
		d.label("right after a base backup: only %s of log to replay", after.Round(time.Second))
	}
	if p.Base.Bytes < toyData {
		d.label("small data set: its rates say little about a large one")
	}
}

// continuity looks for log that is held beyond a hole on the last branch: the
// plan ends at the hole, but the archive was meant to go on.
func (d *drill) continuity(ctx context.Context) error {
	branch, end := d.rec.Target.Branch, d.plan.Log.To()
	refs, err := d.q.Lineage.Segments(ctx, branch, 0)
	if err != nil {
		return err
	}
	c := engines.CheckResult{
		ID: "log-continuity", Tier: "replay", Expected: "log without a hole to its end", Actual: "no hole", Verdict: "pass",
	}
	for _, r := range wal.Coverage(refs) {
		if r.Start > end {
			c.Verdict, c.Actual = "fail", fmt.Sprintf("log of branch %s is missing from %s to %s", branch, d.format(end), d.format(r.Start))
			break
		}
	}
	d.rec.Checks = append(d.rec.Checks, c)
	return nil
}

// newestBase fails the drill where the plan had to pass over the newest base
// backup, or where one cannot be read: that an older one serves is luck.
func (d *drill) newestBase(ctx context.Context) error {
	if d.q.Goal.BackupID != "" || d.q.Goal.Branch != "" {
		return nil
	}
	all, err := d.q.Lineage.Backups(ctx)
	if err != nil && (!errors.Is(err, repo.ErrDamaged) || len(all) == 0) {
		return err
	}
	newest := slices.MaxFunc(all, func(a, b repo.Manifest) int { return a.StopTime.Compare(b.StopTime) })
	c := engines.CheckResult{ID: "newest-base", Tier: "replay", Expected: newest.ID, Actual: d.plan.Base.ID, Verdict: "pass"}
	if newest.ID != d.plan.Base.ID {
		c.Verdict, c.Detail = "fail", "the newest base backup cannot be used"
	}
	if err != nil {
		c.Verdict, c.Detail = "fail", err.Error()
	}
	d.rec.Checks = append(d.rec.Checks, c)
	return nil
}

// expect collects what the source acknowledged, from the archive's notes, and
// falls back to their clock where the source did not answer.
func (d *drill) expect(ctx context.Context) error {
	target := d.plan.EndTime
	if !d.plan.Goal.Time.IsZero() {
		target = d.plan.Goal.Time
	}
	since := d.plan.Base.StartTime
	if far := target.Add(-beatSpan); far.After(since) {
		since = far
	}
	beats, last, err := wal.NotedBeats(ctx, d.q.Lineage, d.plan.Log.Branches(), since)
	if err != nil {
		return err
	}
	d.noted = beats
	if d.tBasis == "" && !last.IsZero() {
		d.t, d.tBasis = last, "last time the archive heard the source's clock"
	}
	return nil
}

// randomTime picks the time of a noted beat that another one precedes, after
// the oldest base: the one must be absent, the other present.
func (d *drill) randomTime(ctx context.Context, goal engines.Goal) (time.Time, error) {
	latest, err := engines.PlanRestore(ctx, d.q.Engine, d.q.Lineage, goal)
	if err != nil {
		return time.Time{}, err
	}
	oldest := latest.Base
	if goal.BackupID == "" {
		all, err := d.q.Lineage.Backups(ctx)
		if err != nil {
			return time.Time{}, err
		}
		for _, m := range all {
			if m.StopTime.Before(oldest.StopTime) && slices.Contains(latest.Log.Branches(), m.Branch) {
				oldest = m
			}
		}
	}
	beats, _, err := wal.NotedBeats(ctx, d.q.Lineage, latest.Log.Branches(), oldest.StopTime)
	if err != nil {
		return time.Time{}, err
	}
	beats = newestByNumber(beats)
	var choice []time.Time
	for i := 1; i < len(beats); i++ {
		if beats[i-1].At.After(oldest.StopTime) && beats[i].At.After(beats[i-1].At) && beats[i].Pos <= latest.Log.To() {
			choice = append(choice, beats[i].At)
		}
	}
	if len(choice) == 0 {
		return time.Time{}, hferr.New("pick a random moment", errors.New("the archive notes no two heartbeats after its first base backup"),
			"let the stream and its heartbeat run on, or drill --target latest")
	}
	pick := rand.IntN
	if d.q.Rand != nil {
		pick = d.q.Rand.IntN
	}
	return choice[pick(len(choice))], nil
}
