package verify_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/enginetest"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/verify"
)

// secretRow must never turn up in a record.
const secretRow = "row-value-that-no-record-may-hold"

// manualClock is the source's clock: it stands still unless told.
type manualClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *manualClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *manualClock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// lab is a source with a repository that holds a base and log after it.
type lab struct {
	t        *testing.T
	clock    *manualClock
	srv      *enginetest.Server
	engine   *enginetest.Engine
	src      engines.Source
	store    *memstore.Store
	lineage  *repo.Lineage
	stream   *enginetest.Stream
	base     *repo.Manifest
	beats    []repo.Beat
	provider *enginetest.Provider
	workDir  string
}

// newLab takes a base backup at 12:00:01 and ends, after ten rounds of a row
// and a beat a second, one segment at least a round.
func newLab(t *testing.T) *lab {
	t.Helper()
	l := emptyLab(t)
	for n := range 40 {
		l.must(l.srv.Set(fmt.Sprintf("table%d", n%4), fmt.Sprint("key", n), strings.Repeat(fmt.Sprint(n), 300)))
	}
	l.must(l.srv.Set("accounts", "1", secretRow))
	l.start()
	l.round()
	l.backup()
	for range 10 {
		l.round()
	}
	return l
}

func emptyLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, clock: &manualClock{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}, provider: &enginetest.Provider{}, workDir: t.TempDir()}
	l.srv = enginetest.NewServer("db", "42", l.clock.Now)
	l.engine = enginetest.New(l.srv)
	l.store = memstore.New(time.Now)
	l.lineage = l.open(l.store, true)
	var err error
	l.src, err = l.engine.Connect(t.Context(), engines.ConnectOptions{URL: l.srv.URL(), Database: "orders"})
	l.must(err)
	return l
}

// open opens the lab's lineage through any store.
func (l *lab) open(st blob.Store, fresh bool) *repo.Lineage {
	l.t.Helper()
	ctx, pass := l.t.Context(), secret.New("test")
	o := repo.Options{Log: slog.New(slog.DiscardHandler), Clock: time.Now}
	var r *repo.Repo
	var err error
	if fresh {
		r, _, err = repo.Init(ctx, st, repo.InitOptions{Options: o, Passphrase: pass, ScryptWork: 10, Tool: "test"})
	} else {
		r, err = repo.Open(ctx, st, repo.Unlock{Passphrase: pass}, o)
	}
	l.must(err)
	lin, err := r.EnsureLineage(ctx, repo.LineageInfo{ID: "fake-42", Engine: "fake", Database: "orders", Identity: map[string]string{"system": "42"}})
	l.must(err)
	return lin
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) start() {
	l.t.Helper()
	var err error
	l.stream, err = enginetest.StartStream(l.t.Context(), l.src, l.lineage, engines.TailOptions{})
	l.must(err)
	l.t.Cleanup(func() { l.stream.Stop(context.Background(), "shutdown") })
}

func (l *lab) backup() {
	l.t.Helper()
	var err error
	l.base, err = enginetest.Backup(l.t.Context(), l.src, l.lineage, nil, func(p repo.Position) error { return l.stream.Wait(l.t.Context(), p) })
	l.must(err)
}

// round writes a row, beats, lets a second pass, and waits until durable.
func (l *lab) round() {
	l.t.Helper()
	l.write()
	l.settle()
}

func (l *lab) write() {
	l.t.Helper()
	l.clock.Advance(500 * time.Millisecond)
	l.must(l.srv.Set("rounds", fmt.Sprint(len(l.beats)), secretRow))
	b, err := l.stream.Beat(l.t.Context())
	l.must(err)
	l.beats = append(l.beats, b)
	l.clock.Advance(500 * time.Millisecond)
}

// settle waits for the log. Beats travel with the segment sealed after them,
// so one more small record carries them.
func (l *lab) settle() {
	l.t.Helper()
	l.must(l.srv.Set("rounds", "settled", "yes"))
	l.must(l.stream.Wait(l.t.Context(), l.srv.End()))
}

