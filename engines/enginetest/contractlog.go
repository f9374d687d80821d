package enginetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// feed: what a plan does not hold is answered so that replay may end, and
// the exit statuses tell the three answers apart.
func (s *suite) feed(t *testing.T) {
	ctx, r := t.Context(), s.Engine.Restorer()
	p, err := engines.PlanRestore(ctx, s.Engine, s.lineage, engines.Goal{})
	must(t, err)
	rd, err := wal.NewReader(ctx, s.lineage, p.Log)
	must(t, err)
	f, err := r.Feed(p, rd)
	must(t, err)
	var got bytes.Buffer
	if err := f.Fetch(ctx, "no such piece", &got); !errors.Is(err, wal.ErrBeyondPlan) || got.Len() > 0 {
		t.Errorf("an unknown name gave %v and %d bytes", err, got.Len())
	}
	ok, beyond, hard := r.FeedExit(nil), r.FeedExit(wal.ErrBeyondPlan), r.FeedExit(repo.ErrDamaged)
	if ok != 0 || beyond == 0 || hard == 0 || beyond == hard {
		t.Errorf("exit statuses %d, %d, %d", ok, beyond, hard)
	}
	if r.FormatPosition(p.Base.Stop) == r.FormatPosition(p.Log.To()) {
		t.Errorf("two positions print as %q", r.FormatPosition(p.Base.Stop))
	}
}

// restorePlace ends between two commits, at a position that the engine prints
// and reads; a place behind the end of the log is refused.
func (s *suite) restorePlace(t *testing.T) {
	ctx := t.Context()
	must(t, s.Write(ctx, "place", "before"))
	id, err := s.src.Identify(ctx)
	must(t, err)
	must(t, s.Write(ctx, "place", "after"))
	s.beat(t)
	s.settle(t)
	at := func(p repo.Position) engines.Goal {
		return engines.Goal{Point: &engines.Point{Kind: engines.PointPosition, Value: s.Engine.Restorer().FormatPosition(p)}}
	}
	s.restored(t, at(id.Position), func(p *engines.RestorePlan, c engines.Copy) {
		s.wants(t, c, "place", "before")
		if p.Stop == nil || p.Stop.At < id.Position || p.Stop.AtEnd {
			t.Errorf("stop %+v for position %d", p.Stop, id.Position)
		}
		if pos, _, err := c.Reached(ctx); err != nil || pos > p.Stop.At {
			t.Errorf("reached %d, beyond %d (%v)", pos, p.Stop.At, err)
		}
	})
	var miss *engines.UnreachableError
	if p, err := engines.PlanRestore(ctx, s.Engine, s.lineage, at(id.Position+1<<30)); !errors.As(err, &miss) || miss.Before == nil {
		t.Errorf("far behind the end: planned %+v, error %v", p, err)
	}
}

// temporary: a one-shot tail ends by itself once its target is durable and
// leaves nothing on the server.
func (s *suite) temporary(t *testing.T) {
	ctx := t.Context()
	before, err := s.src.Log().Retained(ctx)
	must(t, err)
	other, err := s.Repo.EnsureLineage(ctx, repo.LineageInfo{ID: "contract-temporary", Engine: s.Engine.Name(), Database: "temporary", Identity: map[string]string{"of": "contract"}})
	must(t, err)
	archiver := wal.NewArchiver(other, wal.ArchiverOptions{})
	until, ready := make(chan repo.Position, 1), make(chan repo.Position, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- s.src.Log().Tail(ctx, engines.TailOptions{
			Temporary: true, Until: until, Ready: func(p repo.Position) { ready <- p },
			Held: func(context.Context, string) ([]wal.Range, error) { return nil, nil },
		}, archiver)
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("ended before it began: %v", err)
	}
	must(t, s.Write(ctx, "temporary", "1"))
	id, err := s.src.Identify(ctx)
	must(t, err)
	until <- id.Position
	must(t, <-ended)
	if archiver.Durable() < id.Position {
		t.Errorf("ended at %d, before %d was durable", archiver.Durable(), id.Position)
	}
	must(t, archiver.Close(ctx, "shutdown"))
	after, err := s.src.Log().Retained(ctx)
	must(t, err)
	if len(after) != len(before) {
		t.Errorf("left on the server: %+v, before: %+v", after, before)
	}
}

// retained: what we keep on the server is listed, is not dropped under a
// running stream, and can be dropped after it.
func (s *suite) retained(t *testing.T) {
	ctx := t.Context()
	list := func() *engines.Retained {
		all, err := s.src.Log().Retained(ctx)
		must(t, err)
		for _, r := range all {
			if r.Ours {
				return &r
			}
		}
		return nil
	}
	r := list()
	if r == nil || !r.Active || r.Name == "" || r.Kind == "" {
		t.Fatalf("retained while streaming: %+v", r)
	}
	if err := s.src.Log().Release(ctx, r.Name); err == nil {
		t.Fatal("dropped under a running stream")
	}
	must(t, s.stream.Stop(ctx, "shutdown"))
	must(t, s.src.Log().Release(ctx, r.Name))
	if r := list(); r != nil {
		t.Fatalf("still there: %+v", r)
	}
	must(t, s.src.Log().Prepare(ctx))
	var err error
	s.stream, err = StartStream(s.ctx, s.src, s.lineage, engines.TailOptions{})
	must(t, err)
}

// branch: the archive goes on without a hole across a new branch, and a
// restore crosses it.
func (s *suite) branch(t *testing.T) {
	if s.Promote == nil {
		return
	}
	ctx := t.Context()
	must(t, s.Write(ctx, "branch", "old"))
	must(t, s.Promote(ctx))
	must(t, s.Write(ctx, "branch", "new"))
	s.beat(t)
	s.settle(t)
	s.restored(t, engines.Goal{}, func(p *engines.RestorePlan, c engines.Copy) {
		if len(p.Log.Legs) != 2 {
			t.Errorf("branches %s", strings.Join(p.Log.Branches(), ", "))
		}
		s.wants(t, c, "branch", "new")
		s.wants(t, c, "log", "only")
	})
}
