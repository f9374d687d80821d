package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/diskfs"
)

const (
	tempDir    = ".tmp"
	tempMaxAge = 24 * time.Hour

	// writeChunk is written between two looks at the context.
	writeChunk = 1 << 20

	// vanishTries bounds how often one operation makes its directory again
	// after a concurrent Delete pruned it; losing the race even twice in a
	// row takes a deletion in the microseconds between mkdir and link.
	vanishTries = 1000
)

// errNoLinks: the file system cannot do what create-only is built on.
var errNoLinks = errors.New("the file system has no hard links")

// Create implements blob.Store. The body is written and synced under a
// temporary name; link(2) then gives it the key, which is atomic and fails
// when the key is taken (rename(2) would overwrite). Every directory on the
// way is synced each time: one that exists may have been made a moment ago by
// a process that has not synced it yet.
func (s *Store) Create(ctx context.Context, key string, body []byte, opt blob.CreateOptions) error {
	const op = "store object"
	if err := s.begin(ctx, op, key); err != nil {
		return err
	}
	if len(body) > maxObject {
		return s.fail(op, key, syscall.EFBIG)
	}
	temp, err := s.writeTemp(ctx, body)
	if err != nil {
		return s.fail(op, key, err)
	}
	err = s.publish(ctx, temp, key, opt)
	if uerr := s.fs.Unlink(temp); uerr != nil && !errors.Is(uerr, fs.ErrNotExist) {
		s.log.Warn("temporary file left behind", "store", s.where, "file", temp, "error", uerr)
	}
	if err == nil || errors.Is(err, blob.ErrExists) {
		// Whoever won, the answer must survive a crash.
		if serr := s.syncUp(path.Dir(key)); serr != nil {
			err = serr
		} else if gone := s.gone(); gone != nil {
			err = gone // stored, but where no reader would look
		}
	}
	return s.fail(op, key, err)
}

// publish gives the written file its key. Its retention comes first: an
// object must not be deletable for even a moment of its retention.
func (s *Store) publish(ctx context.Context, temp, key string, opt blob.CreateOptions) error {
	var marker string
	if opt.RetainUntil.After(s.clock()) {
		var err error
		if marker, err = s.markOnce(ctx, key, opt.RetainUntil); err != nil {
			return err
		}
	}
	err := s.link(ctx, temp, key)
	if err != nil && marker != "" {
		// Not our object, so not our retention. Best effort: a marker that
		// stays only keeps the other object longer.
		if uerr := s.fs.Unlink(marker); uerr != nil {
			s.log.Warn("retention left behind", "store", s.where, "key", key, "error", uerr)
		}
	}
	return err
}

// link is the one step that makes an object exist.
func (s *Store) link(ctx context.Context, temp, key string) error {
	return s.inDir(ctx, path.Dir(key), func() error {
		err := s.fs.Link(temp, key)
		switch {
		case errors.Is(err, fs.ErrExist):
			return s.taken(temp, key)
		case errors.Is(err, syscall.ENOTDIR):
			return blob.ErrPrefix
		case errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.ENOSYS), errors.Is(err, syscall.EPERM):
			return fmt.Errorf("%w: %w", errNoLinks, err)
		}
		return err
	})
}

// taken says by what a key is taken. fs.ErrNotExist means free again: try
// once more.
func (s *Store) taken(temp, key string) error {
	info, err := s.fs.Lstat(key)
	if err != nil {
		return err
	}
	if mine, err := s.fs.Lstat(temp); err == nil && os.SameFile(mine, info) {
		return nil // NFS: the link was made, its reply lost, and the retry refused
	}
	if !info.IsDir() {
		return blob.ErrExists
	}
	// An empty directory is what a crash between mkdir and link leaves.
	if err := s.fs.Rmdir(key); err == nil || errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	return blob.ErrPrefix
}

// writeTemp stores body, synced, under a new temporary name.
func (s *Store) writeTemp(ctx context.Context, body []byte) (name string, err error) {
	var id [12]byte
	rand.Read(id[:]) // never fails
	name = fmt.Sprintf("%s/%d-%s", tempDir, os.Getpid(), hex.EncodeToString(id[:]))
	var f diskfs.File
	err = s.inDir(ctx, tempDir, func() (err error) {
		f, err = s.fs.Create(name, objectMode)
		return err
	})
	if err != nil {
		return "", err
	}
	err = writeAll(ctx, f, body)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, s.fs.Unlink(name))
	}
	return name, nil
}

func writeAll(ctx context.Context, f diskfs.File, body []byte) error {
	for len(body) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Write(body[:min(len(body), writeChunk)])
		if err != nil {
			return err
		}
		body = body[n:]
	}
	return ctx.Err()
}

// inDir runs fn with dir in existence, again whenever a concurrent Delete
// pruned it in between (fn then fails with fs.ErrNotExist).
func (s *Store) inDir(ctx context.Context, dir string, fn func() error) error {
	var err error
	for range vanishTries {
		if err = ctx.Err(); err != nil {
			return err
		}
		if err = s.makeDirs(dir); err == nil {
			err = fn()
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if gone := s.gone(); gone != nil {
			return gone
		}
	}
	return err
}

// makeDirs makes dir and its parents. The caller syncs them (syncUp).
func (s *Store) makeDirs(dir string) error {
	if info, err := s.fs.Lstat(dir); err == nil && info.IsDir() {
		return nil
	}
	for i := 0; i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		err := s.fs.Mkdir(dir[:i], diskfs.DirMode)
		if errors.Is(err, syscall.ENOTDIR) {
			return blob.ErrPrefix
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// syncUp makes dir's entries durable and, up to the store's own directory,
// the entries that lead to it. A directory that is gone was pruned, with all
// that was in it, by a Delete that came after.
func (s *Store) syncUp(dir string) error {
	for {
		if err := s.fs.SyncDir(dir); err != nil && !isMissing(err) {
			return err
		}
		if dir == "." {
			return nil
		}
		dir = path.Dir(dir)
	}
}

// sweepTemp removes what interrupted writes left. Age alone decides: process
// ids repeat (in containers every one is 1) and say nothing about another
// host on the same mount. Should a writer that slow still live, it gets an
// error, not a torn object. All of it is best effort: the store may be
// read-only.
func (s *Store) sweepTemp() {
	oldest := s.clock().Add(-tempMaxAge)
	var stale []string
	err := s.fs.Entries(tempDir, func(e fs.DirEntry) error {
		name := path.Join(tempDir, e.Name())
		if info, err := s.fs.Lstat(name); err == nil && info.Mode().IsRegular() && info.ModTime().Before(oldest) {
			stale = append(stale, name)
		}
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.log.Warn("temporary files not listed", "store", s.where, "error", err)
	}
	for _, name := range stale {
		if err := s.fs.Unlink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("stale temporary file not removed", "store", s.where, "file", name, "error", err)
			return
		}
	}
}
