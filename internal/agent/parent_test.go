package agent

import (
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

// A parent whose map is gone or damaged is no parent: the next backup is full,
// and every one after it works.
func TestBackupAfterALostMapIsFull(t *testing.T) {
	l := newLab(t, faulty.Script(faulty.Rule{Op: faulty.Read, Key: "/map", Times: -1, Fault: faulty.Fault{Kind: faulty.Flip, At: 200}}))
	if _, err := l.backup(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := l.backup(t.Context())
	if err != nil {
		t.Fatalf("a damaged map of the last backup stopped the next one: %v", err)
	}
	if second.Manifest.Parent != "" {
		t.Errorf("it shares with %s, whose map cannot be read", second.Manifest.Parent)
	}
}
