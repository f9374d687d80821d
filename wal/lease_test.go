package wal

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// desk is a lineage whose lease keepers on different hosts contend for.
type desk struct {
	t      *testing.T
	l      *repo.Lineage
	faults switchable
	store  *recorder
	life   Life // of every holder, to every other
}

// recorder keeps the body of every swap that was carried out, in order.
type recorder struct {
	blob.Store
	mu     sync.Mutex
	bodies [][]byte
	delay  bool                         // the next swap is answered with an error …
	late   func() (blob.Version, error) // … and carried out when the one after it arrives
}

func (r *recorder) Swap(ctx context.Context, key string, old blob.Version, body []byte) (blob.Version, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	do := func() (blob.Version, error) {
		v, err := r.Store.Swap(context.WithoutCancel(ctx), key, old, body)
		if err == nil {
			r.bodies = append(r.bodies, slices.Clone(body))
		}
		return v, err
	}
	if r.delay {
		r.delay, r.late = false, do
		return "", errors.New("no answer yet")
	}
	if late := r.late; late != nil {
		r.late = nil
		if _, err := late(); err != nil {
			return "", err
		}
	}
	return do()
}

// newDesk must be called inside the bubble that uses it.
func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, store: &recorder{Store: memstore.New(time.Now)}}
	r, _, err := repo.Init(t.Context(), faulty.Wrap(d.store, d.faults.decide), repo.InitOptions{Unencrypted: true})
	must(t, err)
	d.l, err = r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "db"})
	must(t, err)
	return d
}

func (d *desk) options(host string) LeaseOptions {
	return LeaseOptions{
		Kind: repo.LeaseStream, Holder: repo.LeaseHolder{Host: host, PID: 7},
		Life: func(repo.LeaseHolder) Life { return d.life },
	}
}

func (d *desk) acquire(host string) *Lease {
	d.t.Helper()
	k, err := AcquireLease(d.t.Context(), d.l, d.options(host))
	must(d.t, err)
	return k
}

// crash ends a keeper as kill -9 would: it renews no more and gives nothing back.
func crash(k *Lease) {
	k.cancel()
	<-k.done
}

func (d *desk) read() *repo.Lease {
	d.t.Helper()
	l, _, err := d.l.ReadLease(d.t.Context())
	must(d.t, err)
	return l
}

// history decodes every state the lease was in.
func (d *desk) history() []repo.Lease {
	d.t.Helper()
	st := d.store.Store.(*memstore.Store)
	var out []repo.Lease
	for _, body := range d.store.bodies {
		st.Put("l/pg-1/lease.json", body)
		out = append(out, *d.read())
	}
	return out
}

func (d *desk) epoch(want uint64, host string) {
	d.t.Helper()
	if l := d.read(); l.Epoch != want || l.Holder.Host != host {
		d.t.Fatalf("epoch %d of %s, want %d of %s", l.Epoch, l.Holder.Host, want, host)
	}
}

// lost asserts that a keeper knows it was followed by epoch by.
func (d *desk) lost(k *Lease, by uint64) {
	d.t.Helper()
	var e *LeaseLostError
	if err := k.Check(d.t.Context()); !errors.As(err, &e) || !errors.Is(err, ErrLeaseLost) || e.By == nil || e.By.Epoch != by {
		d.t.Fatalf("check: %v, want it lost to epoch %d", err, by)
	}
	if !errors.As(k.Err(), &e) {
		d.t.Fatalf("Err is %v", k.Err())
	}
	select {
	case <-k.Lost():
	default:
		d.t.Fatal("Lost is not closed")
	}
}

// A holder that stopped is followed once its lease was watched for its whole
// TTL, not earlier; and when it wakes, it can acknowledge nothing.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		a := d.acquire("a")
		must(t, a.Check(t.Context()))
		crash(a) // or paused: the process sees nothing of what follows
		time.Sleep(time.Hour)
		must(t, a.Check(t.Context())) // nobody wanted it

		began := time.Now()
		b := d.acquire("b")
		if waited := time.Since(began); waited < 30*time.Second || waited > 35*time.Second {
			t.Errorf("taken after %s", waited)
		}
		d.epoch(2, "b")
		must(t, b.Check(t.Context()))
		d.lost(a, 2)
		must(t, a.Release(t.Context())) // leaves b's alone
		must(t, b.Check(t.Context()))
		must(t, b.Release(t.Context()))
	})
}

