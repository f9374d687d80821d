package file

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/diskfs"
)

const (
	// swapDir holds the lock files, which are never removed: whoever opened
	// one before its removal and whoever made it again would both lock it.
	swapDir = ".swap"

	// Between two looks at a lock that is taken: doubled from first to most.
	swapPollFirst = time.Millisecond
	swapPollMost  = 16 * time.Millisecond
)

// Swap implements blob.Swapper. Under a lock between processes it compares,
// writes the new body synced under a temporary name, and renames it over the
// old one, so that a reader opens the old object or the new, whole; a first
// body is linked, which also excludes Create. The lock is held until the name
// is durable: nobody builds on a state that a crash could take back.
//
// Between hosts that share a mount it is as exclusive as the mount's flock(2)
// (NFS: yes, as byte-range locks). A process that is stopped amid a Swap
// makes those of others wait until their contexts end.
func (s *Store) Swap(ctx context.Context, key string, old blob.Version, body []byte) (blob.Version, error) {
	const op = "swap object"
	if err := blob.CheckSwap(key, body); err != nil {
		return "", err
	}
	if err := s.begin(ctx, op, key); err != nil {
		return "", err
	}
	unlock, err := s.lockSwap(ctx, key)
	if err != nil {
		return "", s.fail(op, key, err)
	}
	err = s.swap(ctx, key, old, body)
	if uerr := unlock(); uerr != nil {
		s.log.Warn("lock not given back", "store", s.where, "key", key, "error", uerr)
	}
	if err != nil {
		return "", s.fail(op, key, err)
	}
	return version(body), nil
}

// swap is Swap under the lock.
func (s *Store) swap(ctx context.Context, key string, old blob.Version, body []byte) error {
	_, now, err := s.readWhole(key)
	if err != nil && !isMissing(err) {
		return err
	}
	if now != old {
		return blob.ErrChanged
	}
	marks, err := s.marks(key)
	if err != nil {
		return err
	}
	if until := latest(marks); until.After(s.clock()) {
		return fmt.Errorf("%w until %s", blob.ErrRetained, until.UTC().Format(time.RFC3339))
	}
	temp, err := s.writeTemp(ctx, body)
	if err != nil {
		return err
	}
	if old == "" {
		err = s.link(ctx, temp, key)
	} else {
		err = s.fs.Rename(temp, key)
	}
	if err != nil || old == "" {
		if uerr := s.fs.Unlink(temp); uerr != nil && !isMissing(uerr) {
			s.log.Warn("temporary file left behind", "store", s.where, "file", temp, "error", uerr)
		}
	}
	if errors.Is(err, blob.ErrExists) {
		return blob.ErrChanged // a Create was faster, which takes no lock
	}
	if err != nil {
		return err
	}
	return errors.Join(s.syncUp(path.Dir(key)), s.gone())
}

// ReadVersion implements blob.Swapper.
func (s *Store) ReadVersion(ctx context.Context, key string) ([]byte, blob.Version, error) {
	const op = "read object"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, "", err
	}
	body, v, err := s.readWhole(key)
	if isMissing(err) {
		return nil, "", s.notFound(op, key)
	}
	return body, v, s.fail(op, key, err)
}

// readWhole reads a mutable object. The file that was opened is read to its
// end even if another takes its name meanwhile.
func (s *Store) readWhole(key string) ([]byte, blob.Version, error) {
	info, err := s.fs.Lstat(key)
	if err == nil && !info.Mode().IsRegular() {
		return nil, "", fs.ErrNotExist // a prefix of other keys, no object
	}
	if err != nil {
		return nil, "", err
	}
	f, err := s.fs.Open(key)
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(io.NewSectionReader(f, 0, blob.MaxSwap+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, "", err
	}
	if len(body) > blob.MaxSwap {
		return nil, "", fmt.Errorf("longer than the %d bytes of a mutable object", blob.MaxSwap)
	}
	return body, version(body), nil
}

// version is a hash of the body: nothing has to be kept beside the object,
// and a copy of the store has the same versions.
func version(body []byte) blob.Version {
	sum := sha256.Sum256(body)
	return blob.Version(hex.EncodeToString(sum[:16]))
}

// lockSwap locks key between processes (and within this one: every lock opens
// its file anew). Keys share sixteen lock files.
func (s *Store) lockSwap(ctx context.Context, key string) (unlock func() error, err error) {
	sum := sha256.Sum256([]byte(key))
	name := fmt.Sprintf("%s/%x", swapDir, sum[0]>>4)
	for wait := swapPollFirst; ; wait = min(2*wait, swapPollMost) {
		err = s.inDir(ctx, swapDir, func() error {
			unlock, err = s.fs.Lock(name)
			return err
		})
		if !errors.Is(err, diskfs.ErrLocked) {
			return unlock, err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, fmt.Errorf("%w while another process swaps: %w", ctx.Err(), err)
		}
	}
}
