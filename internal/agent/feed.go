package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/zeebo/blake3"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/wal"
)

// FeedDir is the folder inside a restored directory that holds what its
// recovery needs: the plan, this lineage's key, the list of the plan's
// segments, and log fetched ahead. It is removed when recovery has ended.
const FeedDir = "holdfast.recovery"

// What stands in a FeedDir.
const (
	planName     = "plan.json"
	keyName      = "key"
	segmentsName = "segments" // wal.PlanRefs
	fetchedName  = "fetched"  // directory; see fetched
)

// Defaults of a plan file's limits.
const (
	prefetchFiles   = 16
	prefetchBytes   = 256 << 20
	patienceSeconds = 30
)

// FeedPlan is plan.json: what fetch-log needs to serve one recovery, and
// nothing it could serve another with.
type FeedPlan struct {
	Engine   string               `json:"engine"`
	Repo     string               `json:"repo"`
	Lineage  string               `json:"lineage"`
	Prefetch PrefetchLimits       `json:"prefetch"`
	Patience int                  `json:"patience_seconds"` // how long a store that cannot be opened is tried again
	Plan     *engines.RestorePlan `json:"plan"`
	Base     repo.Manifest        `json:"base"`
}

// PrefetchLimits bound what stands ready on disk, whichever is less; with
// either at 0 nothing is fetched ahead.
type PrefetchLimits struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func writeFeedPlan(ctx context.Context, r RestoreRequest, plan *engines.RestorePlan) (string, error) {
	return WriteFeed(ctx, r.Lineage, FeedPlan{Engine: r.Engine.Name(), Repo: r.RepoURL, Plan: plan}, r.Dir)
}

