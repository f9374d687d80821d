package verify_test

import (
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/verify"
)

// A lease is read like every other object: sound it is no finding, damaged
// it is one.
func TestScrubLease(t *testing.T) {
	t.Parallel()
	l := emptyLab(t)
	scrub := func() []repo.Finding {
		s, err := verify.ScrubLineage(t.Context(), l.lineage, time.Now, nil)
		l.must(err)
		return s.Findings
	}
	if f := scrub(); len(f) != 0 {
		t.Fatalf("without a lease: %v", f)
	}
	_, err := l.lineage.SwapLease(t.Context(), "", repo.Lease{Epoch: 1, Kind: repo.LeaseStream, Holder: repo.LeaseHolder{Nonce: "n"}})
	l.must(err)
	if f := scrub(); len(f) != 0 {
		t.Fatalf("with a lease: %v", f)
	}
	const key = "l/fake-42/lease.json"
	body := l.store.Bytes(key)
	body[len(body)/2] ^= 1
	l.store.Put(key, body)
	if f := scrub(); len(f) != 1 || f[0].Code != "lease" || f[0].Severity != "error" {
		t.Fatalf("with a damaged lease: %v", f)
	}
}
