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
	"github.com/spf13/cobra"
)

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status [DB|URL…]",
		Short: "Exposure, recovery window, last backup and drill, findings: one line a database",
		Long: `Compares each server's log position with what is durable in the repository,
and shows the recovery window, the last backup, the last drill, and everything
that needs attention, with what to do.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runStatus(cmd.Context(), args) },
	}
}

func (a *app) runStatus(ctx context.Context, args []string) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	ts, err := a.targets(cfg, args)
	if err != nil {
		return err
	}
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	var all []*agent.Status
	for _, t := range ts {
		s, err := a.statusOf(ctx, r, t)
		if err != nil {
			return fmt.Errorf("status of %s: %w", t.name, err)
		}
		all = append(all, s)
	}
	if a.json() {
		return a.printJSON(map[string]any{"databases": all})
	}
	return a.printStatus(all)
}

func (a *app) statusOf(ctx context.Context, r *repo.Repo, t target) (*agent.Status, error) {
	l, err := agent.FindLineage(ctx, r, t.name)
	if err != nil && !errors.Is(err, repo.ErrNotFound) {
		return nil, err
	}
	var src engines.Source
	var why error
	if t.url != "" {
		cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if _, src, why = a.connect(cctx, t); why == nil {
			defer src.Close()
		} else {
			src = nil
		}
	}
	return a.deps(r).Status(ctx, t.name, l, src, why)
}

func (a *app) printStatus(all []*agent.Status) error {
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "DATABASE\tSTREAM\tEXPOSURE\tRECOVERY WINDOW\tLAST BACKUP\tLAST DRILL")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Database, streamWord(s), exposureText(s.Exposure), windowText(s.Windows), a.backupText(s), a.drillText(s.LastDrill))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, s := range all {
		if g := guaranteeOf(s); g != nil {
			a.printf("  %s: %s\n", s.Database, g.Sentence)
		}
		for _, f := range s.Findings {
			a.printf("  %s: %s: %s%s\n", s.Database, f.Severity, f.Message, suffix("  → ", f.Fix))
		}
	}
	return nil
}

// guaranteeOf prefers what the server says now to what the streamer last saw.
func guaranteeOf(s *agent.Status) *engines.Guarantee {
	if s.Guarantee == nil && s.Stream != nil && s.Stream.Report != nil {
		return s.Stream.Report.Guarantee
	}
	return s.Guarantee
}

func streamWord(s *agent.Status) string {
	switch {
	case s.Streaming && s.Stream != nil && s.Stream.Report != nil:
		if r := s.Stream.Report; r.Condition != "" {
			return r.State + ", " + string(r.Condition)
		}
		return s.Stream.Report.State
	case !s.Reachable:
		return "unknown"
	case s.Streaming:
		return "streaming"
	}
	return "none"
}

func exposureText(e agent.Exposure) string {
	switch {
	case !e.Known:
		return "unknown"
	case e.Bytes == 0:
		return "none"
	}
	return fmt.Sprintf("%s, ≤ %s", size(e.Bytes), round(e.Age))
}

// windowText is the union's outer ends; status's findings tell of holes.
func windowText(ws []engines.Window) string {
	var from, to time.Time
	for _, w := range ws {
		if w.To.IsZero() {
			continue
		}
		if from.IsZero() || w.From.Before(from) {
			from = w.From
		}
		if w.To.After(to) {
			to = w.To
		}
	}
	if from.IsZero() {
		return "none"
	}
	const form = "2006-01-02 15:04:05Z"
	return from.UTC().Format(form) + " … " + to.UTC().Format(form)
}

func (a *app) backupText(s *agent.Status) string {
	if s.LastBackup == nil {
		return "never"
	}
	return a.ago(s.LastBackup.StopTime)
}

func (a *app) drillText(d *agent.DrillSummary) string {
	if d == nil {
		return "never"
	}
	return d.Verdict + ", " + a.ago(d.Finished)
}
