package spool

import (
	"errors"
	"os"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// TestVolatile: a directory in memory is refused. /dev/shm is one by the
// kernel's own convention (Documentation/filesystems/tmpfs.rst).
func TestVolatile(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "spool-test-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	if _, err := OpenDir(t.Context(), dir, lineage(t, true), small()); !errors.Is(err, ErrVolatile) || hferr.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
