// Package agent is the jobs: what `holdfast backup`, `stream`, `restore`,
// `status` and later the sidecar do, composed from an engine, the pipeline,
// the log archive and the repository. It is engine-neutral.
//
// It parses no flags, prints nothing and exits nothing (cmd does), and it
// knows no SQL and no file format.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// Deps are what every job needs, injected once.
type Deps struct {
	Repo  *repo.Repo
	Log   *slog.Logger
	Clock func() time.Time
	Tool  string // name and version, for manifests and records
}

// register identifies a source and opens the lineage it writes, recording it
// when it is new. A name whose newest lineage is another one is refused unless
// renew says that this is meant: two servers behind one name are a mistake
// more often than an upgrade.
func (d Deps) register(ctx context.Context, src engines.Source, database string, renew bool) (*repo.Lineage, engines.Identity, error) {
	ictx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	id, err := src.Identify(ictx)
	if err != nil {
		return nil, id, err
	}
	if !renew {
		if err := d.sameServer(ctx, database, id.Lineage.ID); err != nil {
			return nil, id, err
		}
	}
	info := id.Lineage
	info.Database = database
	info.Created = d.Clock()
	l, err := d.Repo.EnsureLineage(ctx, info)
	if err != nil {
		return nil, id, fromStore(fmt.Errorf("record lineage %s: %w", info.ID, err))
	}
	if l.Info().Database != database {
		d.Log.Warn("this server is recorded under another name", "recorded", l.Info().Database, "asked", database)
	}
	return l, id, nil
}

// sameServer compares a server with the newest lineage recorded under a name.
func (d Deps) sameServer(ctx context.Context, database, lineage string) error {
	all, err := d.Repo.Lineages(ctx)
	if err != nil {
		return fromStore(err)
	}
	for _, l := range slices.Backward(all) {
		if l.Database == database {
			if l.ID != lineage {
				return otherSystem(database, l.ID, lineage)
			}
			return nil
		}
	}
	return nil
}

// FindLineage opens the newest lineage of a database name, or the lineage
// with that very id.
func FindLineage(ctx context.Context, r *repo.Repo, name string) (*repo.Lineage, error) {
	all, err := r.Lineages(ctx)
	if err != nil {
		return nil, err
	}
	known := ""
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Database == name || all[i].ID == name {
			return r.Lineage(ctx, all[i].ID)
		}
		known += "\n  " + all[i].Database + "  (" + all[i].ID + ")"
	}
	hint := "take a first backup: holdfast backup NAME|URL"
	if known != "" {
		hint = "it holds:" + known
	}
	return nil, hferr.New("find "+name, fmt.Errorf("%w: no database of this name", repo.ErrNotFound), hint)
}
