package consistency

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// fakePulse is a source whose nth beat behaves as told.
type fakePulse struct {
	n        int64
	connects int
	setups   int
	open     int
	refuse   int // so many connects fail
	beat     func(ctx context.Context, n int64) error
}

func (f *fakePulse) connect(context.Context) (Pulse, error) {
	f.connects++
	if f.connects <= f.refuse {
		return nil, errors.New("refused")
	}
	f.open++
	return f, nil
}

func (f *fakePulse) Setup(context.Context) error { f.setups++; return nil }
func (f *fakePulse) Close() error                { f.open--; return nil }
func (f *fakePulse) Beat(ctx context.Context) (repo.Beat, error) {
	f.n++
	n := f.n
	if f.beat != nil {
		if err := f.beat(ctx, n); err != nil {
			return repo.Beat{}, err
		}
	}
	return repo.Beat{N: n, At: time.Now()}, nil
}

// beatFor runs the heartbeat in fake time.
func beatFor(d time.Duration, f *fakePulse, every time.Duration) (ns []int64, at []time.Duration, errs []error) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	Run(ctx, f.connect, every, func(b repo.Beat) {
		ns, at = append(ns, b.N), append(at, b.At.Sub(start))
	}, func(err error) { errs = append(errs, err) }, nil)
	return ns, at, errs
}

// A slow beat neither shifts the later ones nor is made up for in a burst.
func TestPeriodIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakePulse{beat: func(_ context.Context, n int64) error {
			time.Sleep(100 * time.Millisecond)
			if n == 3 {
				time.Sleep(2500 * time.Millisecond)
			}
			return nil
		}}
		_, at, errs := beatFor(7500*time.Millisecond, f, time.Second)
		ms := time.Millisecond
		want := []time.Duration{100 * ms, 1100 * ms, 4600 * ms, 4700 * ms, 5100 * ms, 6100 * ms, 7100 * ms}
		if !reflect.DeepEqual(at, want) || len(errs) > 0 || f.open != 0 {
			t.Errorf("beats at %v, errors %v, %d left open", at, errs, f.open)
		}
	})
}

func TestFailuresDoNotStopIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakePulse{refuse: 3, beat: func(ctx context.Context, n int64) error {
			switch n {
			case 2: // hangs: given up, its commit in doubt, so it is not recorded
				<-ctx.Done()
				return ctx.Err()
			case 4:
				return errors.New("connection lost")
			}
			return nil
		}}
		ns, _, errs := beatFor(time.Minute, f, time.Second)
		if len(ns) < 10 || ns[0] != 1 || ns[1] != 3 || ns[2] != 5 || ns[3] != 6 {
			t.Errorf("recorded %v", ns)
		}
		if len(errs) != 5 || f.setups != 3 || f.open != 0 {
			t.Errorf("%d errors, %d setups, %d left open", len(errs), f.setups, f.open)
		}
	})
}

// While a server is away, attempts become rarer but never stop.
func TestBackoffIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fakePulse{refuse: 1 << 30}
		_, _, errs := beatFor(time.Hour, f, time.Second)
		if n := len(errs); n < 3600/45 || n > 600 {
			t.Errorf("%d attempts in an hour", n)
		}
	})
}
