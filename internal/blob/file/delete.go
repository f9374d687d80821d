package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// Delete implements blob.Store. It also removes the directories that became
// empty; a Create that meanwhile relied on one makes it again.
func (s *Store) Delete(ctx context.Context, key string) error {
	const op = "delete object"
	if err := s.begin(ctx, op, key); err != nil {
		return err
	}
	defer s.lockKey(key)()
	marks, err := s.marks(key)
	if err != nil {
		return s.fail(op, key, err)
	}
	if until := latest(marks); until.After(s.clock()) {
		return s.fail(op, key, fmt.Errorf("%w until %s", blob.ErrRetained, until.UTC().Format(time.RFC3339)))
	}
	if err := s.remove(key); err != nil {
		return s.fail(op, key, err)
	}
	// Only the marks seen before: a new object under this key may have
	// brought its own since.
	for _, m := range marks {
		if err := s.fs.Unlink(m.name); err != nil && !isMissing(err) {
			return s.fail(op, key, err)
		}
	}
	if len(marks) > 0 {
		s.prune(retainPath(key))
	}
	return nil
}

// remove deletes a file durably and prunes its parents. A missing file is
// synced away too: an earlier, interrupted Delete may have removed it.
func (s *Store) remove(key string) error {
	info, err := s.fs.Lstat(key)
	if err == nil && info.IsDir() {
		return nil // a prefix of other keys, no object
	}
	if err == nil {
		err = s.fs.Unlink(key)
	}
	if err != nil && !isMissing(err) {
		return err
	}
	if gone := s.gone(); gone != nil {
		return gone
	}
	dir := path.Dir(key)
	if err := s.fs.SyncDir(dir); err != nil && !isMissing(err) {
		return err
	}
	s.prune(dir)
	return nil
}

// prune removes dir and its parents as far as they are empty. Rmdir refuses a
// directory in which a concurrent Create has just linked an object. It is not
// synced: what may come back after a crash is an empty directory.
func (s *Store) prune(dir string) {
	for ; dir != "."; dir = path.Dir(dir) {
		if err := s.fs.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // in use, or not ours to remove; the object is gone all the same
		}
	}
}
