package verify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

const (
	observeLimit  = 15 * time.Second // for the source's few answers
	teardownLimit = time.Minute      // for everything after a cancelled drill
	stopGrace     = 10 * time.Second // before a server's processes are killed

	// sandboxLabel is on everything a drill makes, so that the next one finds
	// what a killed one left.
	sandboxLabel = "holdfast-drill"
)

// drill is one running drill. Its steps run one after the other.
type drill struct {
	q        Request
	log      *slog.Logger
	ladder   *ladder
	rec      *Record
	problems []problem

	t       time.Time  // the instant the source stopped being trusted; zero: unknown
	tBasis  string     // where t is from
	live    *repo.Beat // the source's own last beat
	plan    *engines.RestorePlan
	noted   []repo.Beat // acknowledged beats, by number
	sandbox testcontainers.Sandbox
	dir     string // of the copy
	copy    engines.Copy
	found   []repo.Beat // beats in the copy, by number
	reached repo.Position
	asserts time.Duration // from Started to the end of the last check; 0: not got there
}

func newDrill(q Request) *drill {
	info := q.Lineage.Info()
	id := newID(q.Clock())
	workers := q.Stream.Workers
	if workers == 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	d := &drill{q: q, log: q.Log.With("drill", id), ladder: newLadder(q.Clock, q.Progress)}
	host, err := os.Hostname()
	if err != nil {
		host = "" // a name for people; nothing depends on it
	}
	d.rec = &Record{
		Schema: RecordSchema, Tool: q.Tool, ID: id, Started: q.Started.UTC(),
		Trigger: q.Trigger, Operator: q.Operator, Policy: q.Policy, Ticket: q.Ticket,
		Source:     SourceRecord{Lineage: info.ID, Database: info.Database, Engine: info.Engine, Identity: info.Identity},
		Repository: RepositoryRecord{Location: q.Repository, KeySlot: q.OpenedWith.Name, KeyKind: q.OpenedWith.Kind},
		Target:     TargetRecord{Mode: q.Mode, Time: q.Goal.Time.UTC(), Point: q.Goal.Point},
		Host: HostRecord{
			Name: host, OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(),
			Workers: workers, WorkDir: q.WorkDir, FreeBytes: -1,
		},
		RTO:   RTORecord{Detection: "not measured"},
		Hints: []string{}, Labels: []string{}, Checks: []engines.CheckResult{}, Findings: []repo.Finding{},
	}
	return d
}

// run goes up the ladder until a step fails. What it made is torn down by the
// caller.
func (d *drill) run(ctx context.Context) {
	d.ladder.beginAt(phaseOpen, d.q.Started)
	steps := []struct {
		phase string
		run   func(context.Context) error
	}{
		{phaseObserve, d.observe},
		{phasePlan, d.makePlan},
		{phaseExpect, d.expect},
		{phaseProvision, d.provision},
		{phaseFetch, d.fetch},
		{phaseBoot, d.replay},
		{phaseCheck, d.check},
	}
	for _, s := range steps {
		d.ladder.begin(s.phase)
		if err := s.run(ctx); err != nil {
			d.fail(ctx, d.ladder.current(), err)
			d.ladder.end("failed")
			return
		}
	}
	d.ladder.end("done")
}

// fail notes why the drill ends here. A step that ended because ctx did is
// cancelled, whatever the error it made of it.
func (d *drill) fail(ctx context.Context, phase string, err error) {
	p := judge(phase, err)
	if ctx.Err() != nil && p.verdict == Fail && !errors.Is(err, repo.ErrDamaged) {
		p = judge(phase, ctx.Err())
	}
	// For the record, not an alarm: the verdict tells the person.
	d.log.Info("drill stopped", "phase", phase, "verdict", string(p.verdict), "error", err)
	d.problems = append(d.problems, p)
	for line := range strings.Lines(hferr.HintOf(err)) {
		d.rec.Hints = append(d.rec.Hints, strings.TrimRight(line, "\n"))
	}
}

func (d *drill) label(format string, args ...any) {
	d.rec.Labels = append(d.rec.Labels, fmt.Sprintf(format, args...))
}

// sweep removes what a drill that was killed left in the work directory: a
// copy of somebody's data must not lie about. A failure is no verdict on the
// backup.
func (d *drill) sweep(ctx context.Context) {
	gone, err := testcontainers.Reap(ctx, d.q.WorkDir, sandboxLabel)
	if len(gone) > 0 {
		d.finding("info", "leftovers", "removed what an earlier drill that was killed had left: "+strings.Join(gone, ", "))
	}
	if err != nil {
		d.finding("warning", "leftovers", "what an earlier drill left could not be removed: "+oneLine(err))
	}
}

