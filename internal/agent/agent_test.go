package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/enginetest"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/wal"
)

// lab is a fake server and a repository whose store can be made to fail.
type lab struct {
	t      *testing.T
	server *enginetest.Server
	engine *enginetest.Engine
	deps   Deps
	store  blob.Store
	opts   stream.Options
}

func newLab(t *testing.T, plan faulty.Plan) *lab {
	t.Helper()
	t.Parallel()
	var st blob.Store = memstore.New(time.Now)
	init := repo.InitOptions{Options: repo.Options{Clock: time.Now}, Passphrase: secret.New("pass"), ScryptWork: 10, Capabilities: blob.Capabilities{CreateOnly: true}}
	if _, _, err := repo.Init(t.Context(), st, init); err != nil {
		t.Fatal(err)
	}
	if plan != nil {
		st = faulty.Wrap(st, plan)
	}
	r, err := repo.Open(t.Context(), st, repo.Unlock{Passphrase: secret.New("pass")}, repo.Options{Clock: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	b, err := stream.NewBudget(stream.MinBudget)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, store: st, server: enginetest.NewServer("orders", "sys-1", time.Now), opts: stream.Options{Budget: b, Workers: 2}}
	l.engine = enginetest.New(l.server)
	l.deps = Deps{Repo: r, Log: slog.New(slog.DiscardHandler), Clock: time.Now, Tool: "test"}
	for i := range 500 {
		l.set("rows", fmt.Sprint(i), strings.Repeat("x", 100))
	}
	return l
}

func (l *lab) set(table, key, value string) {
	l.t.Helper()
	if err := l.server.Set(table, key, value); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) source() engines.Source {
	l.t.Helper()
	s, err := l.engine.Connect(l.t.Context(), engines.ConnectOptions{URL: l.server.URL(), Database: "orders", Clock: time.Now})
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { s.Close() })
	return s
}

func (l *lab) backup(ctx context.Context) (*BackupReport, error) {
	return l.deps.Backup(ctx, BackupRequest{Source: l.source(), Database: "orders", Fast: true, Beat: true, Stream: l.opts, LogWait: 3 * time.Second})
}

func (l *lab) lineage() *repo.Lineage {
	l.t.Helper()
	lin, err := FindLineage(l.t.Context(), l.deps.Repo, "orders")
	if err != nil {
		l.t.Fatal(err)
	}
	return lin
}

func (l *lab) backups() int {
	l.t.Helper()
	all, err := l.lineage().Backups(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return len(all)
}

// streaming runs Stream until the returned function is called.
func (l *lab) streaming(events func(StreamEvent)) (stop func() error) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(l.t.Context())
	live, ended := make(chan struct{}), make(chan error, 1)
	var once sync.Once
	go func() {
		ended <- l.deps.Stream(ctx, StreamRequest{
			Connect: func(ctx context.Context) (engines.Source, error) {
				return l.engine.Connect(ctx, engines.ConnectOptions{URL: l.server.URL(), Database: "orders", Clock: time.Now})
			},
			Database: "orders", FlushEvery: 20 * time.Millisecond, BeatEvery: 20 * time.Millisecond,
			Events: func(e StreamEvent) {
				if e.Kind == "streaming" {
					once.Do(func() { close(live) })
				}
				if events != nil {
					events(e)
				}
			},
		})
	}()
	select {
	case <-live:
	case err := <-ended:
		l.t.Fatalf("the stream ended before it began: %v", err)
	}
	return func() error { cancel(); return <-ended }
}

// A one-shot backup archives its own log through its stop, leaves nothing on
// the server, and can be restored by itself.
func TestBackupArchivesItsOwnLog(t *testing.T) {
	l := newLab(t, nil)
	rep, err := l.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !rep.OwnLog {
		t.Error("it did not stream its own log, though nobody else does")
	}
	m := rep.Manifest
	if _, err := wal.MakePlan(t.Context(), l.lineage(), m.Branch, m.LogFrom, m.Branch, m.Stop); err != nil {
		t.Errorf("the log it needs is not held: %v", err)
	}
	if left, err := l.source().Log().Retained(t.Context()); err != nil || len(left) != 0 {
		t.Errorf("left on the server: %v, %v", left, err)
	}
	plan, err := engines.PlanRestore(t.Context(), l.engine, l.lineage(), engines.Goal{})
	if err != nil {
		t.Fatal(err)
	}
	if plan.Log.To() <= m.Stop {
		t.Errorf("no log beyond the base: a drill would have nothing to replay")
	}
}

// With a live streamer the backup relies on it.
func TestBackupRelyingOnALiveStreamer(t *testing.T) {
	l := newLab(t, nil)
	stop := l.streaming(nil)
	rep, err := l.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if rep.OwnLog {
		t.Error("it streamed its own log beside a live streamer")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := wal.MakePlan(t.Context(), l.lineage(), rep.Manifest.Branch, rep.Manifest.LogFrom, rep.Manifest.Branch, rep.Manifest.Stop); err != nil {
		t.Error(err)
	}
}

// Without its log, a backup is not committed.
func TestBackupWithoutLogIsNotCommitted(t *testing.T) {
	l := newLab(t, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/log/", Times: -1, Fault: faulty.Fault{Kind: faulty.Stall}}))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := l.backup(ctx); err == nil {
		t.Fatal("it was committed though no log could be stored")
	}
	if n := l.backups(); n != 0 {
		t.Errorf("%d backups are listed", n)
	}
}

// Every store failure at the commit leaves no backup, and the next one works.
func TestBackupCommitFailure(t *testing.T) {
	l := newLab(t, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "manifest.json", Times: 1, Fault: faulty.Fault{Kind: faulty.Before}}))
	if _, err := l.backup(t.Context()); err == nil {
		t.Fatal("the commit failed and the backup says it is fine")
	}
	if n := l.backups(); n != 0 {
		t.Errorf("%d backups are listed after a failed commit", n)
	}
	if _, err := l.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := l.backups(); n != 1 {
		t.Errorf("%d backups are listed", n)
	}
}

