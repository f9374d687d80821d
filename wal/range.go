package wal

import (
	"bytes"
	"context"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// ReadRange returns [from, to) of the log held, as seen on a branch: bytes
// before its fork come from its ancestors. *GapError if a byte is missing.
func ReadRange(ctx context.Context, l *repo.Lineage, branch string, from, to Position) ([]byte, error) {
	p, err := MakePlan(ctx, l, branch, from, branch, to)
	if err != nil {
		return nil, err
	}
	r, err := NewReader(ctx, l, p)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var b bytes.Buffer
	err = r.Copy(ctx, branch, from, to, &b)
	return b.Bytes(), err
}
