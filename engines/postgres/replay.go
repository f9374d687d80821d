package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// Why a replay ended before its goal. Both are wrapped in a ReplayError.
var (
	// ErrTargetNotReached: the log in the plan ends before the target, or no
	// record follows it, so the server cannot know that it is reached.
	ErrTargetNotReached = errors.New("recovery ended before its target")
	// ErrStoppedEarly: the server took the log for ended, and opened, though
	// the plan goes on: the log is damaged in a way its source had already.
	ErrStoppedEarly = errors.New("recovery stopped before the end of the plan")
	// ErrFeed: a piece of the plan's log could not be delivered.
	ErrFeed = errors.New("the log could not be delivered to the server")
)

// ReplayError is a server that ended, or opened, where it must not have.
type ReplayError struct {
	Err   error    // one of the above, or the server's exit
	Lines []string // its last FATAL lines, else its last lines
}

func (e *ReplayError) Error() string {
	s := e.Err.Error()
	for _, line := range e.Lines {
		s += "\n  " + line
	}
	return s
}

func (e *ReplayError) Unwrap() error { return e.Err }

// Replay starts a server on the loaded directory and waits until it is open
// for reads and writes at the goal. There is one start: the server replays
// and promotes by itself. The position and time reached are read after the
// promotion: both functions keep their last value then (manual, "Recovery
// Control Functions"; so seen on 15 and 18).
func (re restorer) Replay(ctx context.Context, r engines.ReplayRequest) (engines.Copy, error) {
	rp := &replay{req: r, place: placeCopy(r.Dir, r.Sandbox), log: newServerLog(r.Output), exited: make(chan struct{})}
	c, err := rp.run(ctx)
	if err != nil {
		err = errors.Join(err, rp.stop(context.WithoutCancel(ctx)))
		return nil, fmt.Errorf("replay the log of backup %s: %w", r.Plan.Base.ID, err)
	}
	return c, nil
}

// replay is one run; it becomes the copy's process keeper.
type replay struct {
	req     engines.ReplayRequest
	place   copyPlace
	details *Details
	log     *serverLog

	proc   testcontainers.Process
	exited chan struct{} // closed when proc has ended; exit is set before
	exit   error

	mu      sync.Mutex
	feedErr error // first hard failure of the feed
}

func (rp *replay) run(ctx context.Context) (*pgCopy, error) {
	r := rp.req
	if err := checkComplete(r.Dir); err != nil {
		return nil, err
	}
	var err error
	if rp.details, err = ParseDetails(r.Plan.Base.Details); err != nil {
		return nil, err
	}
	binary, err := r.Sandbox.Share(ctx, r.Binary)
	if err != nil {
		return nil, err
	}
	command := []string{binary, "fetch-log", "--socket", r.Sandbox.GuestPath(rp.place.feed)}
	if err := rp.place.isolate(ctx, r, rp.details, command); err != nil {
		return nil, err
	}
	stopFeed, err := rp.serveFeed(ctx)
	if err != nil {
		return nil, err
	}
	defer stopFeed()
	rp.phase("boot")
	if err := rp.start(ctx); err != nil {
		return nil, err
	}
	if err := rp.await(ctx); err != nil {
		return nil, err
	}
	c := &pgCopy{replay: rp}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	if err := rp.checkEnd(ctx, c); err != nil {
		return nil, err
	}
	rp.phase("ready")
	return c, nil
}

func (rp *replay) phase(name string) {
	if rp.req.Phase != nil {
		rp.req.Phase(name)
	}
}

// serveFeed answers the copy's restore_command until stop is called.
func (rp *replay) serveFeed(ctx context.Context) (stop func(), err error) {
	ln, err := net.Listen("unix", rp.place.feed)
	if err != nil {
		return nil, err
	}
	if err := rp.req.Sandbox.Own(ctx, rp.place.run); err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	log := rp.req.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	go func() {
		defer close(done)
		if err := wal.ServeFeed(ctx, ln, watchedFeed{rp.req.Feed, rp.feedFailed}, log); err != nil && ctx.Err() == nil {
			rp.feedFailed(err)
		}
	}()
	return func() {
		cancel()
		_ = ln.Close() // ServeFeed may have closed it
		<-done
		_ = os.Remove(rp.place.feed) // a unix listener removes it by itself
	}, nil
}

func (rp *replay) feedFailed(err error) {
	rp.mu.Lock()
	defer rp.mu.Unlock()
	if rp.feedErr == nil {
		rp.feedErr = err
	}
}

// start runs the server. Its data directory, configuration and sockets are
// guest paths.
func (rp *replay) start(ctx context.Context) (err error) {
	guest := rp.req.Sandbox.GuestPath
	rp.proc, err = rp.req.Sandbox.Start(ctx, testcontainers.Command{
		Path:   "postgres",
		Args:   []string{"-D", guest(rp.place.data), "-c", "config_file=" + guest(rp.place.conf) + "/" + mainConf},
		Stdout: rp.log, Stderr: rp.log,
	})
	if err != nil {
		return err
	}
	go func() {
		rp.exit = rp.proc.Wait(context.WithoutCancel(ctx))
		close(rp.exited)
	}()
	return nil
}

// await waits until the server says that it is open, which with hot_standby
// off it is only after the promotion.
func (rp *replay) await(ctx context.Context) error {
	replaying := false
	for {
		redo, open, next := rp.log.state()
		if (redo || open) && !replaying {
			replaying = true
			rp.phase("replay")
		}
		if open {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-rp.exited:
			return rp.ended()
		case <-next:
		}
	}
}

// ended explains why the server is gone.
func (rp *replay) ended() error {
	rp.mu.Lock()
	feedErr := rp.feedErr
	rp.mu.Unlock()
	lines := rp.log.why()
	hint, cause := explainEnd(lines)
	switch {
	case feedErr != nil:
		cause = fmt.Errorf("%w: %w", ErrFeed, feedErr)
	case cause == nil && rp.exit != nil:
		cause = fmt.Errorf("the server ended during recovery: %w", rp.exit)
	case cause == nil:
		cause = errors.New("the server ended during recovery")
	}
	return hferr.New("", &ReplayError{Err: cause, Lines: lines}, hint)
}

// stop ends the server as gently as it lets us: fast shutdown, immediate
// shutdown, SIGKILL, each with some patience. Idempotent.
func (rp *replay) stop(ctx context.Context) error {
	if rp.proc == nil {
		return nil
	}
	const fast, immediate, kill = 2, 3, 9 // SIGINT, SIGQUIT (manual, "Shutting Down the Server"), SIGKILL
	for _, step := range []struct {
		signal   int
		patience time.Duration
	}{{fast, 30 * time.Second}, {immediate, 10 * time.Second}, {kill, 10 * time.Second}} {
		select {
		case <-rp.exited:
			return nil
		default:
		}
		if err := rp.proc.Signal(ctx, step.signal); err != nil {
			return err
		}
		timer := time.NewTimer(step.patience)
		select {
		case <-rp.exited:
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
	return fmt.Errorf("the server of %s did not end on SIGKILL", rp.place.data)
}

// watchedFeed tells of hard failures, which the server reports only as an
// exit status.
type watchedFeed struct {
	feed   wal.Feed
	failed func(error)
}

func (w watchedFeed) Fetch(ctx context.Context, name string, out io.Writer) error {
	err := w.feed.Fetch(ctx, name, out)
	if err != nil && !errors.Is(err, wal.ErrBeyondPlan) && ctx.Err() == nil {
		w.failed(err)
	}
	return err
}
