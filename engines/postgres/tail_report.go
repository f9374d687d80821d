package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// reporter tells the server what is durable: at once when that moved (several
// moves while a report is being written become one), at once when the server
// asks, and at least every tail.interval.
type reporter struct {
	r    *branchRun
	wake chan struct{} // the server asked

	mu       sync.Mutex
	begun    bool          // the intake's Durable speaks of this branch
	taken    repo.Position // end of what the intake has
	end      repo.Position // end of the server's log, as far as it said
	clock    time.Time     // server's, at its last message
	reported repo.Position // flush position of the last report
	asks     int           // requests for an answer since the last data
	asking   time.Time     // when the first of them came
	shown    time.Time     // when Status was last called
}

func newReporter(r *branchRun, end repo.Position) *reporter {
	return &reporter{r: r, wake: make(chan struct{}, 1), taken: r.taken, end: end}
}

// serverEnd is the end of the server's log, as far as it said.
func (p *reporter) serverEnd() repo.Position {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.end
}

func (p *reporter) began() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = true
}

// durable is what may be acknowledged. Before Begin the intake speaks of
// something else; and nothing that was not received is ever acknowledged.
func (p *reporter) durable() repo.Position {
	if !p.begun {
		return 0
	}
	return min(p.r.t.in.Durable(), p.taken)
}

// report sends one status.
func (p *reporter) report(wantReply bool) error {
	p.mu.Lock()
	written, flushed := p.taken, p.durable()
	if !p.begun {
		written = 0
	}
	p.reported = flushed
	p.mu.Unlock()
	if err := p.r.link.send(written, flushed, p.r.t.l.clock(), wantReply); err != nil {
		return err
	}
	p.show()
	return nil
}

// run reports until ctx ends. An error is the connection's.
func (p *reporter) run(ctx context.Context) error {
	tick := time.NewTicker(p.r.t.interval)
	defer tick.Stop()
	if err := p.report(true); err != nil {
		return err
	}
	answered := time.Now()
	var again <-chan time.Time // an answer that is put off
	for {
		changed := p.r.t.in.Changed()
		if p.moved() {
			if err := p.report(false); err != nil {
				return err
			}
			answered = time.Now()
		}
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			continue
		case <-tick.C:
			// Asking for an answer gives us the server's clock, and proves
			// that the connection lives, though nothing is written.
			err = p.report(true)
		case <-p.wake:
			// A server that shuts down asks again as soon as it is answered,
			// until we hold everything: not in a busy loop.
			if wait := askedAgain - time.Since(answered); wait > 0 {
				again = time.After(wait)
				continue
			}
			err = p.report(false)
		case <-again:
			again = nil
			err = p.report(false)
		}
		if err != nil {
			return err
		}
		answered = time.Now()
	}
}

func (p *reporter) moved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.durable() > p.reported
}

var errShutdownWaits = errors.New("the server waits for us in order to shut down, and the store is behind")

// took notes a message that the intake has taken.
func (p *reporter) took(a arrival, taken repo.Position) error {
	p.mu.Lock()
	p.taken, p.clock = taken, a.Sent
	p.end = max(p.end, a.End)
	behind := p.durable() < taken
	switch {
	case a.Data != nil:
		p.asks, p.asking = 0, time.Time{}
	case a.Reply:
		if p.asks++; p.asks == 1 {
			p.asking = time.Now()
		}
	}
	blocked := p.asks > 10 && behind && time.Since(p.asking) > shutdownWait
	p.mu.Unlock()
	if a.Reply {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	p.show()
	if blocked {
		// The slot keeps for the next start what is not durable; a server
		// that cannot stop would be a failure of our making.
		return hferr.New("stream the log of "+p.r.t.l.name, errShutdownWaits, "look at the store: it has not taken log for a while")
	}
	return nil
}

// statusGap keeps Status to a few calls a second.
const statusGap = 250 * time.Millisecond

func (p *reporter) show() {
	if p.r.t.o.Status == nil {
		return
	}
	p.mu.Lock()
	now := time.Now()
	if now.Sub(p.shown) < statusGap {
		p.mu.Unlock()
		return
	}
	p.shown = now
	st := engines.TailStatus{Branch: p.r.branch.ID, ServerEnd: p.end, Received: p.taken, Durable: p.durable(), ServerTime: p.clock,
		Silent: p.r.link.silent()}
	p.mu.Unlock()
	p.r.t.o.Status(st)
}
