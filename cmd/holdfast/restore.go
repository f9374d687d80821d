package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/spf13/cobra"
)

type restoreFlags struct {
	targetFlags
	to     string
	dryRun bool
}

func (a *app) restoreCommand() *cobra.Command {
	var fl restoreFlags
	c := &cobra.Command{
		Use:   "restore DB --to DIRECTORY",
		Short: "Restore into an empty directory: the latest state, or a chosen place in the log",
		Long: `Restores a base backup into an empty directory and configures the server there
to replay the log, served by this binary, up to the latest state or to an exact
place: a time, a position, a transaction, a restore point, or just before a
transaction that should not have been. Where that is, and that it can be
reached, is looked up in the log before a byte is written; what cannot be
reached is refused with the nearest places that can. "holdfast list DB --points"
shows them. The source is not needed. It prints how to start the server.`,
		Example: `  holdfast restore orders --to /var/lib/postgresql/15/restored
  holdfast restore orders --to /srv/before --target-time '2026-11-22 14:59:30+00'
  holdfast restore orders --to /srv/before --before 7341
  holdfast restore orders --target-name before-upgrade --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runRestore(cmd.Context(), args[0], fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.to, "to", "", "directory to restore into; missing or empty")
	f.BoolVar(&fl.dryRun, "dry-run", false, "plan, prove that it can be done, print where it would end, and write nothing")
	fl.add(f, false)
	c.MarkFlagsOneRequired("to", "dry-run")
	return c
}

func (a *app) runRestore(ctx context.Context, arg string, fl restoreFlags) error {
	goal, err := fl.goal()
	if err != nil {
		return err
	}
	if fl.target == targetRandom {
		return hferr.NewUsage("read the target", errors.New("random is for drills"), "name a place, or leave --target out for the latest state")
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
		Engine: e, Lineage: l, Goal: goal, Dir: fl.to, RepoURL: raw, Binary: self, Stream: opts, DryRun: fl.dryRun,
	})
	p.stop()
	if err != nil {
		return err
	}
	return a.printRestore(rep, fl, e.Restorer().FormatPosition, a.clock().Sub(began))
}

func (a *app) printRestore(rep *agent.RestoreReport, fl restoreFlags, pos func(repo.Position) string, took time.Duration) error {
	pl := rep.Plan
	if a.json() {
		return a.printJSON(map[string]any{
			"directory": fl.to, "dry_run": fl.dryRun, "backup": pl.Base.ID, "goal": pl.Goal, "log": pl.Log, "stop": newStopDoc(pl.Stop, pos),
			"end_time": pl.EndTime, "bytes": rep.Stats.Bytes, "items": rep.Stats.Items, "seconds": took.Seconds(),
			"start": rep.Instructions.Start, "notes": append(pl.Notes, rep.Instructions.Notes...),
		})
	}
	if fl.dryRun {
		a.printf("would restore %s (%s, consistent at %s); nothing was written\n", pl.Base.ID, size(pl.Base.Bytes), stampTime(pl.Base.StopTime))
	} else {
		a.printf("restored %s (%s in %s items) into %s in %s\n", pl.Base.ID, size(rep.Stats.Bytes), humanize.Comma(rep.Stats.Items), fl.to, round(took))
	}
	for i, line := range stopText(pl, pos) {
		if i == 0 {
			line = "it will replay the log " + line
		}
		a.printf("  %s\n", line)
	}
	if !fl.dryRun {
		a.printf("  start it:  %s\n", rep.Instructions.Start)
	}
	for _, n := range append(pl.Notes, rep.Instructions.Notes...) {
		a.printf("  note: %s\n", n)
	}
	return nil
}
