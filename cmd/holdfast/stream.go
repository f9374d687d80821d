package main

import (
	"context"
	"errors"
	"math"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

type streamFlags struct {
	flush       time.Duration
	beat        time.Duration
	noHeartbeat bool
	quiet       bool
	durability  string
	spool       string
	spoolLimit  config.Size
	takeover    bool
	newLineage  bool
}

func (a *app) streamCommand() *cobra.Command {
	var fl streamFlags
	c := &cobra.Command{
		Use:   "stream [DB|URL…]",
		Short: "Follow the log into the repository until stopped",
		Long: `Follows each server's log into the repository over a replication slot, which
it makes before anything else. A piece of log is acknowledged to the server
only once it is durable: in the store, or with --durability spool in an
encrypted spool on this host's disk, which is drained into the store. What the
server may remove follows the store in both cases. When the connection is lost
it resumes at the first byte the archive lacks, after a comparison with what the
archive holds. One log has one writer: a second stream waits for the first.
Ctrl-C stores what has been received, then ends.`,
		Example: `  holdfast stream orders
  holdfast stream orders --durability spool --spool /var/lib/holdfast/spool`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runStream(cmd.Context(), args, fl) },
	}
	f := c.Flags()
	f.DurationVar(&fl.flush, "flush-every", 0, "store what has arrived at least this often (default 5s)")
	f.DurationVar(&fl.beat, "heartbeat-every", 0, "write a heartbeat row this often (default 1s)")
	f.BoolVar(&fl.noHeartbeat, "no-heartbeat", false, "write nothing to the server; the RPO is then only bounded, not proven")
	f.BoolVarP(&fl.quiet, "quiet", "q", false, "no periodic status line")
	f.StringVar(&fl.durability, "durability", "", "what an acknowledgement means: store (default) or spool")
	f.StringVar(&fl.spool, "spool", "", "directory of the spool, on a local disk (with --durability spool)")
	f.Var(&fl.spoolLimit, "spool-limit", "how much the spool may take on its disk (default 4GiB)")
	f.BoolVar(&fl.takeover, "takeover", false, "take the log over from another holdfast that still writes it")
	f.BoolVar(&fl.newLineage, "new-lineage", false, "accept a server that is not the one recorded under this name")
	return c
}

func (a *app) runStream(ctx context.Context, args []string, fl streamFlags) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	ts, err := a.targets(cfg, args)
	if err != nil {
		return err
	}
	settings := make([]config.Stream, len(ts))
	for i, t := range ts {
		if t.url == "" {
			return hferr.NewUsage("stream "+t.name, errors.New("it is not in the configuration"), "give its URL, or add it to holdfast.yaml")
		}
		if settings[i], err = fl.settings(t); err != nil {
			return err
		}
	}
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	limitMemory(settings)
	d := a.deps(r)
	g, gctx := errgroup.WithContext(ctx)
	for i, t := range ts {
		e, err := engineForURL(t.url)
		if err != nil {
			return err
		}
		g.Go(func() error {
			lines := &streamLines{a: a, name: t.name, quiet: fl.quiet, position: e.Restorer().FormatPosition}
			return d.Stream(gctx, agent.StreamRequest{
				Connect: func(ctx context.Context) (engines.Source, error) {
					_, s, err := a.connect(ctx, t)
					return s, err
				},
				Database:   t.name,
				FlushEvery: pick(fl.flush, settings[i].FlushEvery, config.DefaultFlush),
				MaxSegment: int(settings[i].MaxSegment),
				BeatEvery:  beatEvery(fl, t.db.Heartbeat),
				OpenSpool:  a.spoolOpener(settings[i]),
				Takeover:   fl.takeover,
				NewLineage: fl.newLineage,
				Position:   lines.position,
				Events:     lines.event,
			})
		})
	}
	return g.Wait()
}

// limitMemory keeps the garbage of so many streams from doubling what they
// hold: for each its open and waiting segments (four), and those that are
// being sealed, read back or read ahead. It is a soft limit, and not set over
// a user's own (GOMEMLIMIT).
func limitMemory(streams []config.Stream) {
	debug.FreeOSMemory() // opening the passphrase slot took 64 MiB
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	limit := int64(32 << 20)
	for _, s := range streams {
		limit += 8 * max(int64(s.MaxSegment), wal.DefaultSegment)
	}
	debug.SetMemoryLimit(limit)
}

// settings are the configured ones with the flags over them.
func (fl streamFlags) settings(t target) (config.Stream, error) {
	s := t.db.Stream
	if fl.durability != "" {
		s.Durability = fl.durability
	}
	if fl.spool != "" {
		s.Spool.Dir = fl.spool
	}
	if fl.spoolLimit > 0 {
		s.Spool.Limit = fl.spoolLimit
	}
	if s.Durability != config.DurabilitySpool && fl.durability == config.DurabilityStore {
		s.Spool = config.Spool{}
	}
	if err := s.Validate(); err != nil {
		return s, hferr.NewUsage("stream "+t.name, err, "holdfast stream --help shows an example")
	}
	return s, nil
}

// spoolOpener is nil where the store answers for durability. Each lineage has
// a directory of its own, so that databases may share one setting.
func (a *app) spoolOpener(s config.Stream) func(context.Context, *repo.Lineage) (*spool.Spool, error) {
	if s.Durability != config.DurabilitySpool {
		return nil
	}
	limit := int64(s.Spool.Limit)
	if limit == 0 {
		limit = config.DefaultSpool
	}
	return func(ctx context.Context, l *repo.Lineage) (*spool.Spool, error) {
		return spool.OpenDir(ctx, filepath.Join(s.Spool.Dir, l.Info().ID), l, spool.Options{Limit: limit, Log: a.log})
	}
}

func pick(flag time.Duration, configured config.Duration, def time.Duration) time.Duration {
	if flag > 0 {
		return flag
	}
	return configured.Or(def)
}

func beatEvery(fl streamFlags, h config.Heartbeat) time.Duration {
	if fl.noHeartbeat || h.Disabled {
		return 0
	}
	return pick(fl.beat, h.Every, config.DefaultBeat)
}
