package enginetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// restorer implements engines.Restorer.
type restorer struct{ faults *Faults }

func (r restorer) Preflight(ctx context.Context, p *engines.RestorePlan, dir string) error {
	if p.Base.Engine != Name {
		return hferr.New("restore "+p.Base.ID, fmt.Errorf("it was taken by engine %q", p.Base.Engine), "use that engine")
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		return hferr.New("restore into "+dir, stream.ErrNotEmpty, "name a new or empty directory")
	}
	return nil
}

// Load writes the base's files; a failed load leaves an empty directory.
func (r restorer) Load(ctx context.Context, q engines.LoadRequest) (stream.Stats, error) {
	if err := r.Preflight(ctx, q.Plan, q.Dir); err != nil {
		return stream.Stats{}, err
	}
	target, err := stream.NewDirTarget(q.Dir, stream.DirOptions{})
	if err != nil {
		return stream.Stats{}, err
	}
	defer target.Close()
	stats, err := stream.Restore(ctx, q.Lineage, &q.Plan.Base, target, nil, q.Stream)
	if err == nil && q.Sandbox != nil {
		err = q.Sandbox.Own(ctx, q.Dir)
	}
	if err != nil {
		if clean := os.RemoveAll(q.Dir); clean != nil {
			err = fmt.Errorf("%w (and what was written could not be removed: %w)", err, clean)
		}
		return stats, fmt.Errorf("load base %s: %w", q.Plan.Base.ID, err)
	}
	return stats, nil
}

// recovery is what Configure leaves for the user's own server.
type recovery struct {
	Goal  engines.Goal `json:"goal"`
	Fetch []string     `json:"fetch"`
	Done  []string     `json:"done"`
}

func (r restorer) Configure(ctx context.Context, c engines.ConfigureRequest) (engines.Instructions, error) {
	doc, err := json.Marshal(recovery{Goal: c.Plan.Goal, Fetch: append(c.Fetch, "%name"), Done: c.Done})
	if err != nil {
		return engines.Instructions{}, err
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "recovery.json"), doc, 0o600); err != nil {
		return engines.Instructions{}, err
	}
	return engines.Instructions{Start: "fakedb " + c.Dir}, nil
}

func (r restorer) Server(*engines.RestorePlan) testcontainers.Spec {
	return testcontainers.Spec{Engine: Name, Version: Major}
}

func (r restorer) FormatPosition(p repo.Position) string {
	return fmt.Sprintf("%d/%06d", p>>20, p&(1<<20-1))
}

// Exit statuses of a fake fetch command.
const (
	exitBeyond = 1
	exitHard   = 126
)

// FeedExit … see engines.Restorer.
func (r restorer) FeedExit(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, wal.ErrBeyondPlan):
		return exitBeyond
	default:
		return exitHard
	}
}

// pieceSize is the span of one named piece of log: pieces are aligned.
const pieceSize = 4 << 10

// feed names the log "branch/number", number × pieceSize being the start.
type feed struct {
	plan *wal.Plan
	rd   *wal.Reader
}

func (r restorer) Feed(p *engines.RestorePlan, rd *wal.Reader) (wal.Feed, error) {
	return &feed{plan: p.Log, rd: rd}, nil
}

// Fetch serves the part of a piece that lies in the plan: from the plan's
// first byte on in its first piece, up to the plan's end in its last.
func (f *feed) Fetch(ctx context.Context, name string, w io.Writer) error {
	var number uint64
	branch, digits, ok := strings.Cut(name, "/")
	if _, err := fmt.Sscanf(digits, "%d", &number); !ok || err != nil {
		return fmt.Errorf("log piece %q: %w", name, wal.ErrBeyondPlan)
	}
	from, to := repo.Position(number*pieceSize), repo.Position((number+1)*pieceSize)
	first, last := f.plan.Legs[0].From, f.plan.Legs[len(f.plan.Legs)-1].To
	from, to = max(from, first), min(to, last)
	if from >= to {
		return fmt.Errorf("log piece %q: %w", name, wal.ErrBeyondPlan)
	}
	return f.rd.Copy(ctx, branch, from, to, w)
}
