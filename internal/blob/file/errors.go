package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// ErrGone is returned when the store's directory is no longer at its path.
// It is never reported as a missing object or an empty list: a store that
// cannot be seen says nothing about what it holds.
var ErrGone = errors.New("the store's directory is gone")

// fail gives an error its place and, where the user can act, its hint.
func (s *Store) fail(op, key string, err error) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf("%s %q in %s", op, key, s.where)
	if isAnswer(err) || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w", what, err)
	}
	if gone := s.gone(); errors.Is(gone, ErrGone) && !errors.Is(err, ErrGone) {
		err = errors.Join(gone, err)
	}
	return hferr.New(what, err, hint(err, s.where))
}

// notFound is the answer for a missing key, unless the store itself is away.
func (s *Store) notFound(op, key string) error {
	if gone := s.gone(); gone != nil {
		return s.fail(op, key, gone)
	}
	return s.fail(op, key, blob.ErrNotFound)
}

// gone is nil while the directory is where it was opened.
func (s *Store) gone() error {
	err := s.fs.Present()
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, diskfs.ErrMoved) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}

func openError(dir string, err error) error {
	h := hint(err, dir)
	if errors.Is(err, fs.ErrNotExist) {
		h = "mount the disk that holds " + dir + ", or correct the repository's path; `holdfast init` makes a new one"
	}
	return hferr.New("open the store in "+dir, err, h)
}

// hint says what to do about an error of the operating system.
func hint(err error, where string) string {
	switch {
	case errors.Is(err, ErrGone):
		return "mount the disk that holds " + where + " again and rerun; nothing stored was changed"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "free space (or inodes, or quota) on the file system that holds " + where +
			" and rerun; nothing already stored was damaged"
	case errors.Is(err, syscall.EFBIG):
		return "raise the file size limit (ulimit -f) of this process or use another file system; nothing already stored was damaged"
	case errors.Is(err, syscall.EROFS):
		return "remount the file system that holds " + where +
			" read-write; if it turned read-only by itself, look at the kernel log for disk errors first"
	case errors.Is(err, errNoLinks):
		return "put the repository on a file system with hard links (ext4, xfs, btrfs, zfs, NFS): they are what makes creation exclusive"
	case errors.Is(err, fs.ErrPermission):
		return "let the user that runs holdfast read and write " + where + " and everything below it (chown -R)"
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ESTALE):
		return "look at the kernel log for errors of the disk or network mount that holds " + where
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "raise the limit of open files (ulimit -n)"
	case errors.Is(err, syscall.ENOTDIR):
		return "give the path of a directory"
	}
	return ""
}

// isAnswer reports whether err answers a question about the object rather
// than reporting a failure.
func isAnswer(err error) bool {
	for _, e := range []error{blob.ErrExists, blob.ErrNotFound, blob.ErrChanged, blob.ErrRetained, blob.ErrPrefix} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// isMissing reports that a name does not lead to a file. ENOTDIR: a shorter
// key is an object where this one needs a directory.
func isMissing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
