//go:build !linux

package spool

import (
	"errors"
	"fmt"
)

// diskOf cannot tell a file system in memory here, so it vouches for none.
func diskOf(dir string) (disk, error) {
	return disk{}, fmt.Errorf("whether %s is on a disk: %w", dir, errors.ErrUnsupported)
}