// lose kills the source after n beats that never reach the archive; their
// acknowledgement is noted, as by a stream that outlives its source.
func (l *lab) lose(n int) {
	l.t.Helper()
	l.must(l.stream.StopTail())
	for range n {
		l.write()
	}
	l.stream.Archiver.Tick(l.clock.Now())
	l.srv.Kill()
	l.must(l.stream.Stop(l.t.Context(), "source-lost"))
}

// keys are the store's objects below a folder of the lineage, in order.
func (l *lab) keys(folder string) []string {
	l.t.Helper()
	var out []string
	for _, k := range l.store.Keys() {
		if strings.HasPrefix(k, "l/fake-42/"+folder+"/") {
			out = append(out, k)
		}
	}
	if len(out) == 0 {
		l.t.Fatalf("no object under %s in %v", folder, l.store.Keys())
	}
	return out
}

func (l *lab) remove(key string) { l.must(l.store.Delete(l.t.Context(), key)) }

// flip changes one bit of an object; a negative place counts from its end.
func (l *lab) flip(key string, at int) {
	body := l.store.Bytes(key)
	if at < 0 {
		at += len(body)
	}
	body[at] ^= 1
	l.store.Put(key, body)
}

func (l *lab) request() verify.Request {
	budget, err := stream.NewBudget(stream.MinBudget)
	l.must(err)
	return verify.Request{
		Engine: l.engine, Lineage: l.lineage, Source: l.src, Provider: l.provider, WorkDir: l.workDir,
		Stream:  stream.Options{Budget: budget, Workers: 2},
		Trigger: "manual", Operator: "tester", Tool: "holdfast test", Repository: "memory:",
		Log: slog.New(slog.NewTextHandler(l.t.Output(), nil)),
	}
}

// drill runs a request and checks what holds for each drill: nothing is left,
// the record is stored, holds no row, and its exit code fits the verdict.
func (l *lab) drill(q verify.Request) *verify.Record {
	l.t.Helper()
	return l.drillIn(l.t.Context(), q)
}

func (l *lab) drillIn(ctx context.Context, q verify.Request) *verify.Record {
	l.t.Helper()
	r, err := verify.Drill(ctx, q)
	l.must(err)
	if left := l.provider.Left(); len(left) > 0 && l.provider.Leftover == "" {
		l.t.Errorf("left over: %v", left)
	}
	records, err := l.lineage.Records(l.t.Context())
	l.must(err)
	if len(records) == 0 || records[len(records)-1].ID != r.ID {
		l.t.Fatalf("record %s is not the last of %d", r.ID, len(records))
	}
	if body := records[len(records)-1].Body; bytes.Contains(body, []byte(secretRow)) {
		l.t.Errorf("the record holds a row: %s", body)
	}
	if code := map[verify.Verdict]int{verify.Pass: 0, verify.Fail: 1, verify.Unverified: 3}[r.Verdict]; r.ExitCode() != code {
		l.t.Errorf("%s exits with %d", r.Verdict, r.ExitCode())
	}
	return r
}

// wants compares verdict and reason.
func (l *lab) wants(r *verify.Record, v verify.Verdict, reason string) {
	l.t.Helper()
	if r.Verdict != v || !strings.Contains(strings.Join(r.Reasons, "\n"), reason) {
		l.t.Errorf("verdict %q for %q; want %q because of %q", r.Verdict, r.Reasons, v, reason)
	}
}

// check finds one check of a record.
func (l *lab) check(r *verify.Record, id, verdict string) engines.CheckResult {
	l.t.Helper()
	for _, c := range r.Checks {
		if c.ID == id {
			if c.Verdict != verdict {
				l.t.Errorf("check %+v; want %s", c, verdict)
			}
			return c
		}
	}
	l.t.Errorf("no check %s in %+v", id, r.Checks)
	return engines.CheckResult{}
}
