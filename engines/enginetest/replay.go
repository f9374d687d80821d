package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// Replay starts the copy's process, reads its files, applies the plan's log
// and restarts it, as a real engine leaves recovery.
func (r restorer) Replay(ctx context.Context, q engines.ReplayRequest) (engines.Copy, error) {
	q.Phase("boot")
	proc, err := start(ctx, q)
	if err != nil {
		return nil, err
	}
	c := &dbCopy{faults: r.faults, proc: proc}
	if err := r.recover(ctx, q, c); err != nil {
		logf(q.Output, "FATAL: %v", err)
		return nil, errors.Join(err, c.Close(context.WithoutCancel(ctx)))
	}
	q.Phase("ready")
	if err := c.Close(ctx); err != nil {
		return nil, err
	}
	if c.proc, err = start(ctx, q); err != nil {
		return nil, err
	}
	logf(q.Output, "LOG: ready at %s", r.FormatPosition(c.reached))
	return c, nil
}

func start(ctx context.Context, q engines.ReplayRequest) (testcontainers.Process, error) {
	proc, err := q.Sandbox.Start(ctx, testcontainers.Command{Path: "fakedb", Args: []string{q.Sandbox.GuestPath(q.Dir)}, Stdout: q.Output, Stderr: q.Output})
	if err != nil {
		return nil, fmt.Errorf("start the copy: %w", err)
	}
	return proc, nil
}

func (r restorer) recover(ctx context.Context, q engines.ReplayRequest, c *dbCopy) error {
	data, err := readTables(q.Dir)
	if err != nil {
		return err
	}
	if r.faults.Replay != nil {
		return r.faults.Replay
	}
	q.Phase("replay")
	if r.faults.OnReplay != nil {
		r.faults.OnReplay(ctx)
	}
	rp := &replay{exit: r.FeedExit, feed: q.Feed, data: data, skip: r.faults.Skip}
	if s := q.Plan.Stop; s != nil && !s.AtEnd && !r.faults.Overshoot {
		rp.stop = s.At
	}
	if err := rp.run(ctx, q.Plan.Log); err != nil {
		return err
	}
	if rp.pos < q.Plan.Base.Stop {
		return fmt.Errorf("log ended at %s, before the base is consistent at %s", rp.pos.Key(), q.Plan.Base.Stop.Key())
	}
	c.data, c.reached, c.last = rp.data, rp.pos, rp.last
	return nil
}

func readTables(dir string) (tables, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "tables"))
	if err != nil {
		return nil, err
	}
	data := tables{}
	for _, e := range entries {
		body, err := os.ReadFile(filepath.Join(dir, "tables", e.Name()))
		if err != nil {
			return nil, err
		}
		if data[e.Name()], err = parseTable(string(body)); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	return data, nil
}

// replay applies log from a feed until the plan's end or the stop.
type replay struct {
	feed wal.Feed
	exit func(error) int
	data tables
	stop repo.Position // before the record that begins here; 0: the plan's end
	skip int64         // this beat is lost on purpose

	pos     repo.Position // end of the last record applied
	last    time.Time     // its commit time
	pending []byte
	done    bool // a record at or behind the stop was seen
}

func (r *replay) run(ctx context.Context, p *wal.Plan) error {
	legs := p.Legs
	r.pos = legs[0].From
	branch := legs[len(legs)-1].Branch.ID
	for number := uint64(r.pos) / pieceSize; !r.done; number++ {
		var piece bytes.Buffer
		err := r.feed.Fetch(ctx, fmt.Sprintf("%s/%d", branch, number), &piece)
		if errors.Is(err, wal.ErrBeyondPlan) {
			break
		}
		if err != nil {
			// A real server sees no more of it than this.
			return fmt.Errorf("log piece %d: fetch command ended with status %d", number, r.exit(err))
		}
		r.pending = append(r.pending, piece.Bytes()...)
		if err := r.applyPending(); err != nil {
			return fmt.Errorf("replay at %s: %w", r.pos.Key(), err)
		}
	}
	if r.stop != 0 && !r.done {
		return fmt.Errorf("recovery ended at %s before the target %s was reached", r.pos.Key(), r.stop.Key())
	}
	return nil
}

func (r *replay) applyPending() error {
	for {
		c, n, err := parseChange(r.pending)
		if errors.Is(err, errShort) {
			return nil
		}
		if err != nil {
			return err
		}
		if r.stop != 0 && r.pos >= r.stop {
			r.done = true
			return nil
		}
		if !r.skipped(c) {
			r.data.apply(c)
		}
		r.pos += repo.Position(n)
		r.last = c.Time
		r.pending = r.pending[n:]
	}
}

func (r *replay) skipped(c change) bool {
	if r.skip == 0 || c.Table != beatTable {
		return false
	}
	beats, err := parseBeats(map[string]string{c.Key: c.Value})
	return err == nil && len(beats) == 1 && beats[0].N == r.skip
}

func logf(w io.Writer, format string, args ...any) {
	if w != nil {
		fmt.Fprintf(w, format+"\n", args...)
	}
}
