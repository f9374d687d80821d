package enginetest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// Fixture is what the suite needs of an engine under test.
type Fixture struct {
	Engine  engines.Engine
	Connect engines.ConnectOptions // a fresh, running source nobody else writes to
	Repo    *repo.Repo             // a fresh repository
	// Write commits one row of a table that Write makes itself.
	Write func(ctx context.Context, key, value string) error
	// Query asks a copy for the value of a key; an absent key yields "".
	Query    func(key string) (database, query string)
	Provider testcontainers.Provider
	WorkDir  string
	Binary   string // for fetch-log inside the sandbox; "" if the engine needs none
	// Acknowledged is what the server was told to be durable; nil if it
	// cannot be seen.
	Acknowledged func() repo.Position
	// Promote makes the source go on with a new branch; nil: not offered.
	Promote func(ctx context.Context) error
}

// suite is one run of the contract's tests, in order, over one source.
type suite struct {
	Fixture
	ctx     context.Context // of the whole run: a stream outlives the step that began it
	src     engines.Source
	lineage *repo.Lineage
	stream  *Stream
	base    *repo.Manifest
	beats   []repo.Beat
}

// RunContract runs the tests of the engine contract. Each step stands on the
// ones before it, so the first failure ends the run.
func RunContract(t *testing.T, f Fixture) {
	s := &suite{Fixture: f, ctx: t.Context()}
	steps := []struct {
		name string
		run  func(*testing.T)
	}{
		{"identify", s.identify},
		{"stream and back up", s.backUp},
		{"acknowledge only what is durable", s.acknowledge},
		{"say what a commit is worth", s.guarantee},
		{"resume from what the store holds", s.resume},
		{"restore the end", s.restoreEnd},
		{"restore a moment", s.restoreMoment},
		{"restore a place", s.restorePlace},
		{"feed", s.feed},
		{"temporary tail", s.temporary},
		{"retained and released", s.retained},
		{"branch switch", s.branch},
	}
	for _, step := range steps {
		if !t.Run(step.name, step.run) {
			break
		}
	}
	if s.stream != nil {
		s.stream.Stop(t.Context(), "shutdown")
	}
	if s.src != nil {
		s.src.Close()
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *suite) identify(t *testing.T) {
	ctx := t.Context()
	var err error
	s.src, err = s.Engine.Connect(ctx, s.Connect)
	must(t, err)
	first, err := s.src.Identify(ctx)
	must(t, err)
	must(t, s.Write(ctx, "before", "any backup"))
	second, err := s.src.Identify(ctx)
	must(t, err)
	if first.Lineage.ID != second.Lineage.ID || first.Lineage.Engine != s.Engine.Name() {
		t.Fatalf("lineage %+v, then %+v", first.Lineage, second.Lineage)
	}
	if second.Position <= first.Position || second.Time.Before(first.Time) {
		t.Fatalf("position %d at %s, after a commit %d at %s", first.Position, first.Time, second.Position, second.Time)
	}
	if first.Version == "" || first.Branch.ID == "" {
		t.Fatalf("no version or branch: %+v", first)
	}
	now, err := s.src.Clock(ctx)
	must(t, err)
	if now.Before(second.Time) {
		t.Fatalf("clock went back from %s to %s", second.Time, now)
	}
	info := first.Lineage
	info.Database = "contract"
	s.lineage, err = s.Repo.EnsureLineage(ctx, info)
	must(t, err)
	must(t, s.src.Log().Prepare(ctx))
	must(t, s.src.Log().Prepare(ctx))
	findings, err := s.src.Check(ctx)
	must(t, err)
	for _, f := range findings {
		if f.Severity == "error" || f.Code == "" || f.Message == "" {
			t.Errorf("finding %+v on a source made for the test", f)
		}
	}
}

// backUp takes a base while rows are written, with the stream running.
func (s *suite) backUp(t *testing.T) {
	ctx := t.Context()
	var err error
	s.stream, err = StartStream(s.ctx, s.src, s.lineage, engines.TailOptions{})
	must(t, err)
	s.beat(t)
	written := make(chan error, 1)
	go func() {
		for n := range 50 {
			if err := s.Write(ctx, "during", strings.Repeat("x", n)); err != nil {
				written <- err
				return
			}
		}
		written <- nil
	}()
	s.base, err = Backup(ctx, s.src, s.lineage, nil, func(p repo.Position) error { return s.stream.Wait(ctx, p) })
	must(t, errors.Join(<-written, err))
	b := s.base
	if b.LogFrom > b.Start || b.Start > b.Stop || b.StopTime.Before(b.StartTime) || b.Items == 0 || b.Bytes == 0 {
		t.Fatalf("base %+v", b)
	}
	must(t, s.Write(ctx, "log", "only"))
	s.beat(t)
	s.beat(t)
}

func (s *suite) beat(t *testing.T) {
	t.Helper()
	b, err := s.stream.Beat(t.Context())
	must(t, err)
	if n := len(s.beats); n > 0 && (b.N != s.beats[n-1].N+1 || !b.At.After(s.beats[n-1].At) || b.Pos <= s.beats[n-1].Pos) {
		t.Fatalf("beat %+v after %+v", b, s.beats[n-1])
	}
	s.beats = append(s.beats, b)
}

// settle waits until everything written so far is durable.
func (s *suite) settle(t *testing.T) {
	t.Helper()
	id, err := s.src.Identify(t.Context())
	must(t, err)
	must(t, s.stream.Wait(t.Context(), id.Position))
}

func (s *suite) acknowledge(t *testing.T) {
	s.settle(t)
	if s.Acknowledged == nil {
		return
	}
	if told, durable := s.Acknowledged(), s.stream.Archiver.Durable(); told > durable {
		t.Fatalf("the server was told %d, durable is %d", told, durable)
	}
}

// guarantee: nobody waits for a stream that no one has asked to wait for; and
// the archive of one lineage is not fed by another.
func (s *suite) guarantee(t *testing.T) {
	g, err := s.src.Log().Guarantee(t.Context())
	must(t, err)
	if g.Level != engines.GuaranteeAsynchronous || g.Sentence == "" || g.Receiver == "" || !g.Connected {
		t.Errorf("%+v", g)
	}
	until := make(chan repo.Position, 1)
	until <- 1
	archiver := wal.NewArchiver(s.lineage, wal.ArchiverOptions{})
	err = s.src.Log().Tail(t.Context(), engines.TailOptions{Lineage: "another", Temporary: true, Until: until}, archiver)
	if engines.ConditionOf(err) != engines.ConditionOtherSystem || !engines.IsPermanent(err) {
		t.Errorf("the log of another lineage: %v", err)
	}
	must(t, archiver.Close(t.Context(), "shutdown"))
}

// resume stops the stream, writes, and starts it again: no hole, and a stream
// that is ended by its ctx ends without an error.
func (s *suite) resume(t *testing.T) {
	ctx := t.Context()
	must(t, s.stream.Stop(ctx, "shutdown"))
	must(t, s.Write(ctx, "while", "nobody listened"))
	var err error
	s.stream, err = StartStream(s.ctx, s.src, s.lineage, engines.TailOptions{})
	must(t, err)
	s.beat(t)
	s.settle(t)
	branches, err := s.lineage.Branches(ctx)
	must(t, err)
	for _, b := range branches {
		refs, err := s.lineage.Segments(ctx, b.ID, 0)
		must(t, err)
		if ranges := wal.Coverage(refs); len(ranges) > 1 {
			t.Fatalf("a hole in %+v", ranges)
		}
	}
}

// restored is a copy that a test looks at.
func (s *suite) restored(t *testing.T, g engines.Goal, look func(*engines.RestorePlan, engines.Copy)) {
	t.Helper()
	ctx, r := t.Context(), s.Engine.Restorer()
	p, err := engines.PlanRestore(ctx, s.Engine, s.lineage, g)
	must(t, err)
	spec := r.Server(p)
	spec.Dir, spec.Label = s.WorkDir, "holdfast-contract"
	sb, err := s.Provider.Provision(ctx, spec)
	must(t, err)
	defer func() { must(t, sb.Remove(context.WithoutCancel(ctx), time.Second)) }()
	full := filepath.Join(sb.Dir(), "full")
	must(t, os.MkdirAll(filepath.Join(full, "something"), 0o700))
	if err := r.Preflight(ctx, p, full); err == nil {
		t.Fatal("a directory with something in it was accepted")
	}
	dir := filepath.Join(sb.Dir(), "copy")
	must(t, r.Preflight(ctx, p, dir))
	budget, err := stream.NewBudget(stream.MinBudget)
	must(t, err)
	stats, err := r.Load(ctx, engines.LoadRequest{Lineage: s.lineage, Plan: p, Dir: dir, Sandbox: sb, Stream: stream.Options{Budget: budget}})
	must(t, err)
	if stats.Bytes == 0 {
		t.Fatalf("loaded nothing: %+v", stats)
	}
	rd, err := wal.NewReader(ctx, s.lineage, p.Log)
	must(t, err)
	feed, err := r.Feed(p, rd)
	must(t, err)
	var phases []string
	c, err := r.Replay(ctx, engines.ReplayRequest{
		Plan: p, Dir: dir, Sandbox: sb, Feed: feed, Binary: s.Binary, Log: s.Connect.Log,
		Output: t.Output(), Phase: func(n string) { phases = append(phases, n) },
	})
	must(t, err)
	defer func() { must(t, c.Close(context.WithoutCancel(ctx))) }()
	if got := strings.Join(phases, " "); got != "boot replay ready" {
		t.Fatalf("phases %q", got)
	}
	look(p, c)
}

// wants compares one row of the copy.
func (s *suite) wants(t *testing.T, c engines.Copy, key, value string) {
	t.Helper()
	database, query := s.Query(key)
	got, err := c.Query(t.Context(), database, query)
	must(t, err)
	if got != value {
		t.Errorf("row %q holds %q in the copy, not %q", key, got, value)
	}
}

func (s *suite) restoreEnd(t *testing.T) {
	s.restored(t, engines.Goal{}, func(p *engines.RestorePlan, c engines.Copy) {
		s.wants(t, c, "before", "any backup")
		s.wants(t, c, "during", strings.Repeat("x", 49))
		s.wants(t, c, "log", "only")
		s.wants(t, c, "while", "nobody listened")
		found, err := c.Beats(t.Context())
		must(t, err)
		for i, b := range s.beats {
			if i >= len(found) || found[i].N != b.N || !found[i].At.Equal(b.At) {
				t.Fatalf("beats %+v in the copy, %+v were written", found, s.beats)
			}
		}
		pos, at, err := c.Reached(t.Context())
		must(t, err)
		if pos <= p.Base.Stop || pos > p.Log.To() || at.Before(s.beats[len(s.beats)-1].At) {
			t.Errorf("reached %d at %s; base ends at %d, plan at %d", pos, at, p.Base.Stop, p.Log.To())
		}
		st, err := c.ReadAll(t.Context())
		must(t, err)
		if st.Rows < int64(4+len(s.beats)) || st.Tables < 2 || c.Version() == "" {
			t.Errorf("read %+v of version %q", st, c.Version())
		}
		checks, err := c.Integrity(t.Context())
		must(t, err)
		for _, k := range checks {
			if k.Verdict == "fail" || k.ID == "" || k.Tier != "integrity" {
				t.Errorf("check %+v", k)
			}
		}
	})
}

// restoreMoment ends exactly between two commits.
func (s *suite) restoreMoment(t *testing.T) {
	ctx := t.Context()
	must(t, s.Write(ctx, "moment", "before"))
	s.beat(t)
	s.beat(t)
	target := s.beats[len(s.beats)-1].At
	must(t, s.Write(ctx, "moment", "after"))
	s.beat(t)
	s.settle(t)
	s.restored(t, engines.Goal{Time: target}, func(p *engines.RestorePlan, c engines.Copy) {
		s.wants(t, c, "moment", "before")
		found, err := c.Beats(ctx)
		must(t, err)
		if want := s.beats[len(s.beats)-3].N; len(found) == 0 || found[len(found)-1].N != want {
			t.Errorf("beats %+v in the copy, the last before the target is %d", found, want)
		}
		if _, at, err := c.Reached(ctx); err != nil || at.After(target) {
			t.Errorf("reached %s, beyond %s (%v)", at, target, err)
		}
	})
}