// provision gets the throwaway server that the base needs.
func (d *drill) provision(ctx context.Context) error {
	d.sweep(ctx)
	spec := d.q.Engine.Restorer().Server(d.plan)
	spec.Dir, spec.Label = d.q.WorkDir, sandboxLabel
	if d.q.Image != "" {
		spec.Image = d.q.Image
	}
	sb, err := d.q.Provider.Provision(ctx, spec)
	if err != nil {
		return err
	}
	d.sandbox, d.dir = sb, filepath.Join(sb.Dir(), "data")
	d.rec.Sandbox = sb.Describe()
	if d.rec.Sandbox.Isolation == "none" {
		d.label("isolation none: the copy ran as a process of this host, with its network")
	}
	return nil
}

// fetch loads the base into the sandbox.
func (d *drill) fetch(ctx context.Context) error {
	r := d.q.Engine.Restorer()
	if err := r.Preflight(ctx, d.plan, d.dir); err != nil {
		return err
	}
	st, err := r.Load(ctx, engines.LoadRequest{
		Lineage: d.q.Lineage, Plan: d.plan, Dir: d.dir, Sandbox: d.sandbox, Stream: d.q.Stream,
	})
	d.ladder.count(phaseFetch, st.Bytes, st.NewStored, "decrypting, decompressing and writing included")
	return err
}

// replay has the engine recover the copy from the plan's log.
func (d *drill) replay(ctx context.Context) error {
	r := d.q.Engine.Restorer()
	rd, err := wal.NewReader(ctx, d.q.Lineage, d.plan.Log)
	if err != nil {
		return err
	}
	feed, err := r.Feed(d.plan, rd)
	if err != nil {
		return err
	}
	counted := &countedFeed{next: feed}
	count := func() {
		pieces, bytes, _ := counted.totals()
		d.rec.Replayed.Pieces, d.rec.Replayed.Bytes = pieces, bytes
		d.ladder.count(phaseReplay, bytes, 0, "log handed to the copy")
	}
	d.copy, err = r.Replay(ctx, engines.ReplayRequest{
		Plan: d.plan, Dir: d.dir, Sandbox: d.sandbox, Feed: counted, Binary: d.q.Binary,
		Log: d.log, Output: d.q.Output,
		Phase: func(name string) {
			if d.ladder.current() != name {
				count() // what the phase that ends here moved
				d.ladder.begin(name)
			}
		},
	})
	count()
	_, _, feedErr := counted.totals()
	if err != nil && feedErr != nil {
		// The copy only knows that its log stopped; we know why.
		return &feedError{err: feedErr, copy: err}
	}
	if err != nil {
		return err
	}
	d.rec.RTO.Ready = d.q.Clock().Sub(d.q.Started).Milliseconds()
	return d.arrived(ctx)
}

// arrived asks the copy where it is and what it is.
func (d *drill) arrived(ctx context.Context) error {
	pos, at, err := d.copy.Reached(ctx)
	if err != nil {
		return fmt.Errorf("ask the copy what it reached: %w", err)
	}
	d.reached = pos
	d.rec.Target.Reached, d.rec.Target.ReachedTime = d.format(pos), at.UTC()
	d.rec.Replayed.AfterBase = max(0, at.Sub(d.plan.Base.StopTime).Milliseconds())
	if pos <= d.plan.Base.Stop && !d.q.AllowBase {
		d.problems = append(d.problems, problem{Unverified, "nothing was replayed: the copy ended where its base backup ends, at " + d.format(pos)})
	}
	d.versions()
	return nil
}

func (d *drill) format(p repo.Position) string {
	return d.q.Engine.Restorer().FormatPosition(p)
}

// tearDown removes everything the drill made, whatever became of ctx.
func (d *drill) tearDown(ctx context.Context) {
	if d.sandbox == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	d.ladder.begin(phaseTeardown)
	td := &d.rec.Teardown
	td.Needed = true
	var stopErr error
	if d.copy != nil {
		// A copy that will not stop is killed with its sandbox; only a
		// sandbox that stays is a leftover.
		stopErr = d.copy.Close(ctx)
	}
	err := d.sandbox.Remove(ctx, stopGrace)
	if _, statErr := os.Lstat(d.sandbox.Dir()); err == nil && !errors.Is(statErr, os.ErrNotExist) {
		err = fmt.Errorf("%s still exists", d.sandbox.Dir())
	}
	if stopErr != nil {
		d.finding("warning", "copy-stop", "the copy did not stop by itself and was killed: "+stopErr.Error())
	}
	td.Removed = err == nil
	if err != nil {
		td.Leftover = err.Error()
		d.problems = append(d.problems, problem{Fail, "teardown left something behind: " + err.Error()})
		d.ladder.end("failed")
		return
	}
	d.ladder.end("done")
}