// WriteFeed makes the FeedDir of a restored directory and returns the plan
// file's path. Limits that are 0 get their defaults.
func WriteFeed(ctx context.Context, l *repo.Lineage, fp FeedPlan, restored string) (string, error) {
	dir, err := filepath.Abs(filepath.Join(restored, FeedDir))
	if err != nil {
		return "", err
	}
	fp.Lineage, fp.Base = l.Info().ID, fp.Plan.Base
	if fp.Prefetch == (PrefetchLimits{}) {
		fp.Prefetch = PrefetchLimits{Files: prefetchFiles, Bytes: prefetchBytes}
	}
	if fp.Patience == 0 {
		fp.Patience = patienceSeconds
	}
	doc, err := json.MarshalIndent(fp, "", "  ")
	if err != nil {
		return "", err
	}
	refs, err := wal.ListPlan(ctx, l, fp.Plan.Log)
	if err != nil {
		return "", fmt.Errorf("prepare the log feed: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("prepare the log feed: %w", err)
	}
	for _, f := range []struct {
		name string
		text []byte
	}{
		{planName, doc},
		{segmentsName, refs.Encode()},
		// The key opens this lineage alone, whose plaintext stands in the same
		// directory; it never stands in an argument vector or an environment.
		{keyName, []byte(l.ExportKey().Reveal())},
	} {
		if err := os.WriteFile(filepath.Join(dir, f.name), f.text, 0o600); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, planName), nil
}

// PlanFeed serves one restored directory's recovery from its FeedDir. It
// touches neither key nor store before it needs them.
type PlanFeed struct {
	deps  Deps
	dir   string
	file  FeedPlan
	feed  wal.Feed
	spool fetched
	idle  time.Duration // after which a prefetcher ends
	wait  time.Duration // for a prefetcher that is on the very file
	open  func(context.Context, string) (blob.Store, error)
}

// OpenFeed opens the feed of a plan file, which must lie in a FeedDir. open
// gives the store for a URL.
func (d Deps) OpenFeed(planFile string, engine func(name string) (engines.Engine, error), open func(context.Context, string) (blob.Store, error)) (*PlanFeed, error) {
	planFile, err := filepath.Abs(planFile)
	if err != nil {
		return nil, err
	}
	raw, err := os.ReadFile(planFile)
	if err != nil {
		return nil, hferr.New("read the recovery plan", err, "it is written by holdfast restore and removed when recovery has ended")
	}
	f := &PlanFeed{deps: d, dir: filepath.Dir(planFile), open: open, idle: prefetchIdle, wait: prefetchWait}
	if err := json.Unmarshal(raw, &f.file); err != nil || f.file.Plan == nil || f.file.Plan.Log == nil {
		return nil, fmt.Errorf("recovery plan %s: %w", planFile, errors.Join(err, errors.New("not a plan")))
	}
	f.file.Plan.Base = f.file.Base
	f.spool = fetched{dir: filepath.Join(f.dir, fetchedName), plan: blake3.Sum256(raw)}
	eng, err := engine(f.file.Engine)
	if err != nil {
		return nil, err
	}
	rd, err := wal.NewLazyReader(f.file.Plan.Log, f.refs(), f.openLineage)
	if err != nil {
		return nil, err
	}
	f.feed, err = eng.Restorer().Feed(f.file.Plan, rd)
	return f, err
}

// refs are the plan's segments as restore listed them; nil, so that they are
// listed again, if that is not to be had.
func (f *PlanFeed) refs() wal.PlanRefs {
	raw, err := os.ReadFile(filepath.Join(f.dir, segmentsName))
	if err == nil {
		refs, derr := wal.DecodePlanRefs(f.file.Plan.Log, raw)
		if derr == nil {
			return refs
		}
		err = derr
	}
	f.deps.Log.Warn("the plan's segments must be listed again", "err", err)
	return nil
}

// openLineage opens the store, through an outage that the plan's patience
// outlasts.
func (f *PlanFeed) openLineage(ctx context.Context) (*repo.Lineage, error) {
	key, err := os.ReadFile(filepath.Join(f.dir, keyName))
	if err != nil {
		return nil, fmt.Errorf("read the recovery key: %w", err)
	}
	limit := time.Duration(f.file.Patience) * time.Second
	began, pause := f.deps.Clock(), 100*time.Millisecond
	for {
		l, err := f.tryLineage(ctx, secret.New(string(key)))
		switch spent := f.deps.Clock().Sub(began); {
		case err == nil:
			return l, nil
		case errors.Is(err, repo.ErrKey), errors.Is(err, repo.ErrDamaged), errors.Is(err, repo.ErrFormat), hferr.KindOf(err) == hferr.Usage:
			return nil, err
		case spent+pause > limit:
			return nil, fmt.Errorf("the store could not be opened for %s: %w", spent.Round(time.Second/10), err)
		}
		select {
		case <-time.After(pause):
			pause = min(2*pause, 2*time.Second)
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (last: %w)", ctx.Err(), err)
		}
	}
}

func (f *PlanFeed) tryLineage(ctx context.Context, key secret.Text) (*repo.Lineage, error) {
	st, err := f.open(ctx, f.file.Repo)
	if err != nil {
		return nil, err
	}
	return repo.OpenLineage(ctx, st, f.file.Lineage, key, repo.Options{Log: f.deps.Log, Clock: f.deps.Clock})
}

// sequence is the feed's order and how many pieces may be ready ahead; 0 if
// nothing is to be fetched ahead.
func (f *PlanFeed) sequence() (wal.Sequence, int) {
	seq, ok := f.feed.(wal.Sequence)
	if !ok || seq.PieceSize() <= 0 {
		return nil, 0
	}
	return seq, int(min(int64(f.file.Prefetch.Files), f.file.Prefetch.Bytes/seq.PieceSize()))
}

// Deliver puts a piece of log in place of dst, whole. wal.ErrBeyondPlan only
// if the plan does not hold it. A piece that was fetched ahead is taken if it
// is the very bytes that were written then; else it is fetched now. start
// starts a prefetcher, which must outlive this process; Deliver calls it when
// none runs and there is something to fetch ahead.
func (f *PlanFeed) Deliver(ctx context.Context, name, dst string, start func() error) error {
	if seq, files := f.sequence(); files > 0 {
		if run := seq.Run(name, 2); len(run) > 0 {
			if f.ahead(run, start) && f.spool.take(ctx, name, dst, f.wait) {
				return nil
			}
		}
	}
	return f.spool.fetch(dst, func(w *os.File) error { return f.feed.Fetch(ctx, name, w) })
}

// ahead tells the prefetcher what is asked for now, and starts one if need
// be. Nothing that goes wrong here matters to the delivery.
func (f *PlanFeed) ahead(run []string, start func() error) bool {
	if err := f.spool.ask(run[0]); err != nil {
		f.deps.Log.Warn("log cannot be fetched ahead", "err", err)
		return false
	}
	if len(run) > 1 && !f.spool.running() {
		if err := start(); err != nil {
			f.deps.Log.Warn("log is not fetched ahead", "err", err)
		}
	}
	return true
}

// RemoveFeed ends a finished recovery's prefetcher and deletes its FeedDir.
// Nothing is left when it returns nil, and it may be repeated.
func RemoveFeed(planFile string) error {
	planFile, err := filepath.Abs(planFile)
	if err != nil {
		return err
	}
	dir := filepath.Dir(planFile)
	if filepath.Base(dir) != FeedDir {
		return fmt.Errorf("%s is not inside a %s folder", planFile, FeedDir)
	}
	unlock, err := fetched{dir: filepath.Join(dir, fetchedName)}.stop()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the prefetcher of %s: %w", dir, err)
	}
	if unlock != nil {
		defer unlock()
	}
	return os.RemoveAll(dir)
}

// LogFile is where a prefetcher's own messages go. Its directory exists once
// Deliver starts one.
func (f *PlanFeed) LogFile() string { return f.spool.path(logName) }
