package wal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// reader makes a plan and reader over [0, to) of branch b1.
func reader(t *testing.T, l *repo.Lineage, to Position) *Reader {
	t.Helper()
	p, err := MakePlan(t.Context(), l, "b1", 0, "b1", to)
	must(t, err)
	r, err := NewReader(t.Context(), l, p)
	must(t, err)
	t.Cleanup(r.Close)
	return r
}

func TestDamageIsNeverShort(t *testing.T) {
	for _, kind := range []faulty.Kind{faulty.Flip, faulty.Short, faulty.Cut} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, faults := lineage(t)
				branch(t, l, "b1", "", 0, 1)
				put(t, l, "b1", 0, 100)
				put(t, l, "b1", 100, 200)
				put(t, l, "b1", 50, 150)
				r := reader(t, l, 200)
				bad := Position(100).Key() + "-" + Position(200).Key()
				faults.set(faulty.Script(faulty.Rule{Op: faulty.Read, Key: bad, Times: -1, Fault: faulty.Fault{Kind: kind, At: 70}}))
				var buf bytes.Buffer
				err := r.Copy(t.Context(), "b1", 0, 200, &buf)
				if err == nil || errors.Is(err, ErrBeyondPlan) {
					t.Fatalf("a damaged segment: %v", err)
				}
				buf.Reset() // where another segment holds the same place, that one serves
				must(t, r.Copy(t.Context(), "b1", 100, 150, &buf))
				if !bytes.Equal(buf.Bytes(), logBytes("b1", 100, 150)) {
					t.Fatal("wrong bytes from the segment that overlaps")
				}
				r.Close()
			})
		})
	}
}

func TestOutagesArePassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, faults := lineage(t)
		branch(t, l, "b1", "", 0, 1)
		put(t, l, "b1", 0, 100)
		r := reader(t, l, 100)
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Read, Times: readAttempts - 1, Fault: faulty.Fault{Kind: faulty.Before}}))
		var buf bytes.Buffer
		must(t, r.Copy(t.Context(), "b1", 0, 100, &buf))
		if !bytes.Equal(buf.Bytes(), logBytes("b1", 0, 100)) {
			t.Fatal("wrong bytes")
		}
		r = reader(t, l, 100)
		faults.set(faulty.Script(faulty.Rule{Op: faulty.Read, Times: -1, Fault: faulty.Fault{Kind: faulty.Stall}}))
		if err := r.Copy(t.Context(), "b1", 0, 100, io.Discard); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("a store that hangs: %v", err)
		}
		r.Close()
	})
}

// counting counts the segments read from the store.
type counting struct {
	*repo.Lineage
	reads atomic.Int32
}

func (c *counting) ReadSegment(ctx context.Context, ref repo.SegmentRef) (*repo.SegmentMeta, []byte, error) {
	c.reads.Add(1)
	time.Sleep(time.Second) // in a bubble: everybody asks before the first answer
	return c.Lineage.ReadSegment(ctx, ref)
}

func TestReadersShareSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := lineage(t)
		branch(t, l, "b1", "", 0, 1)
		for p := Position(0); p < 1000; p += 100 {
			put(t, l, "b1", p, p+100)
		}
		p, err := MakePlan(t.Context(), l, "b1", 0, "b1", 1000)
		must(t, err)
		c := &counting{Lineage: l}
		r, err := newReader(t.Context(), c, p)
		must(t, err)
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				var buf bytes.Buffer
				if err := r.Copy(t.Context(), "b1", 0, 1000, &buf); err != nil || !bytes.Equal(buf.Bytes(), logBytes("b1", 0, 1000)) {
					t.Errorf("wrong bytes, %v", err)
				}
			})
		}
		wg.Wait()
		if n := c.reads.Load(); n != 10 {
			t.Errorf("10 segments were read %d times", n)
		}
		// A caller that gives up must not fail those who wait for the same segment.
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		c2, err := newReader(t.Context(), c, p)
		must(t, err)
		wg.Go(func() { _ = c2.Copy(ctx, "b1", 0, 10, io.Discard) })
		synctest.Wait()
		must(t, c2.Copy(t.Context(), "b1", 0, 10, io.Discard))
		wg.Wait()
		r.Close()
		c2.Close()
	})
}
