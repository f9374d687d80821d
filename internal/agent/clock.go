package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
)

const (
	clockEvery = 5 * time.Second
	clockStep  = time.Second // more than clocks drift between two looks
	clockNews  = time.Minute // a step is told for so long
)

// sourceClock notices when the source's clock is set. It outlives sessions: a
// server whose clock jumps forward takes its own connections for dead
// (PostgreSQL's wal_sender_timeout is measured with that clock).
type sourceClock struct {
	log *slog.Logger

	mu      sync.Mutex
	watch   clockWatch
	stepped string
	seen    time.Time // monotonic
}

// ask asks the server for its clock: the times in its messages are as old as
// the messages, which wait while the store is behind.
func (c *sourceClock) ask(src engines.Source) func(context.Context) {
	return func(ctx context.Context) {
		began := time.Now()
		server, err := src.Clock(ctx)
		if err != nil {
			return // the tail finds out what is wrong
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		step := c.watch.step(server, began, time.Now())
		if step == 0 {
			return
		}
		c.stepped = fmt.Sprintf("the source's clock was set by about %s: commit times in the log are not in order there", step.Round(100*time.Millisecond))
		c.seen = time.Now()
		c.log.Warn("the source's clock was set", "by", step)
	}
}

// lately is what is to be said of the source's clock, "" if nothing is.
func (c *sourceClock) lately() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stepped == "" || time.Since(c.seen) > clockNews {
		return ""
	}
	return c.stepped
}

// clockWatch compares how far the source's clock went with how long that took.
type clockWatch struct {
	server      time.Time
	began, done time.Time // around the question, monotonic
}

// step is by how much the source's clock was set since the last answer, 0 if
// it was not, as far as the questions' round trips can tell.
func (c *clockWatch) step(server, began, done time.Time) time.Duration {
	was := *c
	*c = clockWatch{server, began, done}
	if was.server.IsZero() {
		return 0
	}
	went := server.Sub(was.server)
	most, least := done.Sub(was.began), began.Sub(was.done)
	switch slack := clockStep + most/100; {
	case went > most+slack:
		return went - most
	case went < least-slack:
		return went - least
	}
	return 0
}