// A parent that lost a pack is no parent: the next backup is full.
func TestBackupAfterALostPackIsFull(t *testing.T) {
	l := newLab(t, nil)
	first, err := l.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.backup(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second.Manifest.Parent != first.Manifest.ID {
		t.Errorf("the parent is %q, not the first backup", second.Manifest.Parent)
	}
	lost := first.Manifest.Packs[0]
	d := l.deps
	parent, err := d.parent(t.Context(), &lostPack{l.lineage(), lost.ID}, false)
	if err != nil || parent != nil {
		t.Errorf("parent %v, %v after pack %s was lost", parent, err, lost.ID)
	}
}

// lostPack is a lineage one of whose packs is gone.
type lostPack struct {
	*repo.Lineage
	id repo.PackID
}

func (l *lostPack) StatPack(ctx context.Context, p repo.PackInfo) error {
	if p.ID == l.id {
		return repo.ErrNotFound
	}
	return l.Lineage.StatPack(ctx, p)
}

// The server is killed: what it sent is stored, the loss is said, and a
// restore finds the last beat that was archived.
func TestStreamStoresEverythingWhenTheSourceDies(t *testing.T) {
	l := newLab(t, nil)
	lost := make(chan error, 1)
	stop := l.streaming(func(e StreamEvent) {
		if e.Kind == "lost" {
			select {
			case lost <- e.Err:
			default:
			}
		}
	})
	if _, err := l.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		l.set("late", fmt.Sprint(i), "y")
	}
	time.Sleep(100 * time.Millisecond)
	acked := l.server.Acknowledged()
	l.server.Kill()
	select {
	case <-lost:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody noticed that the source died")
	}
	if err := stop(); err != nil {
		t.Logf("stopped while the source was away: %v", err)
	}
	cov, err := wal.Summary(t.Context(), l.lineage())
	if err != nil {
		t.Fatal(err)
	}
	if len(cov) != 1 || len(cov[0].Ranges) != 1 || cov[0].Ranges[0].End < acked {
		t.Errorf("the server was told %x, the archive holds %+v", uint64(acked), cov)
	}
	if cov[0].LastBeat == nil {
		t.Error("no heartbeat was archived")
	}
}

// The store is dead for a while: nothing is acknowledged meanwhile, and all is
// stored afterwards.
func TestStreamOverAStoreOutage(t *testing.T) {
	var mu sync.Mutex
	down := false
	l := newLab(t, func(c faulty.Call) faulty.Fault {
		mu.Lock()
		defer mu.Unlock()
		if down && c.Op == faulty.Create {
			return faulty.Fault{Kind: faulty.Before}
		}
		return faulty.Fault{}
	})
	set := func(v bool) { mu.Lock(); down = v; mu.Unlock() }
	stop := l.streaming(nil)
	time.Sleep(100 * time.Millisecond)
	set(true)
	for i := range 50 {
		l.set("outage", fmt.Sprint(i), "z")
	}
	time.Sleep(300 * time.Millisecond)
	after := l.server.Acknowledged()
	target := l.server.End()
	if after >= target {
		t.Errorf("%x was acknowledged while the store was down", uint64(after))
	}
	set(false)
	deadline := time.Now().Add(30 * time.Second)
	for l.server.Acknowledged() < target {
		if time.Now().After(deadline) {
			t.Fatal("nothing was acknowledged after the store came back")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	cov, err := wal.Summary(t.Context(), l.lineage())
	if err != nil || len(cov[0].Ranges) != 1 || cov[0].Ranges[0].End < target {
		t.Errorf("%v, %+v", err, cov)
	}
}

// A first connection that fails ends the job with its error.
func TestStreamDoesNotRetryAFirstConnection(t *testing.T) {
	l := newLab(t, nil)
	boom := errors.New("boom")
	err := l.deps.Stream(t.Context(), StreamRequest{Database: "orders", Connect: func(context.Context) (engines.Source, error) { return nil, boom }})
	if !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
}

// Status tells what the store holds with and without the server.
func TestStatus(t *testing.T) {
	l := newLab(t, nil)
	if _, err := FindLineage(t.Context(), l.deps.Repo, "orders"); !errors.Is(err, repo.ErrNotFound) {
		t.Errorf("an unknown name: %v", err)
	}
	if _, err := l.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := l.deps.Status(t.Context(), "orders", l.lineage(), l.source(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if !s.Reachable || s.Streaming || s.LastBackup == nil || !s.Exposure.Known || len(s.Windows) != 1 {
		t.Errorf("status %+v", s)
	}
	l.set("more", "1", "1")
	s, err = l.deps.Status(t.Context(), "orders", l.lineage(), l.source(), nil)
	if err != nil || s.Exposure.Bytes == 0 {
		t.Errorf("after a write without a streamer: %+v, %v", s.Exposure, err)
	}
	s, err = l.deps.Status(t.Context(), "orders", l.lineage(), nil, errors.New("refused"))
	if err != nil || s.Reachable || s.Exposure.Known {
		t.Errorf("unreachable: %+v, %v", s, err)
	}
	codes := map[string]bool{}
	for _, f := range s.Findings {
		codes[f.Code] = true
	}
	if !codes["unreachable"] || !codes["never-drilled"] {
		t.Errorf("findings %v", s.Findings)
	}
}
