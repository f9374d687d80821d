package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// DirOptions are the choices of a DirTarget.
type DirOptions struct {
	// AllowNonEmpty restores into a directory that holds something already.
	// Files of the backup replace what is in their place; others stay.
	AllowNonEmpty bool
}

// DirTarget restores below one directory. Nothing a backup says makes it
// write outside: every path is resolved inside the directory, and a link that
// leads out is made (that is what the backup holds) but never followed.
//
// Permission bits and modification times are applied; owners are not: files
// belong to who restores. An item without permission bits gets 0700
// (directories) or 0600. Nothing is durable before Finish has returned nil.
type DirTarget struct {
	root *os.Root
	dir  string
	o    DirOptions

	mu   sync.Mutex
	dirs []repo.Item // their modes and times are set last: writing into them changes both
}

// ErrNotEmpty: the directory to restore to holds something.
var ErrNotEmpty = errors.New("the directory is not empty")

// NewDirTarget opens dir, making it (0700) if it is missing. Close it.
func NewDirTarget(dir string, o DirOptions) (*DirTarget, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory to restore to: %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the directory to restore to: %w", err)
	}
	t := &DirTarget{root: root, dir: dir, o: o}
	if err := t.checkEmpty(); err != nil {
		_ = root.Close()
		return nil, err
	}
	return t, nil
}

func (t *DirTarget) checkEmpty() error {
	if t.o.AllowNonEmpty {
		return nil
	}
	d, err := t.root.Open(".")
	if err != nil {
		return fmt.Errorf("restore to %s: %w", t.dir, err)
	}
	defer d.Close()
	switch _, err := d.ReadDir(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("restore to %s: %w", t.dir, err)
	}
	return hferr.NewUsage("restore to "+t.dir, ErrNotEmpty, "choose an empty or new directory")
}

// Close closes the directory. It makes nothing durable: Finish does.
func (t *DirTarget) Close() error { return t.root.Close() }

// Mkdir makes a directory, writable for us until Finish gives it its mode.
func (t *DirTarget) Mkdir(item repo.Item) error {
	if err := t.root.MkdirAll(item.Path, 0o700); err != nil {
		return err
	}
	t.mu.Lock()
	t.dirs = append(t.dirs, item)
	t.mu.Unlock()
	return nil
}

// Symlink makes a link, whatever it points to.
func (t *DirTarget) Symlink(item repo.Item) error {
	return t.make(item.Path, func() error { return t.root.Symlink(item.Link, item.Path) })
}

// Create makes a file, which must not exist (or replaces it if that is
// allowed).
func (t *DirTarget) Create(item repo.Item) (File, error) {
	var f *os.File
	err := t.make(item.Path, func() (err error) {
		f, err = t.root.OpenFile(item.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &dirFile{File: f, t: t, item: item}, nil
}

// make runs fn, after making parents that no item named and clearing the
// place where that is allowed.
func (t *DirTarget) make(name string, fn func() error) error {
	err := fn()
	if errors.Is(err, fs.ErrNotExist) {
		if err := t.root.MkdirAll(path.Dir(name), 0o700); err != nil {
			return err
		}
		err = fn()
	}
	if errors.Is(err, fs.ErrExist) && t.o.AllowNonEmpty {
		if err := t.root.Remove(name); err != nil {
			return err
		}
		err = fn()
	}
	return err
}

type dirFile struct {
	*os.File
	t    *DirTarget
	item repo.Item
}

// Close gives the file its mode and time. Its bytes become durable with
// DirTarget.Finish, all files at once.
func (f *dirFile) Close() error {
	err := f.Chmod(permOr(f.item, 0o600))
	return errors.Join(err, f.File.Close(), f.t.setTime(f.item))
}

func permOr(item repo.Item, or fs.FileMode) fs.FileMode {
	if perm := item.Mode.Perm(); perm != 0 {
		return perm
	}
	return or
}

func (t *DirTarget) setTime(item repo.Item) error {
	if item.ModTime.IsZero() || item.ModTime.Equal(time.Unix(0, 0)) {
		return nil
	}
	return t.root.Chtimes(item.Path, item.ModTime, item.ModTime)
}

// Finish gives directories their modes and times, deepest first, and makes
// everything durable: with one syncfs where there is one, else file by file.
func (t *DirTarget) Finish(ctx context.Context) error {
	for i := len(t.dirs) - 1; i >= 0; i-- {
		d := t.dirs[i]
		if err := errors.Join(t.setTime(d), t.root.Chmod(d.Path, permOr(d, 0o700))); err != nil {
			return err
		}
	}
	d, err := t.root.Open(".")
	if err != nil {
		return err
	}
	err = syncTree(d)
	if errors.Is(err, errors.ErrUnsupported) {
		err = t.syncEach(ctx)
	}
	if err = errors.Join(err, d.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", t.dir, err)
	}
	return syncDir(filepath.Dir(filepath.Clean(t.dir)))
}

// syncDir makes a directory's entries durable. One we may not read is not one
// we made an entry in.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
