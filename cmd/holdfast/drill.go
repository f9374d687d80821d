package main

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/verify"
	"github.com/spf13/cobra"
)

type drillFlags struct {
	targetFlags
	checks    []string
	provider  string
	image     string
	workDir   string
	recordDir string
	ticket    string
	serverLog bool
}

func (a *app) drillCommand() *cobra.Command {
	var fl drillFlags
	c := &cobra.Command{
		Use:   "drill DB|URL",
		Short: "Restore into a throwaway server, check it, measure RPO and RTO",
		Long: `Restores the newest state (or a chosen place or a random moment) from the
repository alone into a throwaway server, replays the log, and checks the copy: heartbeats
present before and absent after, a full read of every table, the engine's own
integrity checks, and your SQL. It measures the RPO from the restored data and
the RTO by phase, removes everything, and keeps a record in the repository.

Exit status: 0 pass, 1 fail, 3 could not verify.`,
		Example: `  holdfast drill orders
  holdfast drill orders --target random --check 'select count(*) > 0 from orders'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runDrill(cmd.Context(), args[0], fl) },
	}
	f := c.Flags()
	fl.add(f, true)
	f.StringArrayVar(&fl.checks, "check", nil, "SQL whose first value must be true or a number other than zero; may be repeated")
	f.StringVar(&fl.provider, "provider", "", "docker or process (default: docker where it has the image, else process)")
	f.StringVar(&fl.image, "image", "", "container image of the throwaway server")
	f.StringVar(&fl.workDir, "work-dir", "", "existing directory with room for the copy (default: the system's temporary directory)")
	f.StringVar(&fl.recordDir, "record-dir", "", "also write the record here as <id>.json")
	f.StringVar(&fl.ticket, "ticket", "", "a reference to keep in the record")
	f.BoolVar(&fl.serverLog, "server-log", false, "show the throwaway server's own log on standard error")
	return c
}

func (a *app) runDrill(ctx context.Context, arg string, fl drillFlags) error {
	began := a.clock()
	q := verify.Request{
		Image: fl.image, WorkDir: fl.workDir, RecordDir: fl.recordDir,
		Trigger: "manual", Operator: operator(), Ticket: fl.ticket, Tool: "holdfast " + version(),
		Started: began, Log: a.log, Clock: a.clock,
	}
	if err := fl.moment(&q); err != nil {
		return err
	}
	t, closeSource, err := a.drillSource(ctx, arg, &q)
	if err != nil {
		return err
	}
	defer closeSource()
	if err := a.drillPlace(t, fl, &q); err != nil {
		return err
	}
	if fl.serverLog {
		q.Output = a.err
	}
	l := a.newLadder(fl.serverLog)
	q.Progress = l.event
	rec, err := verify.Drill(ctx, q)
	l.done()
	if err != nil {
		return err
	}
	if a.json() {
		err = a.printJSON(rec)
	} else {
		err = l.print(rec)
	}
	if err != nil {
		return err
	}
	if code := rec.ExitCode(); code != exitDone {
		return codeError(code)
	}
	return nil
}

// moment sets which moment the drill restores.
func (fl drillFlags) moment(q *verify.Request) (err error) {
	if q.Goal, err = fl.goal(); err != nil {
		return err
	}
	switch {
	case q.Goal.Point != nil:
		q.Mode = verify.ModePoint
	case !q.Goal.Time.IsZero():
		q.Mode = verify.ModeTime
	default:
		q.Mode = verify.Mode(fl.target) // latest or random
	}
	return nil
}

// drillSource opens the repository and, if it can be reached, the source.
func (a *app) drillSource(ctx context.Context, arg string, q *verify.Request) (target, func(), error) {
	none := func() {}
	cfg, err := a.configFile()
	if err != nil {
		return target{}, none, err
	}
	t, err := a.resolve(cfg, arg)
	if err != nil {
		return t, none, err
	}
	r, raw, err := a.openRepo(ctx, cfg)
	if err != nil {
		return t, none, err
	}
	q.Repository, q.OpenedWith, q.StoreLocal = raw, r.OpenedWith(), strings.HasPrefix(raw, "file://")
	if q.Lineage, err = agent.FindLineage(ctx, r, t.name); err != nil {
		return t, none, err
	}
	if q.Engine, err = engineByName(q.Lineage.Info().Engine); err != nil {
		return t, none, err
	}
	if t.url == "" {
		return t, none, nil
	}
	cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, src, err := a.connect(cctx, t)
	if err != nil {
		// A dead source is what drills are for.
		a.log.Info("the source cannot be reached; drilling without it", "error", err)
		q.SourceNote = "the source could not be reached: " + err.Error()
		return t, none, nil
	}
	q.Source = src
	return t, func() { src.Close() }, nil
}

// drillPlace says where the copy runs and what it is asked.
func (a *app) drillPlace(t target, fl drillFlags, q *verify.Request) error {
	provider := pickText(fl.provider, t.db.Drill.Provider)
	q.Image = pickText(fl.image, t.db.Drill.Image)
	var err error
	if q.Provider, err = a.provider(provider); err != nil {
		return err
	}
	if q.WorkDir == "" {
		q.WorkDir = os.TempDir()
	}
	if q.Binary, err = os.Executable(); err != nil {
		return err
	}
	for _, c := range t.db.Drill.Checks {
		uc := verify.UserCheck{Name: pickText(c.Name, c.SQL), Database: c.Database, SQL: c.SQL}
		if c.Expect != "" {
			uc.Expect = &c.Expect
		}
		q.Checks = append(q.Checks, uc)
	}
	for _, sql := range fl.checks {
		q.Checks = append(q.Checks, verify.UserCheck{Name: sql, SQL: sql})
	}
	q.Objectives = verify.Objectives{RPO: time.Duration(t.db.Objectives.RPO), RTO: time.Duration(t.db.Objectives.RTO)}
	q.Stream, err = a.streamOptions(nil)
	return err
}

// provider is where throwaway servers come from.
func (a *app) provider(name string) (testcontainers.Provider, error) {
	find := testcontainers.Finder{Getenv: os.Getenv}
	switch name {
	case "process":
		return testcontainers.NewProcess(a.log, find), nil
	case "docker":
		return testcontainers.NewDocker(a.log, testcontainers.DockerOptions{}), nil
	case "":
		return testcontainers.Auto(a.log, testcontainers.NewDocker(a.log, testcontainers.DockerOptions{}), testcontainers.NewProcess(a.log, find)), nil
	}
	return nil, hferr.NewUsage("--provider "+name, fmt.Errorf("unknown provider"), "use docker or process")
}

func pickText(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// operator is who ran the command, for the record.
func operator() string {
	name, host := "unknown", ""
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil {
		host = "@" + h
	}
	return name + host
}

// phaseLadder shows a drill's phases as they pass: rewritten in place on a
// terminal, a line each elsewhere.
type phaseLadder struct {
	a    *app
	tty  bool
	open bool
}

// newLadder rewrites lines only where nothing else is written between them.
func (a *app) newLadder(serverLog bool) *phaseLadder {
	return &phaseLadder{a: a, tty: terminal(a.err) && !a.flags.verbose && !serverLog}
}

// print leaves the phases out for whoever has just watched them.
func (l *phaseLadder) print(rec *verify.Record) error {
	if l.tty && terminal(l.a.out) {
		fmt.Fprintln(l.a.err)
		return rec.Outcome(l.a.out)
	}
	return rec.Summary(l.a.out)
}

func (l *phaseLadder) event(e verify.PhaseEvent) {
	if l.a.json() {
		return
	}
	if !e.Done {
		if l.tty {
			fmt.Fprintf(l.a.err, "\r\033[K  … %s", e.Phase)
			l.open = true
		}
		return
	}
	mark, moved := "✓", ""
	if e.Failed {
		mark = "✗"
	}
	if e.Bytes > 0 {
		moved = size(e.Bytes)
		if s := e.Took.Seconds(); s > 0.05 {
			moved += fmt.Sprintf(", %s/s", size(int64(float64(e.Bytes)/s)))
		}
	}
	if l.tty {
		fmt.Fprint(l.a.err, "\r\033[K")
	}
	indent := strings.Repeat("  ", 1+strings.Count(e.Phase, "/"))
	fmt.Fprintf(l.a.err, "%s%s %-*s %9s  %s\n", indent, mark, 22-len(indent), e.Phase, round(e.Took), moved)
	l.open = false
}

// done clears a phase that was begun and never ended.
func (l *phaseLadder) done() {
	if l.tty && l.open {
		fmt.Fprint(l.a.err, "\r\033[K")
	}
}
