// Package diskfs is the small file system that the file store and the spool
// are written against: the few operations whose durability they rely on, over
// the operating system (OpenOS) and over crashfs, which forgets at a crash
// whatever was not made durable. It knows nothing of what is in the files.
package diskfs

import (
	"errors"
	"io"
	"io/fs"
)

// DirMode is the mode of directories made here.
const DirMode fs.FileMode = 0o700

var (
	// ErrMoved: another directory has taken the place of the one that was opened.
	ErrMoved = errors.New("not the directory that was opened")
	// ErrLocked: somebody else holds the lock.
	ErrLocked = errors.New("locked by another process")
)

// FS is what a store needs of a file system: few operations, so that
// crashfs can model exactly which of them survive a power cut. Names are
// slash-separated and relative to the directory that was opened, which is ".".
// Errors match fs.ErrExist, fs.ErrNotExist and the syscall numbers. Nothing
// is durable until File.Sync (contents) and SyncDir (names) return nil.
type FS interface {
	// Create makes a new file for writing; it never opens an existing one.
	Create(name string, perm fs.FileMode) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Link gives a file a second name; it fails when that name is taken.
	Link(oldname, newname string) error
	// Rename gives a file another name in one step, replacing the file that
	// had it.
	Rename(oldname, newname string) error
	// Unlink removes one name of a file, never a directory.
	Unlink(name string) error
	// Mkdir makes one directory.
	Mkdir(name string, perm fs.FileMode) error
	// Rmdir removes an empty directory, never a file.
	Rmdir(name string) error
	// Lstat describes a name, not what a symbolic link points at.
	Lstat(name string) (fs.FileInfo, error)
	// Entries calls fn for each entry of a directory, in no order, holding
	// only a small batch at a time; entries that come or go meanwhile may
	// or may not be seen.
	Entries(name string, fn func(fs.DirEntry) error) error
	// SyncDir makes a directory's entries (not their contents) durable.
	SyncDir(name string) error
	// Lock takes an exclusive lock between processes on a file, which is made
	// if it is missing (its directory must exist); ErrLocked if it is taken.
	// It ends with unlock and with the process.
	Lock(name string) (unlock func() error, err error)
	// Present fails when the directory is no longer at the path it was
	// opened by: deleted, moved, unmounted or mounted over.
	Present() error
	// Close releases the directory.
	Close() error
}

// File is an open file. One that was created is only written; one that was
// opened is only read.
type File interface {
	io.Writer
	io.WriterAt // does not move where Write goes on
	io.ReaderAt
	io.Closer
	Stat() (fs.FileInfo, error)
	// Sync makes the contents durable, not the names that lead to them.
	Sync() error
	// Datasync does the same, and leaves out what reading the contents does
	// not need (times). Where a write only replaced bytes, that spares the
	// file system's journal.
	Datasync() error
}
