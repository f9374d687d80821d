package wal

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/underrace"
)

// The fencing argument of the package comment, as a model: writers that take
// the lease from each other while each puts, checks and acknowledges, every
// call to the store a step of its own, and the steps in any order. A writer
// that is not chosen for a while is one that was paused.

// schedules is how many orders of steps are tried.
const schedules = 2000

// modelWriter is one writer, which does one step at a time.
type modelWriter struct {
	id    int
	fence bool // whether it calls Check
	lease *Lease
	step  func() // what it does when it is chosen next
}

// world is one schedule under way.
type world struct {
	t     *testing.T
	l     *repo.Lineage
	rng   *rand.Rand
	lists []map[Position]bool // by epoch: what its holder's listing showed
	acked []ack
	made  Position
	lost  int
}

// ack is one acknowledgement: of the segment at a position, under an epoch.
type ack struct {
	epoch uint64
	at    Position
}

// acquire takes the lease at once, and then lists.
func (w *world) acquire(m *modelWriter) {
	k, err := AcquireLease(w.t.Context(), w.l, LeaseOptions{
		Takeover: true, Every: time.Hour, TTL: 3 * time.Hour, Log: slog.New(slog.DiscardHandler),
		Holder: repo.LeaseHolder{Host: fmt.Sprint(m.id)},
	})
	must(w.t, err)
	m.lease = k
	m.step = func() { w.list(m) }
}

func (w *world) list(m *modelWriter) {
	all, err := w.l.Segments(w.t.Context(), "b", 0)
	must(w.t, err)
	held, _ := m.lease.Held()
	for uint64(len(w.lists)) <= held.Epoch {
		w.lists = append(w.lists, nil)
	}
	seen := map[Position]bool{}
	for _, ref := range all {
		seen[ref.Start] = true
	}
	w.lists[held.Epoch] = seen
	m.step = func() { w.put(m) }
}

func (w *world) put(m *modelWriter) {
	w.made++
	at := w.made
	put(w.t, w.l, "b", at, at+1)
	m.step = func() { w.check(m, at) }
}

func (w *world) check(m *modelWriter, at Position) {
	m.step = func() { w.ack(m, at) }
	if !m.fence {
		return
	}
	if err := m.lease.Check(w.t.Context()); err != nil {
		w.lost++
		crash(m.lease)
		m.step = func() { w.acquire(m) }
	}
}

func (w *world) ack(m *modelWriter, at Position) {
	held, _ := m.lease.Held()
	w.acked = append(w.acked, ack{held.Epoch, at})
	m.step = func() { w.put(m) }
}

// unseen counts acknowledgements that a later holder did not see.
func (w *world) unseen() (n int) {
	for _, a := range w.acked {
		for epoch, list := range w.lists {
			if uint64(epoch) > a.epoch && list != nil && !list[a.at] {
				n++
			}
		}
	}
	return n
}

// model is a lineage that one schedule after another starts from empty: a new
// one each would cost more than the schedule.
type model struct {
	st *memstore.Store
	l  *repo.Lineage
}

func newModel(t *testing.T) model {
	t.Helper()
	st := memstore.New(time.Now)
	r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Unencrypted: true})
	must(t, err)
	l, err := r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake"})
	must(t, err)
	return model{st, l}
}

// run runs one order of steps over two writers.
func (md model) run(t *testing.T, seed uint64, fence bool) *world {
	t.Helper()
	for _, key := range md.st.Keys() {
		if strings.Contains(key, "/log/") || strings.HasSuffix(key, "/lease.json") {
			must(t, md.st.Delete(t.Context(), key))
		}
	}
	w := &world{t: t, l: md.l, rng: rand.New(rand.NewPCG(seed, 1))}
	writers := []*modelWriter{{id: 1, fence: fence}, {id: 2, fence: fence}}
	for _, m := range writers {
		m.step = func() { w.acquire(m) }
	}
	for range 16 {
		m := writers[w.rng.IntN(len(writers))]
		for range 1 + w.rng.IntN(4) { // how long it runs before it is paused
			m.step()
		}
		if w.rng.IntN(6) == 0 && m.lease != nil { // it crashes, and starts again
			crash(m.lease)
			m.step = func() { w.acquire(m) }
		}
	}
	for _, m := range writers {
		if m.lease != nil {
			crash(m.lease)
		}
	}
	return w
}

// TestFence: in no order of steps is anything acknowledged that a successor's
// listing does not show. Without the fence it happens in many.
func TestFence(t *testing.T) {
	t.Parallel()
	md := newModel(t)
	var acks, lost int
	schedules := underrace.Fewer(schedules)
	for seed := range uint64(schedules) {
		w := md.run(t, seed, true)
		acks, lost = acks+len(w.acked), lost+w.lost
		if n := w.unseen(); n > 0 {
			t.Fatalf("schedule %d: %d acknowledgements that a successor did not see", seed, n)
		}
	}
	if acks < 5*schedules || lost < schedules {
		t.Errorf("%d acknowledgements and %d leases found lost in %d schedules: they say little", acks, lost, schedules)
	}
	bad := 0
	for seed := range uint64(100) {
		if md.run(t, seed, false).unseen() > 0 {
			bad++
		}
	}
	if bad < 50 {
		t.Errorf("without the fence only %d of 100 schedules go wrong: the model cannot tell", bad)
	}
}
