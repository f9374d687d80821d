package postgres

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// pipeline is a site with everything between it and a repository: what the
// jobs backup and stream do, in the order they do it.
type pipeline struct {
	*site
	src     engines.Source
	store   *memstore.Store
	lineage *repo.Lineage
	arch    *wal.Archiver
	ended   chan error // the tail's end
	stop    func()
}

func newPipeline(t *testing.T, s *site) *pipeline {
	t.Helper()
	ctx := t.Context()
	a := &pipeline{site: s, src: s.source(), store: memstore.New(time.Now)}
	t.Cleanup(func() { _ = a.src.Close() })
	r, _, err := repo.Init(ctx, a.store, repo.InitOptions{
		Options: repo.Options{Clock: time.Now}, Passphrase: secret.New("pass"), ScryptWork: 10,
		Capabilities: blob.Capabilities{CreateOnly: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := a.src.Identify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if a.lineage, err = r.EnsureLineage(ctx, id.Lineage); err != nil {
		t.Fatal(err)
	}
	return a
}

// stream follows the log into the repository until stop.
func (a *pipeline) stream() {
	a.t.Helper()
	if err := a.src.Log().Prepare(a.t.Context()); err != nil {
		a.t.Fatal(err)
	}
	a.arch = a.newArchiver()
	ctx, cancel := context.WithCancel(a.t.Context())
	ready := make(chan struct{})
	a.ended = make(chan error, 1)
	go func() {
		a.ended <- a.src.Log().Tail(ctx, engines.TailOptions{Held: a.held, Archived: a.archived, Ready: func(repo.Position) { close(ready) }}, a.arch)
	}()
	select {
	case <-ready:
	case err := <-a.ended:
		cancel()
		a.t.Fatalf("the tail ended: %v", err)
	}
	a.stop = func() {
		cancel()
		if err := <-a.ended; err != nil {
			a.t.Errorf("tail: %v", err)
		}
		if err := a.arch.Close(context.Background(), "shutdown"); err != nil {
			a.t.Errorf("close the archiver: %v", err)
		}
	}
}

func (a *pipeline) newArchiver() *wal.Archiver {
	return wal.NewArchiver(a.lineage, wal.ArchiverOptions{FlushEvery: 50 * time.Millisecond, Log: slog.New(slog.DiscardHandler), Clock: time.Now})
}

func (a *pipeline) held(ctx context.Context, branch string) ([]wal.Range, error) {
	refs, err := a.lineage.Segments(ctx, branch, 0)
	return wal.Coverage(refs), err
}

// durable waits until the log held reaches a position.
func (a *pipeline) durable(at repo.Position) {
	a.t.Helper()
	for {
		changed := a.arch.Changed()
		if err := a.arch.Err(); err != nil {
			a.t.Fatal(err)
		}
		if a.arch.Durable() >= at {
			return
		}
		select {
		case <-changed:
		case <-a.t.Context().Done():
			a.t.Fatal("the log did not become durable")
		}
	}
}

func budgetFor(t *testing.T) *stream.Budget {
	t.Helper()
	b, err := stream.NewBudget(stream.MinBudget)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (a *pipeline) backup() *repo.Manifest {
	a.t.Helper()
	ctx := a.t.Context()
	bw, err := a.lineage.BeginBackup(ctx, "")
	if err != nil {
		a.t.Fatal(err)
	}
	w, err := stream.NewWriter(ctx, a.lineage, nil, stream.Options{Budget: budgetFor(a.t), Clock: time.Now})
	if err != nil {
		a.t.Fatal(err)
	}
	defer w.Close()
	res, err := a.src.Backup(ctx, engines.BackupOptions{Label: "test", Fast: true}, w)
	if err != nil {
		a.t.Fatal(err)
	}
	items, packs, stats, err := w.Finish(ctx)
	if err != nil {
		a.t.Fatal(err)
	}
	a.durable(res.Stop)
	m := &repo.Manifest{
		ID: bw.ID(), Lineage: a.lineage.Info().ID, Created: time.Now(), Packs: packs,
		Engine: "postgres", Branch: res.Branch, Start: res.Start, LogFrom: res.LogFrom, Stop: res.Stop,
		StartTime: res.StartTime, StopTime: res.StopTime, Items: stats.Items, Bytes: stats.Bytes, Details: res.Details,
	}
	if err := bw.Commit(ctx, m, items); err != nil {
		a.t.Fatal(err)
	}
	return m
}

// drill restores into a sandbox and replays, all from the store.
func (a *pipeline) drill(major string, g engines.Goal) (*run, error) {
	a.t.Helper()
	ctx := a.t.Context()
	plan, err := engines.PlanRestore(ctx, New(), a.lineage, g)
	if err != nil {
		return nil, err
	}
	re := New().Restorer()
	if spec := re.Server(plan); spec.Engine != "postgres" || spec.Version != major {
		a.t.Errorf("server %+v for a base of %s", spec, major)
	}
	box := newBox(a.t, major)
	out := &run{dir: filepath.Join(box.Dir(), "data")}
	if err := re.Preflight(ctx, plan, out.dir); err != nil {
		return out, err
	}
	if _, err := re.Load(ctx, loadRequest(a.t, a.lineage, plan, out.dir, box)); err != nil {
		return out, err
	}
	rd, err := wal.NewReader(ctx, a.lineage, plan.Log)
	if err != nil {
		return out, err
	}
	feed, err := re.Feed(plan, rd)
	if err != nil {
		return out, err
	}
	self, err := os.Executable()
	if err != nil {
		a.t.Fatal(err)
	}
	c, err := re.Replay(ctx, engines.ReplayRequest{Plan: plan, Dir: out.dir, Sandbox: box, Feed: feed, Binary: self, Output: &out.log})
	a.t.Cleanup(func() {
		if a.t.Failed() {
			a.t.Logf("log of the copy:\n%s", out.log.String())
		}
	})
	if err != nil {
		return out, err
	}
	out.copy = c.(*pgCopy)
	a.t.Cleanup(func() { _ = c.Close(context.Background()) })
	return out, nil
}

func loadRequest(t *testing.T, l *repo.Lineage, p *engines.RestorePlan, dir string, box testcontainers.Sandbox) engines.LoadRequest {
	t.Helper()
	return engines.LoadRequest{Lineage: l, Plan: p, Dir: dir, Sandbox: box, Stream: stream.Options{Budget: budgetFor(t), Clock: time.Now}}
}

// The main job: a base, the log streamed, the source killed; then the end of
// the log, and a moment before a mistake, come back from the store alone.
func TestBackupStreamKillRestore(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		a := newPipeline(t, newSite(t, major, nil,
			"create database holdfast owner "+siteRole,
			"create table accounts (id int primary key, note text)",
			"create materialized view totals as select count(*) from accounts",
			"create table parted (id int) partition by range (id)", "create table parted_1 partition of parted for values from (0) to (1000)",
			"insert into parted select i from generate_series(0, 999) i",
			"insert into accounts select i, repeat(md5(i::text), 200) from generate_series(1, 2000) i"))
		a.stream()
		pulse, err := a.src.Heartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer pulse.Close()
		if err := pulse.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.backup()
		a.exec("insert into accounts values (2001, 'only in the log')")
		beat, err := pulse.Beat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		a.exec("insert into accounts values (2002, 'after the beat')", "drop table accounts cascade", "create table last_one (i int)")
		a.durable(a.position("select pg_current_wal_flush_lsn()::text"))
		if err := a.server.Kill9(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-a.ended; err == nil {
			t.Error("the tail ended without an error though its server was killed")
		}
		if err := a.arch.Close(t.Context(), "source-lost"); err != nil {
			t.Fatal(err)
		}

		latest, err := a.drill(major, engines.Goal{})
		if err != nil {
			t.Fatal(err)
		}
		latest.want(t, "select count(*) from pg_class where relname in ('accounts', 'last_one')", "1")
		if beats, err := latest.copy.Beats(t.Context()); err != nil || len(beats) != 1 || beats[0].N != beat.N || !beats[0].At.Equal(beat.At) {
			t.Errorf("beats %v, %v; want %v", beats, err, beat)
		}

		past, err := a.drill(major, engines.Goal{Time: beat.At})
		if err != nil {
			t.Fatal(err)
		}
		past.want(t, "select count(*) || ' ' || sum(hashtext(note)) || ' ' || max(id) from accounts",
			past.text(t, "select '2001 ' || (select sum(hashtext(coalesce(n, 'only in the log'))) from (select repeat(md5(i::text), 200) from generate_series(1, 2000) i union all select null) x(n)) || ' 2001'"))
		if beats, err := past.copy.Beats(t.Context()); err != nil || len(beats) != 0 {
			t.Errorf("beats %v, %v; want none", beats, err)
		}
		stats, err := past.copy.ReadAll(t.Context())
		if err != nil || stats.Databases != 3 || stats.Rows < 4000 || stats.Bytes < 2000*6400 {
			t.Errorf("read %+v, %v", stats, err)
		}
		for _, res := range integrity(t, past.copy) {
			if res.Verdict != verdictPass {
				t.Errorf("%+v", res)
			}
		}
	})
}

// text is a query's answer on the copy.
func (o *run) text(t *testing.T, query string) string {
	t.Helper()
	s, err := o.copy.Query(t.Context(), "", query)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAnInterruptedLoadIsNoDatabase(t *testing.T) {
	a := newPipeline(t, newSite(t, "15", nil, "create table accounts as select i, repeat('x', 1000) from generate_series(1, 5000) i"))
	a.stream()
	defer a.stop()
	a.backup()
	plan, err := engines.PlanRestore(t.Context(), New(), a.lineage, engines.Goal{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "data")
	ctx, cancel := context.WithCancel(t.Context())
	req := loadRequest(t, a.lineage, plan, dir, nil)
	req.Stream.Progress = cancelAfter{cancel: cancel}
	if _, err := newRestorer().Load(ctx, req); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the cancellation", err)
	}
	if _, err := os.Stat(filepath.Join(dir, controlFile)); err == nil {
		t.Error("an interrupted load has a pg_control")
	}
	if err := checkComplete(dir); err == nil {
		t.Error("an interrupted load counts as complete")
	}
	if _, err := newRestorer().Configure(t.Context(), engines.ConfigureRequest{Plan: plan, Dir: dir}); err == nil {
		t.Error("an interrupted load was configured")
	}
	if err := newRestorer().Preflight(t.Context(), plan, dir); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("preflight after an interrupted load: %v", err)
	}
}

type cancelAfter struct{ cancel func() }

func (c cancelAfter) Total(int64)  { c.cancel() }
func (c cancelAfter) Read(int64)   { c.cancel() }
func (c cancelAfter) Stored(int64) { c.cancel() }
func (c cancelAfter) Item(string)  { c.cancel() }
