package wal

import (
	"context"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// EventSourceLost is Close's event when the source went away for good: its
// last known time is noted even without a beat.
const EventSourceLost = "source-lost"

// Close seals and stores what is open (reason "shutdown"), writes a note for
// beats that no segment carried or if event is EventSourceLost, and stops.
// ctx bounds it: what could not be stored by then is not durable, was never
// acknowledged, and Close says so. A second Close returns ErrClosed.
func (a *Archiver) Close(ctx context.Context, event string) error {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return ErrClosed
	}
	a.closed = true
	a.seal(reasonShutdown)
	err := a.drain(ctx)
	note := repo.Note{Branch: a.branch.ID, Written: a.o.Clock(), SourceTime: a.source, Beats: a.beats, Event: event}
	needed := a.begun && (len(note.Beats) > 0 || event == EventSourceLost)
	a.mu.Unlock()
	if err == nil && needed {
		err = a.persist(ctx, func(ctx context.Context) error { return a.store.PutNote(ctx, note) })
		if err != nil {
			err = a.finalize(fmt.Sprintf("note %d heartbeats", len(note.Beats)), err)
		}
	}
	a.cancel()
	a.wg.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.broadcast()
	return err
}
