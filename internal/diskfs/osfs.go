package diskfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// dirBatch is how many directory entries are read at a time.
const dirBatch = 1024

// OS is a directory of the operating system. os.Root keeps every name,
// symbolic links included, inside it.
type OS struct {
	root *os.Root
	path string
	id   os.FileInfo
}

// OpenOS opens dir; with create it makes the directory and its missing
// parents (mode 0700) durably first.
func OpenOS(dir string, create bool) (*OS, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if create {
		if err := makeDurable(abs); err != nil {
			return nil, err
		}
	}
	if info, err := os.Stat(abs); err == nil && !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: abs, Err: unix.ENOTDIR}
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, err
	}
	id, err := root.Stat(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &OS{root: root, path: abs, id: id}, nil
}

// makeDurable is MkdirAll that syncs each parent it adds a name to. A name
// that another process added in the meantime is synced as well: its maker may
// not have come to that yet.
func makeDurable(dir string) error {
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return err // there already, or unreachable
	}
	parent := filepath.Dir(dir)
	if err := makeDurable(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, DirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (o *OS) Create(name string, perm fs.FileMode) (File, error) {
	return orNil(o.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm))
}

func (o *OS) Open(name string) (File, error) { return orNil(o.root.Open(name)) }

func (o *OS) Link(oldname, newname string) error { return o.root.Link(oldname, newname) }

func (o *OS) Rename(oldname, newname string) error { return o.root.Rename(oldname, newname) }

func (o *OS) Lock(name string) (unlock func() error, err error) {
	f, err := o.root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	// flock, not fcntl: a process that opens and closes the file elsewhere
	// keeps its lock.
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return nil, errors.Join(&fs.PathError{Op: "lock", Path: name, Err: err}, f.Close())
	}
	return f.Close, nil
}

func (o *OS) Mkdir(name string, perm fs.FileMode) error { return o.root.Mkdir(name, perm) }

func (o *OS) Lstat(name string) (fs.FileInfo, error) { return o.root.Lstat(name) }

func (o *OS) Unlink(name string) error { return o.unlinkat("unlink", name, 0) }

func (o *OS) Rmdir(name string) error { return o.unlinkat("rmdir", name, unix.AT_REMOVEDIR) }

// unlinkat exists because os.Root.Remove takes files and directories alike:
// pruning an empty directory must not delete an object that replaced it.
func (o *OS) unlinkat(op, name string, flags int) error {
	dir, err := o.root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	conn, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		err = unix.Unlinkat(int(fd), path.Base(name), flags)
	})
	if err = errors.Join(cerr, err); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func (o *OS) Entries(name string, fn func(fs.DirEntry) error) error {
	dir, err := o.root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(dirBatch)
		for _, e := range entries {
			if err := fn(e); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (o *OS) SyncDir(name string) error {
	dir, err := o.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func (o *OS) Present() error {
	now, err := os.Stat(o.path)
	if err != nil {
		return err
	}
	if !os.SameFile(now, o.id) {
		return fmt.Errorf("%s: %w", o.path, ErrMoved)
	}
	return nil
}

func (o *OS) Close() error { return o.root.Close() }

// osFile is a file of the operating system.
type osFile struct{ *os.File }

func (f osFile) Datasync() error {
	if err := datasync(f.File); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

// orNil keeps a nil *os.File from becoming a non-nil File.
func orNil(f *os.File, err error) (File, error) {
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}
