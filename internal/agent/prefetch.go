package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/wal"
)

const (
	prefetchIdle = time.Minute
	prefetchWait = 5 * time.Second
	// How often a prefetcher looks for the next request: often while they
	// come, less often when none has come for a second.
	pollBusy, pollIdle = 5 * time.Millisecond, 50 * time.Millisecond
	// prefetchWorkers bounds the pieces in memory at a time.
	prefetchWorkers = 8
)

// Prefetch fetches ahead of what is being asked for, until the plan's last
// piece was asked for, the feed is removed, nobody asked for a minute, or
// anything fails: the next direct fetch meets what failed, and reports it.
// Only one runs for a feed; another returns at once.
//
// It runs at the priority of a fetch: recovery waits for it as for one.
func (f *PlanFeed) Prefetch(ctx context.Context) error {
	seq, files := f.sequence()
	if files == 0 {
		return nil
	}
	unlock, err := f.spool.lock(ctx)
	if unlock == nil {
		return ignoreRemoved(err)
	}
	defer unlock()
	f.file.Patience = 0
	p := &prefetcher{
		feed: seq, spool: f.spool, files: files, idle: f.idle, clock: f.deps.Clock,
		workers: min(files, prefetchWorkers, runtime.GOMAXPROCS(0)),
		under:   map[string]context.CancelFunc{}, ended: make(chan outcome),
	}
	if err := p.sweep(); err != nil {
		return ignoreRemoved(err)
	}
	return ignoreRemoved(p.run(ctx))
}

// ignoreRemoved: what vanishes was removed because recovery has ended.
func ignoreRemoved(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// prefetcher keeps the pieces that follow the one asked for last ready.
type prefetcher struct {
	feed    wal.Sequence
	spool   fetched
	files   int // that may be on disk at a time
	workers int
	idle    time.Duration
	clock   func() time.Time

	current string                        // asked for last
	under   map[string]context.CancelFunc // pieces being fetched
	ended   chan outcome
}

type outcome struct {
	name string
	err  error
}

// sweep removes what a killed prefetcher was writing.
func (p *prefetcher) sweep() error {
	c, err := p.spool.look()
	for _, name := range c.parts {
		err = errors.Join(err, os.Remove(p.spool.path(name+partSuffix)))
	}
	p.spool.sweepTemps()
	return err
}

func (p *prefetcher) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		for len(p.under) > 0 {
			delete(p.under, (<-p.ended).name)
		}
	}()
	for {
		at, err := p.follow(ctx)
		if err != nil {
			return err
		}
		quiet := p.clock().Sub(at)
		if quiet > p.idle || p.done() {
			return nil
		}
		poll := pollBusy
		if quiet > time.Second {
			poll = pollIdle
		}
		select {
		case o := <-p.ended:
			delete(p.under, o.name)
			if o.err != nil && !errors.Is(o.err, context.Canceled) {
				return o.err
			}
		case <-time.After(poll):
		case <-ctx.Done():
			return nil
		}
	}
}

// done: nothing follows what was asked for last, and that is delivered.
func (p *prefetcher) done() bool {
	return len(p.under) == 0 && p.current != "" && len(p.feed.Run(p.current, 2)) < 2
}

// follow makes ready what follows the piece asked for last, nothing else.
func (p *prefetcher) follow(ctx context.Context) (asked time.Time, err error) {
	name, asked, err := p.spool.asked()
	if err != nil {
		return asked, err
	}
	window := p.feed.Run(name, p.files+1)
	if len(window) == 0 { // caught in the middle of a write
		return asked, nil
	}
	p.current = name
	c, err := p.spool.look()
	if err != nil {
		return asked, err
	}
	for n, file := range c.ready {
		if !slices.Contains(window, n) {
			delete(c.ready, n)
			if err := os.Remove(p.spool.path(file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return asked, err
			}
		}
	}
	for n, cancel := range p.under {
		if !slices.Contains(window, n) {
			cancel()
		}
	}
	for _, n := range window[1:] { // the first is fetched by who asks for it
		if len(p.under) >= p.workers || len(p.under)+len(c.ready) >= p.files {
			break
		}
		if _, ready := c.ready[n]; !ready && p.under[n] == nil {
			p.start(ctx, n)
		}
	}
	return asked, nil
}

func (p *prefetcher) start(ctx context.Context, name string) {
	ctx, cancel := context.WithCancel(ctx)
	p.under[name] = cancel
	go func() {
		defer cancel()
		err := p.spool.write(name, func(w io.Writer) error { return p.feed.Fetch(ctx, name, w) })
		if err != nil {
			err = fmt.Errorf("fetch %s ahead: %w", name, err)
		}
		p.ended <- outcome{name, err}
	}()
}
