package crashfs

import (
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/diskfs"
)

// Create implements diskfs.FS.
func (f *FS) Create(name string, perm fs.FileMode) (diskfs.File, error) {
	var n *node
	err := f.do("create", name, func() error {
		dir, base, err := f.parent(name)
		if err != nil {
			return err
		}
		if dir.names[base] != nil {
			return syscall.EEXIST
		}
		n = &node{mode: perm.Perm(), mtime: f.clock()}
		dir.set(base, n, nil)
		return nil
	})
	if err != nil {
		return nil, pathError("create", name, err)
	}
	return &handle{fs: f, n: n, name: name}, nil
}

// Open implements diskfs.FS.
func (f *FS) Open(name string) (diskfs.File, error) { return f.open(name, false) }

// Append opens an existing file for writing at its end.
func (f *FS) Append(name string) (diskfs.File, error) { return f.open(name, true) }

func (f *FS) open(name string, atEnd bool) (diskfs.File, error) {
	h := &handle{fs: f, name: name}
	err := f.look(func() (err error) {
		if h.n, err = f.find(name); err == nil && h.n.names != nil {
			err = syscall.EISDIR
		}
		if err == nil && atEnd {
			h.off = int64(len(h.n.data))
		}
		return err
	})
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return h, nil
}

// Link implements diskfs.FS.
func (f *FS) Link(oldname, newname string) error {
	return pathError("link", newname, f.do("link", newname, func() error {
		n, err := f.find(oldname)
		if err != nil {
			return err
		}
		if n.names != nil {
			return syscall.EPERM
		}
		dir, base, err := f.parent(newname)
		if err != nil {
			return err
		}
		if dir.names[base] != nil {
			return syscall.EEXIST
		}
		dir.set(base, n, nil)
		return nil
	}))
}

// Rename implements diskfs.FS: it gives a file another name, replacing a file that has it. After a
// crash there is the old name, the new one, or both; neither only if the old
// name's directory was synced before the new one's.
func (f *FS) Rename(oldname, newname string) error {
	return pathError("rename", newname, f.do("rename", newname, func() error {
		from, oldbase, err := f.parent(oldname)
		if err != nil {
			return err
		}
		n := from.names[oldbase]
		if n == nil {
			return syscall.ENOENT
		}
		to, newbase, err := f.parent(newname)
		if err != nil {
			return err
		}
		if old := to.names[newbase]; n.names != nil || old != nil && old.names != nil {
			return syscall.EISDIR
		}
		added := to.set(newbase, n, nil)
		from.set(oldbase, nil, added)
		return nil
	}))
}

// Unlink implements diskfs.FS.
func (f *FS) Unlink(name string) error {
	return pathError("unlink", name, f.do("unlink", name, func() error {
		dir, base, err := f.parent(name)
		if err != nil {
			return err
		}
		switch n := dir.names[base]; {
		case n == nil:
			return syscall.ENOENT
		case n.names != nil:
			return syscall.EISDIR
		}
		dir.set(base, nil, nil)
		return nil
	}))
}

// Mkdir implements diskfs.FS.
func (f *FS) Mkdir(name string, perm fs.FileMode) error {
	return pathError("mkdir", name, f.do("mkdir", name, func() error {
		dir, base, err := f.parent(name)
		if err != nil {
			return err
		}
		if dir.names[base] != nil {
			return syscall.EEXIST
		}
		made := newDir(f.clock())
		made.mode = fs.ModeDir | perm.Perm()
		dir.set(base, made, nil)
		return nil
	}))
}

// Rmdir implements diskfs.FS.
func (f *FS) Rmdir(name string) error {
	return pathError("rmdir", name, f.do("rmdir", name, func() error {
		dir, base, err := f.parent(name)
		if err != nil {
			return err
		}
		switch n := dir.names[base]; {
		case n == nil:
			return syscall.ENOENT
		case n.names == nil:
			return syscall.ENOTDIR
		case len(n.names) > 0:
			return syscall.ENOTEMPTY
		}
		dir.set(base, nil, nil)
		return nil
	}))
}

// Lstat implements diskfs.FS.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	var i info
	err := f.look(func() error {
		n, err := f.find(name)
		if err == nil {
			i = n.info(name)
		}
		return err
	})
	if err != nil {
		return nil, pathError("lstat", name, err)
	}
	return i, nil
}

