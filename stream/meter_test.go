package stream

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestMeter(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	m := NewMeter(func() time.Time { return now })
	if s := m.Snapshot(); s.ETA >= 0 || s.Rate != 0 {
		t.Errorf("at the start: %+v", s)
	}
	m.Total(1000)
	m.Item("a")
	m.Stored(7)
	for range 3 {
		m.Read(100)
		now = now.Add(time.Second)
		if s := m.Snapshot(); s.Rate < 99.9 || s.Rate > 100.1 {
			t.Errorf("a steady rate: %+v", s)
		}
	}
	s := m.Snapshot()
	if s.ETA.Round(time.Second) != 7*time.Second || s.Item != "a" || s.Stored != 7 || s.Elapsed != 3*time.Second {
		t.Errorf("%+v", s)
	}
	now = now.Add(rateHalfLife) // nothing moved for a half-life
	if s := m.Snapshot(); s.Rate < 49 || s.Rate > 51 {
		t.Errorf("after a stall: %+v", s)
	}
	m.Read(700)
	if s := m.Snapshot(); s.ETA != 0 {
		t.Errorf("at the end: %+v", s)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	if _, err := NewBudget(MinBudget - 1); err == nil {
		t.Error("too small a budget was made")
	}
	b, err := NewBudget(MinBudget)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Acquire(t.Context(), MinBudget+1); err == nil {
		t.Error("more than the whole was granted")
	}
	if err := b.Acquire(t.Context(), MinBudget-10); err != nil {
		t.Fatal(err)
	}
	if !b.TryAcquire(10) || b.TryAcquire(1) {
		t.Error("TryAcquire miscounts")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	done := make(chan error)
	go func() { done <- b.Acquire(ctx, 20) }()
	for !b.contended() {
		time.Sleep(time.Millisecond)
	}
	b.Release(10)
	if b.TryAcquire(5) {
		t.Error("TryAcquire passed somebody who waits")
	}
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	go func() { done <- b.Acquire(t.Context(), 20) }()
	for !b.contended() {
		time.Sleep(time.Millisecond)
	}
	b.Release(10)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if b.InUse() != MinBudget || b.HighWater() != MinBudget {
		t.Errorf("%d in use, %d at most", b.InUse(), b.HighWater())
	}
}
