package agent

import (
	"context"
	"errors"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// coverage waits until the log a base needs is durable.
type coverage interface {
	wait(ctx context.Context, res engines.BackupResult) error
	own() bool
	close(ctx context.Context)
}

// openCoverage uses the live streamer where one holds the log's lease, and
// otherwise takes the lease and streams the backup's own log over a temporary
// slot.
func (d Deps) openCoverage(ctx context.Context, l *repo.Lineage, r BackupRequest, fail context.CancelCauseFunc) (coverage, error) {
	live := &liveCoverage{d: d, l: l, src: r.Source, stall: r.logWait()}
	lease, err := wal.AcquireLease(ctx, l, wal.LeaseOptions{Kind: repo.LeaseBackup, Clock: d.Clock, Log: d.Log})
	var held *wal.LeaseHeldError
	if errors.As(err, &held) {
		d.Log.Info("a live streamer follows the log; relying on it", "streamer", held.Lease.Holder.Host)
		return live, nil
	}
	if err != nil {
		return nil, err
	}
	if !l.HasLeases() {
		active, err := streamedNow(ctx, r.Source)
		if err != nil {
			return nil, err
		}
		if active {
			return live, nil
		}
	}
	return d.startOwnLog(ctx, l, lease, r, fail)
}

// streamedNow asks the server whether our slot is in use.
func streamedNow(ctx context.Context, src engines.Source) (bool, error) {
	left, err := src.Log().Retained(ctx)
	for _, s := range left {
		if s.Ours && s.Active {
			return true, err
		}
	}
	return false, err
}

// liveCoverage polls the store for what the streamer has made durable.
type liveCoverage struct {
	d     Deps
	l     *repo.Lineage
	src   engines.Source
	stall time.Duration
}

func (c *liveCoverage) own() bool             { return false }
func (c *liveCoverage) close(context.Context) {}

func (c *liveCoverage) wait(ctx context.Context, res engines.BackupResult) error {
	last, since := repo.Position(0), time.Now() // monotonic
	for {
		upTo, err := c.held(ctx, res)
		if err != nil {
			return err
		}
		if upTo >= res.Stop {
			return c.compare(ctx, res, res.Stop)
		}
		if upTo > last {
			if last == 0 && upTo > res.LogFrom { // another copy's log might never come as far
				if err := c.compare(ctx, res, upTo); err != nil {
					return err
				}
			}
			last, since = upTo, time.Now()
		}
		if err := c.alive(ctx); err != nil {
			return errors.Join(err, &wal.GapError{Branch: res.Branch, From: upTo, To: res.Stop})
		}
		if time.Since(since) > c.stall {
			return hferr.New("wait for the log of this backup",
				&wal.GapError{Branch: res.Branch, From: upTo, To: res.Stop},
				"the live streamer makes no progress: look at its output and at holdfast status; the backup was not committed")
		}
		if err := sleep(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

// held is how far the log is held without a hole from where the base needs
// it, along the branch's ancestors where the base began before its fork.
func (c *liveCoverage) held(ctx context.Context, res engines.BackupResult) (repo.Position, error) {
	p, err := wal.MakePlan(ctx, c.l, res.Branch, res.LogFrom, res.Branch, 0)
	var gap *wal.GapError
	switch {
	case errors.As(err, &gap):
		return gap.From, nil
	case errors.Is(err, repo.ErrNotFound): // the streamer has not come to this branch yet
		return res.LogFrom, nil
	case err != nil:
		return 0, err
	}
	return p.To(), nil
}

// alive fails once whoever wrote the log has given its lease up.
func (c *liveCoverage) alive(ctx context.Context) error {
	held, _, err := c.l.ReadLease(ctx)
	switch {
	case errors.Is(err, repo.ErrNotFound): // no lease was ever taken: the store has none
		return nil
	case err == nil && held.Released:
		return hferr.New("wait for the log of this backup", errors.New("the live streamer has ended"),
			"holdfast status says why; run the backup again: without a streamer it streams its own log. It was not committed.")
	}
	return nil // a store that fails shows when the segments are listed
}

// compareMost is how much of the log before a base's stop is compared.
const compareMost = 64 << 10

// compare makes sure that the log in the store is that of the server that was
// copied: the streamer may follow another copy of the same cluster, and a
// base with another copy's log restores to garbage.
func (c *liveCoverage) compare(ctx context.Context, res engines.BackupResult, to repo.Position) error {
	from := max(res.LogFrom, to-min(to, compareMost))
	archived, err := wal.ReadRange(ctx, c.l, res.Branch, from, to)
	if err != nil {
		return err
	}
	return c.src.Log().Compare(ctx, res.Branch, from, archived)
}
