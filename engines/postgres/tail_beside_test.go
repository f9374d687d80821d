package postgres

import (
	"context"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// TestAnotherWriterStoresWhileWeLook: a one-shot backup's own log (or a
// stream that is still draining) may store what the server wrote after it was
// asked for its end. That is no server put back to an older state.
func TestAnotherWriterStoresWhileWeLook(t *testing.T) {
	s := newSite(t, "15", nil, "create table t (i int)")
	log := s.source().Log()
	if err := log.Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	var end repo.Position
	held := func(_ context.Context, branch string) ([]wal.Range, error) {
		s.exec("insert into t select generate_series(1, 1000)")
		end = s.flushLog()
		return []wal.Range{{Branch: branch, Start: 0, End: end}}, nil
	}
	stop, ready := background(t, log, engines.TailOptions{Held: held}, newMemoryIntake())
	at, ok := <-ready
	if err := stop(); err != nil || !ok {
		t.Fatalf("the stream did not begin: %v", err)
	}
	if at != end {
		t.Errorf("it began at %s, the archive ends at %s", FormatLSN(at), FormatLSN(end))
	}
}

// TestAOneShotSlotIsNoStreamer: a backup that streams its own log ends with
// that backup; nobody else may rely on it.
func TestAOneShotSlotIsNoStreamer(t *testing.T) {
	s := newSite(t, "15", nil)
	log := s.source().Log()
	_, ready := background(t, log, engines.TailOptions{Temporary: true}, newMemoryIntake())
	if _, ok := <-ready; !ok {
		t.Fatal("it did not begin")
	}
	slots, err := log.Retained(t.Context())
	if err != nil || len(slots) != 1 || !slots[0].Active {
		t.Fatalf("%+v, %v", slots, err)
	}
	if slots[0].Ours {
		t.Errorf("%s counts as a live streamer", slots[0].Name)
	}
}
