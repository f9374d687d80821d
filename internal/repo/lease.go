package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// MaxLeaseReport is the longest report a lease carries, bytes.
const MaxLeaseReport = 64 << 10

// Kinds of leases. Readers must expect others.
const (
	LeaseStream = "stream" // a continuous archiver
	LeaseBackup = "backup" // a one-shot backup that streams its own log; anybody may supersede it
)

// ErrLeaseChanged is returned by SwapLease when the lease is no longer the
// one the caller read.
var ErrLeaseChanged = errors.New("the lease changed meanwhile")

// Lease is lease.json (F26): who writes a lineage's log.
type Lease struct {
	Epoch    uint64      `json:"epoch"` // 1 for the first holder, one more for each next
	Kind     string      `json:"kind"`
	Holder   LeaseHolder `json:"holder"`
	Acquired time.Time   `json:"acquired"` // by the holder's clock, as is …
	Renewed  time.Time   `json:"renewed"`  // … this: for people, not for deciding
	TTL      Millis      `json:"ttl_ms"`   // unchanged for so long, it may be taken
	Released bool        `json:"released"` // the holder is done: it may be taken at once

	// Report is what the holder tells about itself: JSON, sealed, at most
	// MaxLeaseReport bytes.
	Report json.RawMessage `json:"-"`
}

// LeaseHolder names one holder. Nonce tells holders apart; the rest lets a
// process on the same host find out whether the holder still lives.
type LeaseHolder struct {
	Host    string `json:"host"`
	Boot    string `json:"boot,omitempty"` // id of the host's boot, empty if unknown
	PIDs    string `json:"pids,omitempty"` // the namespace PID counts in, empty if unknown
	PID     int    `json:"pid"`
	Started uint64 `json:"started,omitzero"` // the process's start, clock ticks since boot, 0 if unknown
	Nonce   string `json:"nonce"`            // random, one a holder
}

// Same reports whether l is m, or a later renewal of it.
func (l *Lease) Same(m *Lease) bool {
	return l.Epoch == m.Epoch && l.Holder.Nonce == m.Holder.Nonce
}

// Millis is a duration in JSON as whole milliseconds.
type Millis time.Duration

// MarshalJSON implements json.Marshaler.
func (m Millis) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(m).Milliseconds())
}

// UnmarshalJSON implements json.Unmarshaler.
func (m *Millis) UnmarshalJSON(b []byte) error {
	var ms int64
	if err := json.Unmarshal(b, &ms); err != nil {
		return err
	}
	*m = Millis(time.Duration(ms) * time.Millisecond)
	return nil
}

// LeaseVersion is the state of lease.json that was read; the zero value is
// that of none.
type LeaseVersion blob.Version

// HasLeases reports whether the store can hold leases at all. On one that
// cannot, ReadLease answers ErrNotFound and SwapLease fails.
func (l *Lineage) HasLeases() bool { return l.st.Capabilities().Swap }

// ReadLease reads the lineage's lease as it is now (F26). ErrNotFound if there
// never was one; ErrDamaged if it cannot be trusted.
func (l *Lineage) ReadLease(ctx context.Context) (*Lease, LeaseVersion, error) {
	key := leaseKey(l.keys.lineage)
	body, v, err := l.st.ReadVersion(ctx, key)
	if errors.Is(err, blob.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", blob.ErrNotFound, err)
	}
	if err != nil {
		return nil, "", storeErr(key, err)
	}
	lease, err := l.openLease(body)
	if err != nil {
		return nil, "", hferr.New("read the lease of lineage "+l.keys.lineage, err,
			"make sure that no holdfast writes this lineage, then move "+key+" away: the next writer makes a new one")
	}
	return lease, LeaseVersion(v), nil
}

func (l *Lineage) openLease(body []byte) (*Lease, error) {
	key := leaseKey(l.keys.lineage)
	var lease Lease
	if err := l.keys.openDocument(body, typeLease, key, &lease, &lease.Report); err != nil {
		return nil, err
	}
	if string(lease.Report) == "null" {
		lease.Report = nil
	}
	if lease.Epoch == 0 || lease.Holder.Nonce == "" {
		return nil, fmt.Errorf("%s: %w: epoch %d, nonce %q", key, ErrDamaged, lease.Epoch, lease.Holder.Nonce)
	}
	return &lease, nil
}

// SwapLease replaces the lease that was read as old (F26), durably, and
// returns the state to replace next. A failed or refused swap is looked up:
// if the very bytes of this call are there, it was carried out and counts so.
// ErrLeaseChanged: it was not and will not be. After any other error it may
// still be, so that a later call for old can find it done (see blob.Swapper).
func (l *Lineage) SwapLease(ctx context.Context, old LeaseVersion, lease Lease) (LeaseVersion, error) {
	if err := l.writable(); err != nil {
		return "", err
	}
	key := leaseKey(l.keys.lineage)
	if len(lease.Report) > MaxLeaseReport {
		return "", fmt.Errorf("%s: a report of %d bytes, at most %d", key, len(lease.Report), MaxLeaseReport)
	}
	if lease.Report == nil {
		lease.Report = json.RawMessage("null")
	}
	lease.Acquired, lease.Renewed = lease.Acquired.UTC(), lease.Renewed.UTC()
	// The seal's salt makes every body unique, so bytes tell whose it is.
	body, err := l.keys.sealDocument(typeLease, key, lease, lease.Report)
	if err != nil {
		return "", err
	}
	v, err := l.st.Swap(ctx, key, blob.Version(old), body)
	if err == nil {
		return LeaseVersion(v), nil
	}
	now, v, rerr := l.st.ReadVersion(ctx, key)
	switch {
	case rerr == nil && bytes.Equal(now, body):
		return LeaseVersion(v), nil
	case errors.Is(err, blob.ErrChanged):
		return "", fmt.Errorf("%s: %w: %w", key, ErrLeaseChanged, err)
	}
	return "", fmt.Errorf("swap %s: %w", key, err)
}
