// Package crashfs is an in-memory file system that forgets, at a crash, what
// was not made durable: the fake that proves fsync discipline, which killing
// a process cannot (the page cache survives that). It implements diskfs.FS, and
// has Append besides.
//
// The model, stricter than any real file system:
//
//   - File.Sync makes a file's contents durable, not the names that lead to it.
//   - SyncDir makes one directory's names durable, not what they lead to.
//   - At a crash each unsynced write is kept, lost or torn, and each unsynced
//     name is kept or lost, independently of each other, by the seed.
//
// It models no permissions and no symbolic links. It is for tests only and
// must not be linked into a product binary.
package crashfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"sync"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs"
)

// ErrCrashed is returned by every operation from the crash on.
var ErrCrashed = errors.New("crashfs: the machine has crashed")

// Op is one operation that changes something or makes something durable.
type Op struct {
	N    int    // position in the run, from 0
	Kind string // create, write, sync, link, unlink, rename, mkdir, rmdir, syncdir
	Name string
}

// FS is one machine's disk between two crashes. Safe for concurrent use.
type FS struct {
	mu      sync.Mutex
	rng     *rand.Rand
	root    *node
	clock   func() time.Time
	ops     int
	crashAt int // -1: never
	crashed bool
	hook    func(Op)
	free    int64 // bytes left; negative: no limit
	locks   map[string]bool
}

var _ diskfs.FS = (*FS)(nil)

// New makes an empty file system. The same seed and the same operations give
// the same crash. A nil clock means time.Now.
func New(seed uint64, clock func() time.Time) *FS {
	if clock == nil {
		clock = time.Now
	}
	return &FS{
		rng:     rand.New(rand.NewPCG(seed, 0)),
		root:    newDir(clock()),
		clock:   clock,
		crashAt: -1,
		locks:   map[string]bool{},
		free:    -1,
	}
}

// CrashAt makes operation n (see Op.N) the last: it may or may not take
// effect, and fails with ErrCrashed either way.
func (f *FS) CrashAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashAt = n
}

// Hook has fn called before each operation, without locks held, so that fn
// may itself operate on f: the way to interleave two processes exactly.
// Operations made by fn do not call it again.
func (f *FS) Hook(fn func(Op)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook = fn
}

// SetFree lets n more bytes be written; then writes fail with ENOSPC, after
// taking what fits. Negative means no limit. Removing files frees nothing.
func (f *FS) SetFree(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free = n
}

// Ops returns how many operations there were.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Crashed reports whether the crash has happened.
func (f *FS) Crashed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.crashed
}

// Restart crashes the machine, if it has not crashed yet, and returns what is
// on its disk when it comes up again. f itself stays crashed.
func (f *FS) Restart() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashed = true
	after := New(f.rng.Uint64(), f.clock)
	after.root = f.root.survive(f.rng, map[*node]*node{})
	return after
}

// do runs one operation under the lock, counting it and crashing at it.
func (f *FS) do(kind, name string, fn func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if hook := f.hook; hook != nil && !f.crashed {
		op := Op{N: f.ops, Kind: kind, Name: name}
		f.hook = nil
		f.mu.Unlock()
		hook(op)
		f.mu.Lock()
		f.hook = hook
	}
	if f.crashed {
		return ErrCrashed
	}
	n := f.ops
	f.ops++
	if n != f.crashAt {
		return fn()
	}
	f.crashed = true
	if f.rng.IntN(2) == 0 {
		_ = fn() // it happened, but nobody was told
	}
	return ErrCrashed
}

// look runs a read-only operation under the lock.
func (f *FS) look(fn func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.crashed {
		return ErrCrashed
	}
	return fn()
}

// find follows a path. Like the kernel it says ENOTDIR for a file on the way.
func (f *FS) find(name string) (*node, error) {
	n := f.root
	for _, part := range split(name) {
		if n.names == nil {
			return nil, syscall.ENOTDIR
		}
		if n = n.names[part]; n == nil {
			return nil, syscall.ENOENT
		}
	}
	return n, nil
}

// parent finds the directory that holds, or would hold, a name.
func (f *FS) parent(name string) (dir *node, base string, err error) {
	dir, err = f.find(path.Dir(name))
	if err == nil && dir.names == nil {
		err = syscall.ENOTDIR
	}
	return dir, path.Base(name), err
}

func pathError(op, name string, err error) error {
	if err == nil || errors.Is(err, ErrCrashed) {
		return err
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
