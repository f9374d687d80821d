package spool

import (
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// TestConcurrent: one goroutine takes log, others make it durable, trim it
// and look: nothing beyond what was taken is ever called durable, and what
// was not trimmed is there at the end.
func TestConcurrent(t *testing.T) {
	disk, seal := crashfs.New(1, nil), lineage(t, true)
	s := open(t, disk, seal, Options{Limit: 8 << 20, FileBytes: 16 << 10})
	must(t, s.Begin("b", 0))
	var mu sync.Mutex
	var wg sync.WaitGroup
	taken, durable, trimmed := Position(0), Position(0), Position(0)
	stop := make(chan struct{})
	loop := func(do func() error) { wg.Go(func() { repeat(t, stop, do) }) }
	syncer := func() error {
		p, err := s.Sync()
		mu.Lock()
		defer mu.Unlock()
		if p.Pos > taken {
			t.Errorf("durable through %d, taken through %d", p.Pos, taken)
		}
		durable = max(durable, p.Pos)
		return err
	}
	loop(syncer)
	loop(syncer)
	loop(func() error {
		time.Sleep(time.Millisecond)
		mu.Lock()
		trimmed = durable / 2
		upTo := trimmed
		mu.Unlock()
		return s.Trim("b", upTo)
	})
	loop(func() error { _ = s.Held(); time.Sleep(100 * time.Microsecond); return nil })
	for i := range 2000 {
		mu.Lock()
		at := taken
		taken += 500
		mu.Unlock()
		must(t, s.Append(at, text("b", at, 500), epoch))
		if i%50 == 0 {
			must(t, s.Beat(repo.Beat{N: int64(i), At: epoch, Pos: at}))
		}
	}
	close(stop)
	wg.Wait()
	must(t, s.Close())
	s = open(t, disk, seal, small())
	if h := s.Held(); len(h.Ranges) != 1 || h.Ranges[0].Start > trimmed || h.Ranges[0].End != taken || h.Damage != nil {
		t.Errorf("%+v, trimmed through %d, taken through %d", h, trimmed, taken)
	}
	if got, err := replay(t, s); err != nil || len(got) == 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// repeat calls do until stop is closed.
func repeat(t *testing.T, stop <-chan struct{}, do func() error) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := do(); err != nil {
			t.Error(err)
			return
		}
	}
}
