package spool

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// OpenDir opens the spool in a directory of the operating system (Open says
// how), which it makes if it is missing (mode 0700). It refuses a file system
// in memory (ErrVolatile), and one without room for what the limit allows.
func OpenDir(ctx context.Context, dir string, seal Sealer, o Options) (*Spool, error) {
	what := "open the spool in " + dir
	fsys, err := diskfs.OpenOS(dir, true)
	if err != nil {
		return nil, hferr.New(what, err, "give the spool a directory on a local disk that this user may write")
	}
	d, err := diskOf(dir)
	if err == nil && d.volatile {
		err = fmt.Errorf("%w: it is a %s", ErrVolatile, d.kind)
	}
	if err != nil {
		return nil, errors.Join(hferr.New(what, err,
			"a spool answers for log that a crash must not lose: give it a directory on a local disk, or use durability: store"),
			fsys.Close())
	}
	if d.warning != "" && o.Log != nil {
		o.Log.Warn(d.warning, "directory", dir, "file_system", d.kind)
	}
	s, err := Open(ctx, fsys, dir, seal, o)
	if err != nil {
		return nil, errors.Join(err, fsys.Close())
	}
	s.owned = true
	if room := d.free + s.Held().Bytes; room < o.Limit {
		err := fmt.Errorf("%d bytes are free for a spool of up to %d: %w", room, o.Limit, syscall.ENOSPC)
		return nil, errors.Join(hferr.New(what, err, "free space on this file system, or lower the spool's limit"), s.abandon())
	}
	return s, nil
}

// abandon releases a spool that was opened and not used.
func (s *Spool) abandon() error { return errors.Join(s.unlock(), s.fs.Close()) }

// disk is the file system a directory is on.
type disk struct {
	kind     string
	volatile bool   // in memory
	warning  string // what its user should know
	free     int64  // bytes this process may take
}
