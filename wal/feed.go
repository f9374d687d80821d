package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ErrBeyondPlan is a feed's answer for a name outside the plan: the replay
// may end there. Any other error means that replay must not go on.
var ErrBeyondPlan = errors.New("not in this plan")

// Feed serves a replay's log by the names its engine asks for.
type Feed interface {
	// Fetch writes the named piece to w. ErrBeyondPlan only if the plan does
	// not hold it, and then before a byte was written; any other error is a
	// hard stop. Safe for concurrent use.
	Fetch(ctx context.Context, name string, w io.Writer) error
}

// Sequence is a Feed whose pieces are asked for in a known order, so that they
// can be prepared before.
type Sequence interface {
	Feed
	// Run lists up to n names from name on, in the order a replay asks for
	// them. Empty if name is not one of them: beyond the plan, or a piece
	// outside the order (a timeline history file).
	Run(name string, n int) []string
	// PieceSize is the size of every piece in a Run, bytes.
	PieceSize() int64
}

// FetchToFile lets fetch write to a temporary file beside dst and renames it
// to dst when it is complete; nothing is left behind on failure. The file is
// not fsynced: a server that crashes during replay fetches it again.
func FetchToFile(ctx context.Context, fetch func(ctx context.Context, w io.Writer) error, dst string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(dst), "."+filepath.Base(dst)+".*.tmp")
	if err != nil {
		return fmt.Errorf("make a file for the log: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // closed twice after a failed Close: harmless
			_ = os.Remove(f.Name())
		}
	}()
	if err := fetch(ctx, f); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the log's file: %w", err)
	}
	if err := os.Rename(f.Name(), dst); err != nil {
		return fmt.Errorf("put the log's file in place: %w", err)
	}
	return nil
}
