package blobtest

import (
	"context"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// RunOnly runs one check by name, without cleaning up.
func RunOnly(ctx context.Context, s blob.Store, prefix, name string) (Result, bool) {
	for _, c := range checks() {
		if c.name == name {
			return result(name, c.run(ctx, s, prefix+"/"+name)), true
		}
	}
	return Result{}, false
}
