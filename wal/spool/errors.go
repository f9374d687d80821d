package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the spool is closed")
	// ErrFull: the limit would be passed; nothing was taken. Trim makes room.
	ErrFull = wal.ErrSpoolFull
	// ErrFailed: a write or fsync failed. It is final for this Spool: after a
	// failed fsync the kernel may report success for data it has dropped. A
	// new process may open the spool; all that Sync returned is in it.
	ErrFailed = errors.New("the spool failed")
	// ErrInUse: another process has the spool open.
	ErrInUse = errors.New("the spool is in use")
	// ErrForeign: the directory holds what no spool of this lineage wrote.
	ErrForeign = errors.New("not a directory of this spool")
	// ErrVolatile: the directory is in memory and would not survive a crash.
	ErrVolatile = errors.New("the file system is in memory")
)

// DamageError says where the spool has lost log that was durable. It matches
// repo.ErrDamaged.
type DamageError struct {
	File   string
	Offset int64 // byte in the file where what is readable ends
	Err    error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("spool file %s, byte %d: %v", e.File, e.Offset, e.Err)
}

func (e *DamageError) Unwrap() []error { return []error{repo.ErrDamaged, e.Err} }

// fail ends the spool's work.
func (s *Spool) fail(what string, err error) {
	if s.err != nil {
		return
	}
	s.err = hferr.New(what+" in "+s.where, fmt.Errorf("%w: %w", ErrFailed, err), s.hint(err))
}

func (s *Spool) full() error {
	return hferr.New("spool log in "+s.where,
		fmt.Errorf("%w: %d bytes on disk, limit %d", ErrFull, s.bytes, s.o.Limit),
		"the store has been away for too long: make it reachable, or raise the spool's limit; until then the server keeps its log")
}

// hint says what to do about an error of the operating system.
func (s *Spool) hint(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space on the file system that holds " + s.where + " and start again; what was acknowledged is safe"
	case errors.Is(err, syscall.EROFS):
		return "remount the file system that holds " + s.where +
			" read-write; if it turned read-only by itself, look at the kernel log for disk errors first"
	case errors.Is(err, repo.ErrKey):
		return "the spool was written with a key this key slot does not hold: open the repository with the key it was last streamed with"
	case errors.Is(err, fs.ErrPermission):
		return "let the user that runs holdfast read and write " + s.where + " (chown -R)"
	}
	return "look at the kernel log for errors of the disk that holds " + s.where + ", then start again; what was acknowledged is safe"
}

// damaged gives damage its hint.
func (s *Spool) damaged(err error) error {
	return hferr.New("read the spool in "+s.where, err,
		"log that was acknowledged is lost unless the server still has it, which it does while its slot lives:\n"+
			"keep a copy of the directory, check the disk, and take a new base backup if the archive then shows a hole")
}
