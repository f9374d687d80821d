package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/spf13/cobra"
)

type restoreFlags struct {
	to     string
	time   string
	branch string
	backup string
}

func (a *app) restoreCommand() *cobra.Command {
	var fl restoreFlags
	c := &cobra.Command{
		Use:   "restore DB --to DIRECTORY",
		Short: "Restore into an empty directory: the latest state, or a chosen moment",
		Long: `Restores a base backup into an empty directory and configures the server there
to replay the log, served by this binary, up to the latest state or to the last
commit before --target-time. What can be reached is proved before a byte is
written. The source is not needed. It prints how to start the server.`,
		Example: `  holdfast restore orders --to /var/lib/postgresql/15/restored
  holdfast restore orders --to /srv/before --target-time '2026-11-22 14:59:30+00'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runRestore(cmd.Context(), args[0], fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.to, "to", "", "directory to restore into; missing or empty")
	f.StringVar(&fl.time, "target-time", "", "stop before the first commit at or after this time (RFC 3339, or '2006-01-02 15:04:05.999999+00')")
	f.StringVar(&fl.branch, "branch", "", "branch to end on, where several descend from the base (see list)")
	f.StringVar(&fl.backup, "backup", "", "base backup to start from (default: the newest that serves)")
	_ = c.MarkFlagRequired("to")
	return c
}

// timeForms are what a person writes; a time without a zone is refused, since
// a guess here restores the wrong data.
var errTimeForm = errors.New("want a time with a zone, like 2026-11-22T14:59:30Z or '2026-11-22 14:59:30.25+00'")

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07", "2006-01-02 15:04Z07:00", "2006-01-02 15:04-07"} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, hferr.NewUsage(fmt.Sprintf("time %q", s), errTimeForm, "")
}

func (fl restoreFlags) goal() (engines.Goal, error) {
	t, err := parseTime(fl.time)
	return engines.Goal{Time: t, Branch: fl.branch, BackupID: fl.backup}, err
}

func (a *app) runRestore(ctx context.Context, arg string, fl restoreFlags) error {
	goal, err := fl.goal()
	if err != nil {
		return err
	}
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	t, err := a.resolve(cfg, arg)
	if err != nil {
		return err
	}
	r, raw, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	l, err := agent.FindLineage(ctx, r, t.name)
	if err != nil {
		return err
	}
	e, err := engineByName(l.Info().Engine)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	p := a.newProgress("restore " + t.name)
	opts, err := a.streamOptions(p.meter)
	if err != nil {
		return err
	}
	began := a.clock()
	p.phase("load")
	p.start()
	rep, err := a.deps(r).Restore(ctx, agent.RestoreRequest{
		Engine: e, Lineage: l, Goal: goal, Dir: fl.to, RepoURL: raw, Binary: self, Stream: opts,
	})
	p.stop()
	if err != nil {
		return err
	}
	return a.printRestore(rep, fl.to, a.clock().Sub(began))
}

func (a *app) printRestore(rep *agent.RestoreReport, dir string, took time.Duration) error {
	pl := rep.Plan
	if a.json() {
		return a.printJSON(map[string]any{
			"directory": dir, "backup": pl.Base.ID, "goal": pl.Goal, "log": pl.Log, "end_time": pl.EndTime,
			"bytes": rep.Stats.Bytes, "items": rep.Stats.Items, "seconds": took.Seconds(),
			"start": rep.Instructions.Start, "notes": append(pl.Notes, rep.Instructions.Notes...),
		})
	}
	a.printf("restored %s (%s in %s items) into %s in %s\n", pl.Base.ID, size(rep.Stats.Bytes), humanize.Comma(rep.Stats.Items), dir, round(took))
	if pl.Goal.Time.IsZero() {
		a.printf("  it will replay the log to its end, %s by the source's clock\n", pl.EndTime.UTC().Format(time.RFC3339Nano))
	} else {
		a.printf("  it will replay the log up to the last commit before %s\n", pl.Goal.Time.UTC().Format(time.RFC3339Nano))
	}
	a.printf("  start it:  %s\n", rep.Instructions.Start)
	for _, n := range append(pl.Notes, rep.Instructions.Notes...) {
		a.printf("  note: %s\n", n)
	}
	return nil
}
