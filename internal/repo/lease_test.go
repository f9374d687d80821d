package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

func testLease(epoch uint64, nonce string) Lease {
	return Lease{
		Epoch: epoch, Kind: LeaseStream, Acquired: testTime, Renewed: testTime.Add(time.Second), TTL: Millis(30 * time.Second),
		Holder: LeaseHolder{Host: "db1", Boot: "b", PIDs: "pid:[1]", PID: 7, Started: 99, Nonce: nonce},
		Report: json.RawMessage(`{"durable":"10"}`),
	}
}

func TestLeaseStates(t *testing.T) {
	t.Parallel()
	ctx, st := t.Context(), newStore()
	l := makeLin(t, st)
	if _, v, err := l.ReadLease(ctx); !errors.Is(err, ErrNotFound) || v != "" {
		t.Fatalf("a lease before there is one: %q, %v", v, err)
	}
	one := testLease(1, "a")
	v1, err := l.SwapLease(ctx, "", one)
	if err != nil {
		t.Fatal(err)
	}
	got, v, err := l.ReadLease(ctx)
	if err != nil || v != v1 || !reflect.DeepEqual(*got, one) {
		t.Fatalf("%+v in state %q (%q swapped), %v", got, v, v1, err)
	}
	two := testLease(2, "b")
	two.Released, two.Report = true, nil
	for _, stale := range []LeaseVersion{"", "x"} {
		if _, err := l.SwapLease(ctx, stale, two); !errors.Is(err, ErrLeaseChanged) {
			t.Fatalf("swap of state %q: %v", stale, err)
		}
	}
	v2, err := l.SwapLease(ctx, v1, two)
	if err != nil || v2 == v1 {
		t.Fatalf("%q after %q, %v", v2, v1, err)
	}
	if _, err := l.SwapLease(ctx, v1, one); !errors.Is(err, ErrLeaseChanged) {
		t.Fatalf("swap of the state before: %v", err)
	}
	if got, _, err = l.ReadLease(ctx); err != nil || !reflect.DeepEqual(*got, two) {
		t.Fatalf("%+v, %v", got, err)
	}
	if got.Same(&one) || !got.Same(&two) {
		t.Error("a lease's holder is not told apart")
	}
}

func TestLeaseReport(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	most := testLease(1, "a")
	most.Report = fmt.Appendf(nil, "%q", strings.Repeat("x", MaxLeaseReport-2))
	v, err := l.SwapLease(t.Context(), "", most)
	if err != nil {
		t.Fatalf("%d bytes: %v", len(most.Report), err)
	}
	if got, _, err := l.ReadLease(t.Context()); err != nil || !bytes.Equal(got.Report, most.Report) {
		t.Fatalf("%d bytes read, %v", len(got.Report), err)
	}
	most.Report = append(most.Report, ' ')
	if _, err := l.SwapLease(t.Context(), v, most); err == nil {
		t.Fatal("a longer report was taken")
	}
}

// A swap whose reply was lost is found done; one that was not carried out is not.
func TestLeaseLostReply(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		fault faulty.Fault
		done  bool
	}{
		"lost":   {faulty.Fault{Kind: faulty.Lost}, true},
		"before": {faulty.Fault{Kind: faulty.Before}, false},
	}
	for name, c := range cases {
		st := faulty.Wrap(newStore(), faulty.Script(faulty.Rule{Op: faulty.Swap, Fault: c.fault}))
		l := makeLin(t, st)
		v, err := l.SwapLease(t.Context(), "", testLease(1, "a"))
		if c.done != (err == nil) || errors.Is(err, ErrLeaseChanged) {
			t.Fatalf("%s: %v", name, err)
		}
		if len(st.Injected()) != 1 {
			t.Fatalf("%s: faults %v", name, st.Injected())
		}
		if _, err := l.SwapLease(t.Context(), v, testLease(1, "a")); err != nil {
			t.Fatalf("%s: the next swap: %v", name, err)
		}
	}
}

// noSwap is a store without compare-and-swap.
type noSwap struct{ blob.Store }

func (s noSwap) Capabilities() blob.Capabilities {
	c := s.Store.Capabilities()
	c.Swap = false
	return c
}

func TestLeaseUnsupported(t *testing.T) {
	t.Parallel()
	st := faulty.Wrap(noSwap{newStore()}, func(c faulty.Call) faulty.Fault {
		if c.Op == faulty.Swap || c.Op == faulty.ReadVersion {
			return faulty.Fault{Kind: faulty.Before, Err: blob.ErrUnsupported}
		}
		return faulty.Fault{}
	})
	l := makeLin(t, st)
	if l.HasLeases() {
		t.Error("leases without swaps")
	}
	if _, _, err := l.ReadLease(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("read: %v", err)
	}
	if _, err := l.SwapLease(t.Context(), "", testLease(1, "a")); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("swap: %v", err)
	}
}

// A lease of another lineage, and one that says nothing, are damage.
func TestLeaseForged(t *testing.T) {
	t.Parallel()
	ctx, st := t.Context(), newStore()
	r, _ := makeRepo(t, st)
	var lins []*Lineage
	for _, id := range []string{"pg-7", "pg-8"} {
		info := testInfo()
		info.ID = id
		l, err := r.EnsureLineage(ctx, info)
		if err != nil {
			t.Fatal(err)
		}
		lins = append(lins, l)
	}
	if _, err := lins[0].SwapLease(ctx, "", testLease(1, "a")); err != nil {
		t.Fatal(err)
	}
	st.Put(leaseKey("pg-8"), st.Bytes(leaseKey("pg-7")))
	if _, _, err := lins[1].ReadLease(ctx); !errors.Is(err, ErrDamaged) {
		t.Errorf("moved: %v", err)
	}
	if _, err := lins[0].SwapLease(ctx, "", Lease{}); !errors.Is(err, ErrLeaseChanged) {
		t.Fatal(err)
	}
	body, err := lins[0].keys.sealDocument(typeLease, leaseKey("pg-7"), Lease{}, json.RawMessage("null"))
	if err != nil {
		t.Fatal(err)
	}
	st.Put(leaseKey("pg-7"), body)
	if _, _, err := lins[0].ReadLease(ctx); !errors.Is(err, ErrDamaged) {
		t.Errorf("empty: %v", err)
	}
}
