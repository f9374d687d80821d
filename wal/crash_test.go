package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

// TestAcknowledgedIsReadable is promise 1: over a store that fails before and
// after its work and hangs, with the process killed at random, every byte
// ever reported durable can be read back, byte for byte, and each run that
// resumes from what the store holds ends without a hole.
func TestAcknowledgedIsReadable(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { crashes(t, seed) })
		})
	}
}

func crashes(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	l, faults := lineage(t)
	var acknowledged Position
	for run := range 4 {
		refs, err := l.Segments(t.Context(), "b1", 0)
		must(t, err)
		resume := FirstMissing(Coverage(refs), 0)
		if resume < acknowledged {
			t.Fatalf("run %d: acknowledged through %d, held through %d", run, acknowledged, resume)
		}
		resume -= min(resume, Position(rng.IntN(50))) // an engine may start a little earlier
		faults.set(faulty.Seeded(seed*100+uint64(run), 0.3, faulty.Before, faulty.Lost, faulty.Stall))
		a := NewArchiver(l, ArchiverOptions{
			FlushEvery: 50 * time.Millisecond, MaxSegment: 64 + rng.IntN(500), MaxPending: 2000, Stall: 3 * time.Second,
		})
		end := writeSome(t, a, resume, rng)
		if d := a.Durable(); d > end || d < resume {
			t.Fatalf("durable %d outside [%d, %d]", d, resume, end)
		}
		acknowledged = max(acknowledged, a.Durable())
		kill(a)
		faults.set(nil)
		if acknowledged > 0 {
			held(t, l, "b1", 0, acknowledged)
		}
	}
	if acknowledged == 0 {
		t.Fatal("nothing was ever acknowledged: the test proves nothing")
	}
}

// writeSome sends up to a thousand chunks and stops at any point.
func writeSome(t *testing.T, a *Archiver, from Position, rng *rand.Rand) Position {
	t.Helper()
	must(t, a.Begin(t.Context(), root, from, nil))
	end := from
	for range rng.IntN(1000) {
		next := end + Position(1+rng.IntN(40))
		must(t, a.Write(t.Context(), chunk("b1", end, next)))
		end = next
		if rng.IntN(10) == 0 {
			time.Sleep(time.Duration(rng.IntN(100)) * time.Millisecond)
		}
		if rng.IntN(200) == 0 && end > from { // the connection breaks and starts a little earlier
			end = from + Position(rng.IntN(int(end-from)))
			must(t, a.Begin(t.Context(), root, end, nil))
		}
	}
	return max(end, a.Durable())
}

// kill ends an archiver as a killed process would: nothing is sealed, noted
// or waited for.
func kill(a *Archiver) {
	a.mu.Lock()
	a.fail(errors.New("killed"))
	a.mu.Unlock()
	a.wg.Wait()
}
