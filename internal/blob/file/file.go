// Package file keeps objects as files of one directory: the driver for local
// disks and mounted network file systems. An object's path is its key, so
// that any tool can read, copy or scrub a store.
//
// Beside the objects it keeps, under names no key can have:
//
//	.tmp/<pid>-<random>         an object being written, not yet under its key
//	.retain/<key>/@<until>      an advisory retention (see retain.go)
//	.swap/<digit>               a lock between processes (see swap.go)
//
// It knows nothing of the repository format. What survives a crash is proved
// over crashfs; what every driver must do, by blobtest.
package file

import (
	"context"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/diskfs"
)

const (
	objectMode fs.FileMode = 0o400 // objects never change once they have a key

	// maxObject is below the file size limit of every file system with
	// hard links that we know of (ext4: 16 TiB).
	maxObject = 1 << 40
)

// Options go with Open. The zero value is ready for use.
type Options struct {
	// MustExist refuses to create the directory. Everything but `init`
	// should set it: an unmounted disk must not become an empty store.
	MustExist bool
	// Clock is the store's clock, for retention and the age of temporary
	// files; nil means time.Now.
	Clock func() time.Time
	// Log gets what is worth knowing but no error; nil means nothing.
	Log *slog.Logger
}

// Store is a directory of objects. It implements blob.Store; its errors carry
// hints (hferr) where a user can act.
type Store struct {
	fs    diskfs.FS
	where string // for messages
	clock func() time.Time
	log   *slog.Logger

	window int // see windowSize
	seed   maphash.Seed
	keys   [64]sync.Mutex // by hash of key: Retain against Delete
}

var _ blob.Store = (*Store)(nil)

// Open opens the store in dir, creating the directory (mode 0700, durably)
// unless opt.MustExist is set, and removes what interrupted writes left
// behind more than a day ago. An existing store may be read-only.
func Open(dir string, opt Options) (*Store, error) {
	fsys, err := diskfs.OpenOS(dir, !opt.MustExist)
	if err != nil {
		return nil, openError(dir, err)
	}
	s := New(fsys, dir, opt)
	s.sweepTemp()
	return s, nil
}

// New makes a store over any FS; where names it in messages. It does no I/O.
func New(fsys diskfs.FS, where string, opt Options) *Store {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Store{fs: fsys, where: where, clock: opt.Clock, log: opt.Log, window: windowSize, seed: maphash.MakeSeed()}
}

// Close releases the directory. Open readers stay usable.
func (s *Store) Close() error { return s.fs.Close() }

// Capabilities implements blob.Store.
func (s *Store) Capabilities() blob.Capabilities {
	return blob.Capabilities{
		Retention:   blob.RetentionAdvisory,
		MaxObject:   maxObject,
		CreateOnly:  true,
		SortedLists: true,
		Swap:        true,
	}
}

// lockKey serialises Retain and Delete of one key within this process.
func (s *Store) lockKey(key string) (unlock func()) {
	mu := &s.keys[maphash.String(s.seed, key)%uint64(len(s.keys))]
	mu.Lock()
	return mu.Unlock
}

// begin refuses bad keys and ended contexts before any I/O.
func (s *Store) begin(ctx context.Context, op, key string) error {
	if err := blob.CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return s.fail(op, key, err)
	}
	return nil
}
