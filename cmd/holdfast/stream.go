package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

type streamFlags struct {
	flush       time.Duration
	beat        time.Duration
	noHeartbeat bool
	quiet       bool
}

func (a *app) streamCommand() *cobra.Command {
	var fl streamFlags
	c := &cobra.Command{
		Use:   "stream [DB|URL…]",
		Short: "Follow the log into the repository until stopped",
		Long: `Follows each server's log into the repository over a replication slot, which
it makes before anything else. A piece of log is acknowledged to the server
only once it is durable in the store. When the connection is lost it resumes at
the first byte the store lacks. Ctrl-C stores what has been received, then ends.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.runStream(cmd.Context(), args, fl) },
	}
	f := c.Flags()
	f.DurationVar(&fl.flush, "flush-every", 0, "store what has arrived at least this often (default 5s)")
	f.DurationVar(&fl.beat, "heartbeat-every", 0, "write a heartbeat row this often (default 1s)")
	f.BoolVar(&fl.noHeartbeat, "no-heartbeat", false, "write nothing to the server; the RPO is then only bounded, not proven")
	f.BoolVarP(&fl.quiet, "quiet", "q", false, "no periodic status line")
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
	r, _, err := a.openRepo(ctx, cfg)
	if err != nil {
		return err
	}
	d := a.deps(r)
	g, gctx := errgroup.WithContext(ctx)
	for _, t := range ts {
		if t.url == "" {
			return hferr.NewUsage("stream "+t.name, errors.New("it is not in the configuration"), "give its URL, or add it to holdfast.yaml")
		}
		g.Go(func() error {
			lines := &streamLines{a: a, name: t.name, quiet: fl.quiet}
			return d.Stream(gctx, agent.StreamRequest{
				Connect: func(ctx context.Context) (engines.Source, error) {
					_, s, err := a.connect(ctx, t)
					return s, err
				},
				Database:   t.name,
				FlushEvery: pick(fl.flush, t.db.Stream.FlushEvery, config.DefaultFlush),
				MaxSegment: int(t.db.Stream.MaxSegment),
				BeatEvery:  beatEvery(fl, t.db.Heartbeat),
				Events:     lines.event,
			})
		})
	}
	return g.Wait()
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

// streamLines prints a stream's life: each change at once, a status line
// every few seconds.
type streamLines struct {
	a     *app
	name  string
	quiet bool

	mu       sync.Mutex
	last     time.Time
	segments int
	beatDown bool
}

const statusEvery = 5 * time.Second

func (s *streamLines) event(e agent.StreamEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.a.json() {
		s.jsonEvent(e)
		return
	}
	switch e.Kind {
	case "streaming":
		s.line("streaming from %X", uint64(e.Status.Received))
	case "segment":
		s.segments++
		if s.beatDown = s.beatDown && len(e.Segment.Beats) == 0; s.segments == 1 {
			s.line("first segment durable: through %X (%s)", uint64(e.Segment.End), e.Segment.Reason)
		}
	case "status":
		s.status(e)
	case "lost":
		s.line("connection lost: %v", e.Err)
		if h := hferr.HintOf(e.Err); h != "" {
			s.line("  hint: %s", h)
		}
	case "retry":
		s.line("connecting again")
	case "heartbeat-failed":
		if !s.beatDown {
			s.line("no heartbeat: %v", e.Err)
			if h := hferr.HintOf(e.Err); h != "" {
				s.line("  hint: %s", h)
			}
		}
		s.beatDown = true
	case "stopped":
		s.line("stopped; %d segments stored in this run", s.segments)
	}
}

func (s *streamLines) status(e agent.StreamEvent) {
	now := s.a.clock()
	if s.quiet || now.Sub(s.last) < statusEvery {
		return
	}
	s.last = now
	behind := int64(0)
	if e.Status.ServerEnd > e.Status.Durable {
		behind = int64(e.Status.ServerEnd - e.Status.Durable)
	}
	s.line("durable %X, %s behind the server, %d segments%s", uint64(e.Status.Durable), size(behind), s.segments, storeTrouble(e.Archive.StoreErr))
}

func storeTrouble(err error) string {
	if err == nil {
		return ""
	}
	return "; STORE FAILING: " + err.Error()
}

func (s *streamLines) line(format string, args ...any) {
	s.a.printf("%s %s: "+format+"\n", append([]any{s.a.clock().Format("15:04:05"), s.name}, args...)...)
}

// jsonEvent prints one object a line: a stream has no single document.
func (s *streamLines) jsonEvent(e agent.StreamEvent) {
	now := s.a.clock()
	if e.Kind == "status" && now.Sub(s.last) < statusEvery {
		return
	}
	if e.Kind == "status" {
		s.last = now
	}
	doc := map[string]any{"time": now, "database": s.name, "event": e.Kind}
	if e.Err != nil {
		doc["error"], doc["hint"] = e.Err.Error(), hferr.HintOf(e.Err)
	}
	if e.Kind == "status" || e.Kind == "streaming" {
		doc["durable"], doc["received"], doc["server"] = e.Status.Durable.Key(), e.Status.Received.Key(), e.Status.ServerEnd.Key()
	}
	if e.Segment != nil {
		doc["start"], doc["end"], doc["reason"] = e.Segment.Start.Key(), e.Segment.End.Key(), e.Segment.Reason
	}
	s.a.printJSONLine(doc)
}
