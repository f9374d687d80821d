package wal

import (
	"context"
	"errors"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// ErrSpoolFull: the spool takes nothing until the store has taken some.
var ErrSpoolFull = errors.New("the spool is full")

// Point is a position on its branch.
type Point struct {
	Branch string
	Pos    Position
}

// Spool keeps log on this host's disk until the store has it, so that it may
// be acknowledged before. wal/spool has the one there is. Safe for concurrent
// use.
type Spool interface {
	// Begin says where what follows belongs. Bytes that were appended before
	// stay, also where the new ones overlap them.
	Begin(branch string, at Position) error
	// Append takes log; it is not durable yet. ErrSpoolFull: nothing was
	// taken; every other error is for good.
	Append(at Position, data []byte, sent time.Time) error
	// Beat keeps a heartbeat with the log.
	Beat(b repo.Beat) error
	// Sync makes durable what was appended before the call, and returns the
	// end of what is durable. An error is for good: nothing more becomes so.
	Sync() (Point, error)
	// Read returns appended bytes.
	Read(branch string, from, to Position) ([]byte, error)
	// Trim says that the store holds a branch's log before a position.
	Trim(branch string, upTo Position) error
}

// spool appends a chunk, waiting while the spool is full. Called with the
// lock, which it gives up.
func (a *Archiver) spool(ctx context.Context, c Chunk) error {
	for {
		a.mu.Unlock()
		err := a.o.Spool.Append(c.Pos, c.Data, c.SentTime)
		a.mu.Lock()
		if err == nil {
			break
		}
		if !errors.Is(err, ErrSpoolFull) {
			a.fail(spoolFailed(err))
			return a.err
		}
		if !a.full {
			a.full = true
			a.o.Log.Warn("the spool is full: nothing more is received until the store has taken some of it", "branch", a.branch.ID, "stored", a.stored.Key())
		}
		if len(a.queue) == 0 {
			a.seal(reasonSize) // what is open takes room, too
		}
		if err := a.wait(ctx); err != nil {
			return err
		}
		if err := a.usable(); err != nil {
			return err
		}
	}
	if a.full {
		a.full = false
		a.o.Log.Info("the spool has room again", "branch", a.branch.ID, "stored", a.stored.Key())
	}
	a.wakeSync()
	return nil
}

func (a *Archiver) wakeSync() {
	select {
	case a.appended <- struct{}{}:
	default: // a sync that has not begun yet covers these bytes as well
	}
}

func spoolFailed(err error) error {
	return hferr.New("spool the log", err,
		"Nothing that the spool could not take was acknowledged, and the server keeps what the store lacks. Mend or replace the spool's disk, then start streaming again.")
}

// syncSpool makes durable what was appended, as long as something was. Bytes
// that arrive during one fsync share the next.
func (a *Archiver) syncSpool() {
	for {
		select {
		case <-a.appended:
		case <-a.ctx.Done():
			return
		}
		a.mu.Lock()
		run := a.spoolRun
		a.mu.Unlock()
		end, err := a.o.Spool.Sync()
		a.mu.Lock()
		switch {
		case err != nil:
			a.fail(spoolFailed(err))
		case run != a.spoolRun:
			a.wakeSync() // it may speak of bytes that another run has replaced
		case end.Branch == a.branch.ID && end.Pos > a.synced:
			// At most the end: after a rewind the spool may hold more than
			// was written since.
			a.synced = min(end.Pos, a.end)
			a.broadcast()
		}
		a.mu.Unlock()
	}
}

func (a *Archiver) beginSpool(branch string, at Position) error {
	if a.o.Spool == nil {
		return nil
	}
	if err := a.o.Spool.Begin(branch, at); errors.Is(err, ErrSpoolFull) {
		return err // there will be room
	} else if err != nil {
		a.fail(spoolFailed(err))
		return a.err
	}
	a.spoolRun++
	a.wakeSync()
	return nil
}

func (a *Archiver) spoolBeat(b repo.Beat) {
	if err := a.o.Spool.Beat(b); err != nil && !errors.Is(err, ErrSpoolFull) {
		a.o.Log.Warn("a heartbeat was not spooled; it travels with the next segment only", "beat", b.N, "err", err)
		return
	}
	a.wakeSync()
}

func (a *Archiver) trimSpool(branch string, upTo Position) {
	if a.o.Spool == nil || branch == "" {
		return
	}
	if err := a.o.Spool.Trim(branch, upTo); err != nil {
		a.o.Log.Warn("the spool could not be trimmed", "branch", branch, "err", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broadcast() // there may be room again
}

// shed drops n bytes of waiting segments from memory, those that are needed
// last first: they can be read back from the spool. There may be fewer.
func (a *Archiver) shed(n int) {
	for i := len(a.queue) - 1; i >= 0 && n > 0; i-- {
		if s := a.queue[i]; !s.started && s.data != nil {
			n -= len(s.data)
			a.buffers.give(s.data)
			s.data = nil
		}
	}
}
