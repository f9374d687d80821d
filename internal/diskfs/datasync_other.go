//go:build !linux

package diskfs

import "os"

// datasync: not every system has fdatasync, and on some it does not reach the
// medium; Sync does.
func datasync(f *os.File) error { return f.Sync() }
