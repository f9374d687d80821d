package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
)

// BackupRequest asks for one base backup.
type BackupRequest struct {
	Source   engines.Source
	Database string
	Full     bool // share nothing with earlier backups
	// NewLineage accepts a server that is not the one recorded under this
	// name: it was initialised anew, or upgraded.
	NewLineage bool
	Fast       bool // checkpoint at once
	// Beat writes heartbeats after the base, so that even without a streamer
	// a drill finds rows that exist only in the log.
	Beat   bool
	Stream stream.Options
	// LogWait is how long the log may make no progress towards the base's
	// stop before the backup fails; 0: 2 minutes.
	LogWait time.Duration
	// Phase is told what the job is doing, for people.
	Phase func(string)
}

// BackupReport is what a committed backup came to.
type BackupReport struct {
	Manifest repo.Manifest
	Lineage  repo.LineageInfo
	OwnLog   bool // no streamer was live: this backup archived its own log
}

// Backup takes a base backup and commits it: the manifest is written after
// every pack and all log from LogFrom through Stop is durable in the store.
// On any error nothing is committed, the server is left as it was, and what
// was stored is harmless.
func (d Deps) Backup(ctx context.Context, r BackupRequest) (*BackupReport, error) {
	l, _, err := d.register(ctx, r.Source, r.Database, r.NewLineage)
	if err != nil {
		return nil, err
	}
	began := d.Clock()
	parent, err := d.parent(ctx, l, r.Full)
	if err != nil {
		return nil, err
	}
	parentID := ""
	if parent != nil {
		parentID = parent.ID
	}
	bw, err := l.BeginBackup(ctx, parentID)
	if err != nil {
		return nil, err
	}
	defer func() {
		// After Commit this is a no-op; before it, an intent left behind
		// would hold back expiry.
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := bw.Abort(cctx); err != nil {
			d.Log.Warn("the backup's intent could not be removed", "backup", bw.ID(), "error", err)
		}
	}()
	m, own, err := d.capture(ctx, l, bw, parent, r)
	if err != nil {
		return nil, err
	}
	m.DurationMS = d.Clock().Sub(began).Milliseconds()
	r.phase("commit")
	if err := bw.Commit(ctx, m.Manifest, m.items); err != nil {
		return nil, fmt.Errorf("commit backup %s: %w", bw.ID(), err)
	}
	return &BackupReport{Manifest: *m.Manifest, Lineage: l.Info(), OwnLog: own}, nil
}

// captured is a manifest with the items its map will list.
type captured struct {
	*repo.Manifest
	items []repo.Item
}

// capture moves the data and waits for the log it needs.
func (d Deps) capture(ctx context.Context, l *repo.Lineage, bw *repo.BackupWriter, parent *repo.Manifest, r BackupRequest) (*captured, bool, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cov, err := d.openCoverage(ctx, l, r, cancel)
	if err != nil {
		return nil, false, err
	}
	defer cov.close(ctx)

	r.phase("copy")
	w, err := stream.NewWriter(ctx, l, parent, r.Stream)
	if err != nil {
		return nil, false, err
	}
	defer w.Close()
	res, err := r.Source.Backup(ctx, engines.BackupOptions{Label: "holdfast " + bw.ID(), Fast: r.Fast}, w)
	if err != nil {
		return nil, false, firstCause(ctx, err)
	}
	items, packs, st, err := w.Finish(ctx)
	if err != nil {
		return nil, false, firstCause(ctx, err)
	}
	r.phase("log")
	if err := cov.wait(ctx, res); err != nil {
		return nil, false, firstCause(ctx, err)
	}
	m := &repo.Manifest{
		Format: repo.Format, ID: bw.ID(), Lineage: l.Info().ID, Packs: packs,
		Engine: l.Info().Engine, Database: l.Info().Database, Branch: res.Branch,
		Start: res.Start, LogFrom: res.LogFrom, Stop: res.Stop,
		StartTime: res.StartTime, StopTime: res.StopTime,
		Items: st.Items, Bytes: st.Bytes, NewBytes: st.NewBytes, NewStored: st.NewStored,
		Details: res.Details, Findings: res.Findings, Tool: d.Tool,
	}
	if parent != nil {
		m.Parent = parent.ID
	}
	return &captured{m, items}, cov.own(), nil
}

// catalog is what choosing a parent needs of a lineage.
type catalog interface {
	Backups(ctx context.Context) ([]repo.Manifest, error)
	StatPack(ctx context.Context, p repo.PackInfo) error
	Items(ctx context.Context, m *repo.Manifest, fn func(repo.Item) error) error
}

// parent is the newest committed backup, whose extents may be shared.
func (d Deps) parent(ctx context.Context, l catalog, full bool) (*repo.Manifest, error) {
	if full {
		return nil, nil
	}
	all, err := l.Backups(ctx)
	if err != nil {
		// A manifest that cannot be read must not stop the next backup: it
		// is the very moment to take a full one.
		d.Log.Warn("an earlier backup cannot be read; taking a full one", "error", err)
		return nil, nil
	}
	if len(all) == 0 {
		return nil, nil
	}
	last := &all[len(all)-1]
	for _, p := range last.Packs {
		if err := l.StatPack(ctx, p); err != nil {
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			// Sharing with a damaged backup would damage this one too.
			d.Log.Warn("the last backup has lost a pack; taking a full one", "backup", last.ID, "pack", p.ID, "error", err)
			return nil, nil
		}
	}
	// Other errors are the writer's, which reads the map with retries.
	err = l.Items(ctx, last, func(repo.Item) error { return nil })
	if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrNotFound) {
		d.Log.Warn("the last backup's map cannot be read; taking a full one", "backup", last.ID, "error", err)
		return nil, nil
	}
	return last, nil
}

func (r BackupRequest) logWait() time.Duration {
	if r.LogWait == 0 {
		return 2 * time.Minute
	}
	return r.LogWait
}

func (r BackupRequest) phase(name string) {
	if r.Phase != nil {
		r.Phase(name)
	}
}

// firstCause prefers why a context was cancelled over "context canceled".
func firstCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, context.Canceled) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
