package wal

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// A store that is away is retried, shows, and loses nothing; and a release
// that it refuses can be made again.
func TestLeaseOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		a := d.acquire("a")
		away := func(k faulty.Kind) {
			d.faults.set(faulty.Script(faulty.Rule{Match: func(key string) bool { return strings.HasSuffix(key, "lease.json") }, Times: -1, Fault: faulty.Fault{Kind: k}}))
		}
		for _, kind := range []faulty.Kind{faulty.Before, faulty.Stall} {
			away(kind)
			time.Sleep(10 * time.Minute)
			if _, err := a.Held(); err == nil || a.Err() != nil {
				t.Fatalf("%s: renewal %v, lease %v", kind, err, a.Err())
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if err := a.Check(ctx); err == nil || errors.Is(err, ErrLeaseLost) {
				t.Fatalf("%s: check %v", kind, err)
			}
			cancel()
			if _, err := AcquireLease(t.Context(), d.l, d.options("b")); err == nil {
				t.Fatalf("%s: acquired from a store that is away", kind)
			}
			d.faults.set(nil)
			time.Sleep(30 * time.Second)
			if _, err := a.Held(); err != nil {
				t.Fatalf("%s: after it: %v", kind, err)
			}
			must(t, a.Check(t.Context()))
		}
		away(faulty.Before)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := a.Release(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		d.faults.set(nil)
		if err := a.Check(t.Context()); !errors.Is(err, ErrLeaseReleased) || d.read().Released {
			t.Errorf("check while the release waits for the store: %v", err)
		}
		must(t, a.Release(t.Context()))
		if !d.read().Released {
			t.Error("not released")
		}
	})
}

// A lease that was removed is lost, not made again.
func TestLeaseRemoved(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		a := d.acquire("a")
		must(t, d.store.Delete(t.Context(), "l/pg-1/lease.json"))
		time.Sleep(6 * time.Second)
		var e *LeaseLostError
		if err := a.Check(t.Context()); !errors.As(err, &e) || e.By != nil {
			t.Fatal(err)
		}
		if _, _, err := d.l.ReadLease(t.Context()); !errors.Is(err, repo.ErrNotFound) {
			t.Fatal(err)
		}
	})
}

// TestLeaseLostReplies: every way in which a swap of an acquisition, a renewal
// or a release can fail, with the look-up after it failing too.
func TestLeaseLostReplies(t *testing.T) {
	t.Parallel()
	for _, swap := range []faulty.Kind{faulty.Before, faulty.Lost, faulty.Stall} {
		for reads := range 3 { // look-ups that fail after it
			synctest.Test(t, func(t *testing.T) {
				d := newDesk(t)
				inject := func() {
					failed := false
					d.faults.set(func(c faulty.Call) faulty.Fault {
						switch {
						case c.Op == faulty.Swap && !failed:
							failed = true
							return faulty.Fault{Kind: swap}
						case c.Op == faulty.ReadVersion && failed && reads > 0:
							reads--
							return faulty.Fault{Kind: faulty.Before}
						}
						return faulty.Fault{}
					})
				}
				n := reads
				inject()
				a := d.acquire("a")
				reads = n
				inject()
				time.Sleep(time.Minute)
				d.faults.set(nil)
				must(t, a.Check(t.Context()))
				reads = n
				inject()
				must(t, a.Release(t.Context()))
				d.faults.set(nil)
				hist := d.history()
				for i, l := range hist {
					if l.Epoch != 1 || l.Released != (i == len(hist)-1) {
						t.Errorf("swap %s, %d reads: state %d of %d is epoch %d, released %v", swap, n, i, len(hist), l.Epoch, l.Released)
					}
				}
			})
		}
	}
}

// TestLeaseLateSwaps: a request that was given up is carried out after all,
// just before the one that replaces it: of an acquisition, a renewal, a
// release, and a renewal before a release.
func TestLeaseLateSwaps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		delay := func() {
			d.store.mu.Lock()
			defer d.store.mu.Unlock()
			d.store.delay = true
		}
		delay()
		a := d.acquire("a")
		d.epoch(1, "a")
		delay()
		time.Sleep(time.Minute)
		if held, err := a.Held(); err != nil || !held.Renewed.Equal(d.read().Renewed) {
			t.Fatalf("held %+v, %v; stored %+v", held, err, d.read())
		}
		must(t, a.Check(t.Context()))
		delay()
		must(t, a.Release(t.Context()))
		if !d.read().Released {
			t.Error("not released")
		}

		b := d.acquire("b")
		d.epoch(2, "b")
		delay()
		b.Nudge()
		synctest.Wait() // the renewal has failed, and is under way
		must(t, b.Release(t.Context()))
		if l := d.read(); !l.Released || l.Epoch != 2 {
			t.Errorf("%+v", l)
		}
		for i, l := range d.history() {
			if l.Epoch > 2 {
				t.Errorf("state %d has epoch %d", i, l.Epoch)
			}
		}
	})
}

// TestLeaseChaos lets three keepers contend over a store with faults: the
// epoch only rises, by one a holder, and each epoch is one holder's.
func TestLeaseChaos(t *testing.T) {
	t.Parallel()
	for seed := range uint64(5) {
		synctest.Test(t, func(t *testing.T) {
			d := newDesk(t)
			d.faults.set(faulty.Seeded(seed, 0.4, faulty.Before, faulty.Lost))
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			var wg sync.WaitGroup
			for i, host := range []string{"a", "b", "c"} {
				wg.Go(func() {
					for n := time.Duration(1); ctx.Err() == nil; n++ {
						o := d.options(host)
						o.Wait, o.Takeover = true, n%5 == 0
						k, err := AcquireLease(ctx, d.l, o)
						if err != nil {
							continue // the time is over
						}
						select {
						case <-k.Lost():
						case <-time.After(n * time.Duration(i+1) * 7 * time.Second):
						}
						if n%3 == 0 {
							crash(k)
							continue
						}
						must(t, k.Release(t.Context()))
					}
				})
			}
			wg.Wait()
			d.faults.set(nil)
			hist := d.history()
			holders := map[uint64]string{}
			last := uint64(0)
			for i, l := range hist {
				if l.Epoch != last && l.Epoch != last+1 {
					t.Fatalf("seed %d: state %d has epoch %d after %d", seed, i, l.Epoch, last)
				}
				last = l.Epoch
				if h := holders[l.Epoch]; h != "" && h != l.Holder.Nonce {
					t.Fatalf("seed %d: epoch %d has two holders", seed, l.Epoch)
				}
				holders[l.Epoch] = l.Holder.Nonce
			}
			if last < 10 || len(hist) < 50 {
				t.Errorf("seed %d: only %d epochs in %d states", seed, last, len(hist))
			}
		})
	}
}
