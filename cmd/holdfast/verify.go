package main

import (
	"context"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/verify"
	"github.com/spf13/cobra"
)

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DB…]",
		Short: "Re-read stored objects against their hashes; prove log continuity",
		Long: `Re-reads every manifest, map, pack and log segment against names, hashes and
authentication tags, and proves for each backup that the log it needs is held
without a hole. This proves bytes, not recovery: a drill proves recovery.
Exits 1 if anything is damaged or missing.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runVerify(cmd.Context(), args) },
	}
}

func (a *app) runVerify(ctx context.Context, args []string) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	lineages, err := a.lineages(ctx, r, args)
	if err != nil {
		return err
	}
	p := a.newProgress("verify")
	p.start()
	var all []*verify.Scrub
	for _, l := range lineages {
		p.phase(l.Info().Database)
		s, err := verify.ScrubLineage(ctx, l, a.clock, p.meter.Read)
		if err != nil {
			p.stop()
			return err
		}
		all = append(all, s)
	}
	p.stop()
	return a.printScrubs(all)
}

// lineages are those named, or all.
func (a *app) lineages(ctx context.Context, r *repo.Repo, names []string) ([]*repo.Lineage, error) {
	var out []*repo.Lineage
	for _, n := range names {
		l, err := agent.FindLineage(ctx, r, n)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	if len(names) > 0 {
		return out, nil
	}
	infos, err := r.Lineages(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range infos {
		l, err := r.Lineage(ctx, i.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func (a *app) printScrubs(all []*verify.Scrub) error {
	ok := true
	for _, s := range all {
		ok = ok && s.OK()
	}
	if a.json() {
		if err := a.printJSON(map[string]any{"ok": ok, "lineages": all}); err != nil {
			return err
		}
	}
	for _, s := range all {
		if a.json() {
			break
		}
		word := "nothing damaged or missing"
		if !s.OK() {
			word = "DAMAGED"
		}
		a.printf("%s (%s): %s; %s read in %s packs and %s log segments of %d backups\n", s.Database, s.Lineage, word,
			size(s.Bytes), humanize.Comma(int64(s.Packs)), humanize.Comma(int64(s.Segments)), s.Backups)
		for _, f := range s.Findings {
			a.printf("  %s: %s\n", f.Severity, f.Message)
		}
	}
	if !ok {
		return codeError(exitFailed)
	}
	return nil
}
