package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/spf13/cobra"
)

func (a *app) listCommand() *cobra.Command {
	var fl pointFlags
	c := &cobra.Command{
		Use:   "list [DB]",
		Short: "Backups, log coverage and recovery windows; without a name, the databases",
		Long: `Lists the databases of a repository, or of one database the backups, the log
held and what can be restored. --points lists what can be named as a restore's
target: the windows in time and position, the restore points, and with
--commits every commit and abort (bounded by --since and --until).`,
		Example: `  holdfast list orders --points
  holdfast list orders --points --commits --since '2026-11-22 14:55+00' --until '2026-11-22 15:00+00'`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runList(cmd.Context(), args, fl) },
	}
	f := c.Flags()
	f.BoolVar(&fl.points, "points", false, "list what a restore can end at: windows and restore points")
	f.BoolVar(&fl.commits, "commits", false, "with --points: every commit and abort too")
	f.StringVar(&fl.since, "since", "", "with --points: not those before this time")
	f.StringVar(&fl.until, "until", "", "with --points: only those before this time")
	return c
}

// listing is the JSON document of `list DB`.
type listing struct {
	Lineage  repo.LineageInfo      `json:"lineage"`
	Backups  []agent.BackupSummary `json:"backups"`
	Coverage []wal.BranchCoverage  `json:"coverage"`
	Windows  []engines.Window      `json:"windows"`
	Problems []string              `json:"problems,omitempty"`
}

func (a *app) runList(ctx context.Context, args []string, fl pointFlags) error {
	if err := fl.check(len(args) > 0); err != nil {
		return err
	}
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return a.listDatabases(ctx, r)
	}
	t, err := a.resolve(cfg, args[0])
	if err != nil {
		return err
	}
	l, err := agent.FindLineage(ctx, r, t.name)
	if err != nil {
		return err
	}
	if fl.points {
		return a.listPoints(ctx, l, fl)
	}
	doc, err := list(ctx, l)
	if err != nil {
		return err
	}
	if a.json() {
		err = a.printJSON(doc)
	} else {
		err = a.printListing(l, doc)
	}
	if err == nil && len(doc.Problems) > 0 {
		return codeError(exitFailed)
	}
	return err
}

func (a *app) listDatabases(ctx context.Context, r *repo.Repo) error {
	all, err := r.Lineages(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"lineages": all})
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATABASE\tENGINE\tLINEAGE\tSINCE")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", l.Database, l.Engine, l.ID, l.Created.UTC().Format(time.RFC3339))
	}
	return w.Flush()
}

// list gathers what there is; what cannot be read is among the problems, and
// hides nothing else.
func list(ctx context.Context, l *repo.Lineage) (*listing, error) {
	doc := &listing{Lineage: l.Info()}
	all, berr := l.Backups(ctx)
	for _, m := range all {
		doc.Backups = append(doc.Backups, agent.Summarize(m))
	}
	var werr, cerr error
	doc.Windows, werr = engines.Windows(ctx, l)
	doc.Coverage, cerr = wal.Summary(ctx, l)
	for _, err := range []error{berr, werr, cerr} {
		if err != nil && ctx.Err() == nil {
			doc.Problems = append(doc.Problems, err.Error())
		}
	}
	return doc, errors.Join(ctx.Err())
}

func (a *app) printListing(l *repo.Lineage, doc *listing) error {
	e, err := engineByName(doc.Lineage.Engine)
	if err != nil {
		return err
	}
	pos := e.Restorer().FormatPosition
	a.printf("%s  (%s)\n\n", doc.Lineage.Database, doc.Lineage.ID)
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BACKUP\tCONSISTENT AT\tSTOP\tSIZE\tADDED\tPARENT")
	for _, b := range doc.Backups {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", b.ID, b.StopTime.UTC().Format(time.RFC3339), pos(b.Stop), size(b.Bytes), size(b.NewStored), pickText(b.Parent, "-"))
	}
	fmt.Fprintln(w, "\nLOG OF BRANCH\tFROM\tTO\tSTORED\tSEGMENTS\tLAST SENT")
	for _, c := range doc.Coverage {
		for i, r := range c.Ranges {
			stored, segments, sent := "", "", ""
			if i == len(c.Ranges)-1 {
				stored, segments, sent = size(c.Stored), fmt.Sprint(c.Segments), c.LastTime.UTC().Format(time.RFC3339)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Branch.ID, pos(r.Start), pos(r.End), stored, segments, sent)
		}
	}
	fmt.Fprintln(w, "\nRESTORABLE FROM\tTHROUGH\tBY BACKUP\tON BRANCH\t\t")
	for _, v := range doc.Windows {
		through := v.To.UTC().Format(time.RFC3339Nano)
		if v.To.IsZero() {
			through = "nothing"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t\n", v.From.UTC().Format(time.RFC3339Nano), through, v.Backup, v.Branch, v.Problem)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, p := range doc.Problems {
		a.printf("problem: %s\n", p)
	}
	return nil
}
