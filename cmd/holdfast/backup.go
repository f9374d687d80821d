package main

import (
	"context"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/spf13/cobra"
)

type backupFlags struct {
	full        bool
	spread      bool
	noHeartbeat bool
	noSelfCheck bool
	newLineage  bool
}

func (a *app) backupCommand() *cobra.Command {
	var fl backupFlags
	c := &cobra.Command{
		Use:   "backup DB|URL",
		Short: "Take a base backup",
		Long: `Takes a consistent base backup together with the log it needs. Only what
changed since the last backup is stored; every backup can be restored on its
own. Nothing is left on the server. The backup exists once this command says
so, and exits 4 if the server reported damaged pages on the way.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runBackup(cmd.Context(), args[0], fl) },
	}
	f := c.Flags()
	f.BoolVar(&fl.full, "full", false, "share nothing with earlier backups")
	f.BoolVar(&fl.spread, "spread-checkpoint", false, "begin with a spread checkpoint: slower, easier on the server")
	f.BoolVar(&fl.noHeartbeat, "no-heartbeat", false, "write nothing to the server, not even a heartbeat row")
	f.BoolVar(&fl.noSelfCheck, "no-self-check", false, "do not decrypt and re-hash packs before they are stored")
	f.BoolVar(&fl.newLineage, "new-lineage", false, "accept a server that is not the one recorded under this name")
	return c
}

func (a *app) runBackup(ctx context.Context, arg string, fl backupFlags) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	t, err := a.resolve(cfg, arg)
	if err != nil {
		return err
	}
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	_, src, err := a.connect(ctx, t)
	if err != nil {
		return err
	}
	defer src.Close()
	p := a.newProgress("backup " + t.name)
	opts, err := a.streamOptions(p.meter)
	if err != nil {
		return err
	}
	opts.NoSelfCheck = fl.noSelfCheck
	began := a.clock()
	p.start()
	rep, err := a.deps(r).Backup(ctx, agent.BackupRequest{
		Source: src, Database: t.name, Full: fl.full, NewLineage: fl.newLineage, Fast: !fl.spread,
		Beat: !fl.noHeartbeat && !t.db.Heartbeat.Disabled, Stream: opts, Phase: p.phase,
	})
	p.stop()
	if err != nil {
		return err
	}
	return a.printBackup(rep, a.clock().Sub(began))
}

func (a *app) printBackup(rep *agent.BackupReport, took time.Duration) error {
	m := rep.Manifest
	if a.json() {
		if err := a.printJSON(map[string]any{
			"backup": m.ID, "lineage": m.Lineage, "database": m.Database, "parent": m.Parent,
			"start": m.Start.Key(), "stop": m.Stop.Key(), "start_time": m.StartTime, "stop_time": m.StopTime,
			"items": m.Items, "bytes": m.Bytes, "new_bytes": m.NewBytes, "stored_bytes": m.NewStored,
			"seconds": took.Seconds(), "findings": m.Findings, "own_log": rep.OwnLog,
		}); err != nil {
			return err
		}
	} else {
		a.printf("backup %s of %s committed in %s\n", m.ID, m.Database, round(took))
		a.printf("  %s in %s items, %s new, %s stored\n", size(m.Bytes), humanize.Comma(m.Items), size(m.NewBytes), size(m.NewStored))
		for _, f := range m.Findings {
			a.printf("  %s: %s\n", f.Severity, f.Message)
		}
	}
	if len(m.Findings) > 0 {
		return codeError(exitFindings)
	}
	return nil
}
