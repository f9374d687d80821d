package agent

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/wal"
)

// A store that takes packs but no log ends a one-shot backup by itself, with
// the log that is missing; nothing waits for ever.
func TestBackupGivesUpOnLogThatIsNotStored(t *testing.T) {
	l := newLab(t, faulty.Script(faulty.Rule{Op: faulty.Create, Key: "/log/", Times: -1, Fault: faulty.Fault{Kind: faulty.Before}}))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err := l.deps.Backup(ctx, BackupRequest{Source: l.source(), Database: "orders", Fast: true, Stream: l.opts, LogWait: 500 * time.Millisecond})
	var gap *wal.GapError
	if !errors.As(err, &gap) || ctx.Err() != nil {
		t.Fatalf("%v (context: %v)", err, ctx.Err())
	}
	if n := l.backups(); n != 0 {
		t.Errorf("%d backups are listed", n)
	}
}
