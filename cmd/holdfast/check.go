package main

import (
	"context"
	"strings"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/spf13/cobra"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check [DB|URL…]",
		Short: "Connection, privileges, settings, slots, store: each finding with its fix",
		Long: `Asks every server what is missing for backups, streaming and drills, and the
repository whether it opens. Each finding comes with the exact statement that
fixes it. Exits 1 if there is an error among them, 0 otherwise.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runCheck(cmd.Context(), args) },
	}
}

// checked is one server's or the repository's findings.
type checked struct {
	Subject  string         `json:"subject"`
	OK       bool           `json:"ok"`
	Server   string         `json:"server,omitempty"`
	Findings []repo.Finding `json:"findings"`
}

func (a *app) runCheck(ctx context.Context, args []string) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	ts, err := a.targets(cfg, args)
	if err != nil {
		return err
	}
	var all []checked
	if raw, err := a.repoURL(cfg); err == nil {
		c := checked{Subject: "repository " + raw, OK: true}
		if _, _, err := a.openRepo(ctx, cfg); err != nil {
			c = failed(c.Subject, "repository", err)
		}
		all = append(all, c)
	}
	for _, t := range ts {
		all = append(all, a.checkOne(ctx, t))
	}
	bad := false
	for _, c := range all {
		bad = bad || !c.OK
	}
	if a.json() {
		if err := a.printJSON(map[string]any{"checks": all}); err != nil {
			return err
		}
	} else {
		a.printChecks(all)
	}
	if bad {
		return codeError(exitFailed)
	}
	return nil
}

func (a *app) checkOne(ctx context.Context, t target) checked {
	_, src, err := a.connect(ctx, t)
	if err != nil {
		return failed(t.name, "connect", err)
	}
	defer src.Close()
	id, err := src.Identify(ctx)
	if err != nil {
		return failed(t.name, "identify", err)
	}
	fs, err := src.Check(ctx)
	if err != nil {
		return failed(t.name, "check", err)
	}
	c := checked{Subject: t.name, OK: true, Server: id.Version, Findings: fs}
	for _, f := range fs {
		c.OK = c.OK && f.Severity != "error"
	}
	return c
}

func failed(subject, code string, err error) checked {
	return checked{Subject: subject, Findings: []repo.Finding{{Severity: "error", Code: code, Message: err.Error(), Fix: hferr.HintOf(err)}}}
}

func (a *app) printChecks(all []checked) {
	for _, c := range all {
		a.printf("%s%s: %s\n", c.Subject, suffix(", ", c.Server), map[bool]string{true: "ok", false: "not ready"}[c.OK])
		for _, f := range c.Findings {
			a.printf("  %-7s %s  (%s)\n", f.Severity, f.Message, f.Code)
			for line := range strings.Lines(f.Fix) {
				a.printf("            %s\n", strings.TrimRight(line, "\n"))
			}
		}
	}
}