// Entries implements diskfs.FS. The order is random, to catch who relies on one.
func (f *FS) Entries(name string, fn func(fs.DirEntry) error) error {
	var entries []fs.DirEntry
	err := f.look(func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		if n.names == nil {
			return syscall.ENOTDIR
		}
		for _, base := range slices.SortedFunc(maps.Keys(n.names), strings.Compare) {
			entries = append(entries, fs.FileInfoToDirEntry(n.names[base].info(base)))
		}
		f.rng.Shuffle(len(entries), func(i, j int) { entries[i], entries[j] = entries[j], entries[i] })
		return nil
	})
	if err != nil {
		return pathError("readdir", name, err)
	}
	for _, e := range entries {
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir implements diskfs.FS.
func (f *FS) SyncDir(name string) error {
	return pathError("syncdir", name, f.do("syncdir", name, func() error {
		n, err := f.find(name)
		if err != nil {
			return err
		}
		if n.names == nil {
			return syscall.ENOTDIR
		}
		n.syncNames()
		return nil
	}))
}

// Lock implements diskfs.FS. Locks end with the machine; the lock's file is
// made, but whether it survives means nothing.
func (f *FS) Lock(name string) (unlock func() error, err error) {
	err = f.look(func() error {
		dir, base, err := f.parent(name)
		if err != nil {
			return err
		}
		if f.locks[name] {
			return diskfs.ErrLocked
		}
		if dir.names[base] == nil {
			dir.set(base, &node{mode: 0o600, mtime: f.clock()}, nil)
		}
		f.locks[name] = true
		return nil
	})
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	return func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.locks, name)
		return nil
	}, nil
}

// Present implements diskfs.FS.
func (f *FS) Present() error { return f.look(func() error { return nil }) }

// Close implements diskfs.FS.
func (f *FS) Close() error { return nil }

// handle is an open file.
type handle struct {
	fs   *FS
	n    *node
	name string
	off  int64 // of the next Write
}

func (h *handle) Write(p []byte) (n int, err error) {
	err = h.fs.do("write", h.name, func() error {
		n = len(p)
		if free := h.fs.free; free >= 0 && int64(n) > free {
			n = int(free)
		}
		if h.fs.free >= 0 {
			h.fs.free -= int64(n)
		}
		h.n.writeAt(p[:n], h.off)
		h.n.mtime = h.fs.clock()
		h.off += int64(n)
		if n < len(p) {
			return syscall.ENOSPC
		}
		return nil
	})
	return n, pathError("write", h.name, err)
}

// WriteAt implements diskfs.File. What replaces bytes takes no space, and a
// crash may keep any of its sectors.
func (h *handle) WriteAt(p []byte, off int64) (n int, err error) {
	err = h.fs.do("write", h.name, func() error {
		n = len(p)
		if free := h.fs.free; free >= 0 {
			grown := max(0, off+int64(n)-max(off, int64(len(h.n.data))))
			n -= int(max(0, grown-free))
			h.fs.free -= min(grown, free)
		}
		h.n.writeAt(p[:n], off)
		h.n.writes[len(h.n.writes)-1].sectors = true
		h.n.mtime = h.fs.clock()
		if n < len(p) {
			return syscall.ENOSPC
		}
		return nil
	})
	return n, pathError("write", h.name, err)
}

func (h *handle) ReadAt(p []byte, off int64) (n int, err error) {
	err = h.fs.look(func() error {
		if off < int64(len(h.n.data)) {
			n = copy(p, h.n.data[off:])
		}
		if n < len(p) {
			return io.EOF
		}
		return nil
	})
	return n, err
}

func (h *handle) Stat() (i fs.FileInfo, err error) {
	err = h.fs.look(func() error {
		i = h.n.info(h.name)
		return nil
	})
	return i, err
}

func (h *handle) Sync() error {
	return pathError("sync", h.name, h.fs.do("sync", h.name, func() error {
		h.n.syncData()
		return nil
	}))
}

// Datasync implements diskfs.File; a size is part of the contents.
func (h *handle) Datasync() error { return h.Sync() }

func (h *handle) Close() error { return nil }