// A renewing holder is left alone; who waits is told once, and follows soon
// after the release.
func TestLeaseHeld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		a := d.acquire("a")
		time.Sleep(time.Minute)
		var held *LeaseHeldError
		_, err := AcquireLease(t.Context(), d.l, d.options("b"))
		if !errors.As(err, &held) || held.Lease.Holder.Host != "a" || held.Here || held.Age < time.Minute || held.Age > 70*time.Second {
			t.Fatalf("%v: %+v", err, held)
		}
		if !strings.Contains(hferr.HintOf(err), "process 7") {
			t.Errorf("hint %q", hferr.HintOf(err))
		}

		told := 0
		o := d.options("c")
		o.Wait, o.OnWait = true, func(e *LeaseHeldError) { told++ }
		got := make(chan *Lease)
		go func() {
			c, err := AcquireLease(t.Context(), d.l, o)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		time.Sleep(10 * time.Minute)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
		d.epoch(1, "a")
		must(t, a.Release(t.Context()))
		must(t, a.Release(t.Context()))
		if err := a.Check(t.Context()); !errors.Is(err, ErrLeaseReleased) {
			t.Errorf("check after release: %v", err)
		}
		if a.Err() != nil {
			t.Errorf("a released lease is %v", a.Err())
		}
		c := <-got
		d.epoch(2, "c")
		must(t, c.Release(t.Context()))
		if l := d.read(); !l.Released || l.Epoch != 2 {
			t.Errorf("%+v", l)
		}
		d.acquire("d").Release(t.Context())
		d.epoch(3, "d")
	})
}

// Who waits in vain says for whom.
func TestLeaseWaitEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		a := d.acquire("a")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		o := d.options("b")
		o.Wait = true
		var held *LeaseHeldError
		if _, err := AcquireLease(ctx, d.l, o); !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &held) {
			t.Fatal(err)
		}
		must(t, a.Release(t.Context()))
	})
}

// What may be taken at once, and what is known at once.
func TestLeaseAtOnce(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		first, second func(*LeaseOptions)
		life          Life
		taken         bool
	}{
		"ended here":   {life: LifeEnded, taken: true},
		"runs here":    {life: LifeRuns},
		"backup":       {first: func(o *LeaseOptions) { o.Kind = repo.LeaseBackup }, life: LifeRuns, taken: true},
		"takeover":     {second: func(o *LeaseOptions) { o.Takeover = true }, life: LifeRuns, taken: true},
		"takes as one": {second: func(o *LeaseOptions) { o.Kind = repo.LeaseBackup }, life: LifeRuns},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				d.life = c.life
				o, p := d.options("a"), d.options("b")
				if c.first != nil {
					c.first(&o)
				}
				if c.second != nil {
					c.second(&p)
				}
				a, err := AcquireLease(t.Context(), d.l, o)
				must(t, err)
				began := time.Now()
				b, err := AcquireLease(t.Context(), d.l, p)
				if !time.Now().Equal(began) {
					t.Errorf("decided after %s", time.Since(began))
				}
				if !c.taken {
					var held *LeaseHeldError
					if !errors.As(err, &held) || !held.Here {
						t.Errorf("got %v", err)
					}
					must(t, a.Release(t.Context()))
					return
				}
				must(t, err)
				select { // by its next renewal, without a Check
				case <-a.Lost():
				case <-time.After(6 * time.Second):
					t.Error("the first holder does not notice")
				}
				d.lost(a, 2)
				must(t, b.Check(t.Context()))
				must(t, b.Release(t.Context()))
			})
		})
	}
}

// A report travels with the next renewal, at once when it changed, and one
// that is too large is left out rather than the lease lost.
func TestLeaseReport(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		var report atomic.Value // the keeper reads it
		report.Store("one")
		o := d.options("a")
		o.Report = func() any { return map[string]any{"durable": report.Load()} }
		a, err := AcquireLease(t.Context(), d.l, o)
		must(t, err)
		check := func(want string) {
			t.Helper()
			if l := d.read(); string(l.Report) != want {
				t.Fatalf("report %.40q, want %q", l.Report, want)
			}
		}
		check(`{"durable":"one"}`)
		report.Store("two")
		a.Nudge()
		synctest.Wait()
		check(`{"durable":"two"}`)
		report.Store("three")
		time.Sleep(6 * time.Second)
		check(`{"durable":"three"}`)
		report.Store(strings.Repeat("x", repo.MaxLeaseReport))
		a.Nudge()
		synctest.Wait()
		check("")
		if l, err := a.Held(); err != nil || l.Epoch != 1 || !l.Renewed.Equal(time.Now()) {
			t.Errorf("held %+v, %v", l, err)
		}
		must(t, a.Release(t.Context()))
	})
}

// noLeases is a lineage on a store without compare-and-swap.
type noLeases struct{ leaseStore }

func (noLeases) HasLeases() bool { return false }

func TestLeaseUnsupported(t *testing.T) {
	t.Parallel()
	var log strings.Builder
	o := LeaseOptions{Log: slog.New(slog.NewTextHandler(&log, nil))}
	k, err := acquireLease(t.Context(), noLeases{}, "pg-1", o)
	must(t, err)
	k.Nudge()
	k.Nudge()
	for range 3 {
		must(t, k.Check(t.Context()))
	}
	if l, err := k.Held(); err != nil || l.Epoch != 0 {
		t.Errorf("held %+v, %v", l, err)
	}
	must(t, k.Release(t.Context()))
	must(t, k.Check(t.Context()))
	if n := strings.Count(log.String(), "WARN"); n != 1 {
		t.Errorf("%d warnings: %s", n, log.String())
	}
}
