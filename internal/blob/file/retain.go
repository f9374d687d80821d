package file

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"
)

// Retention is a set of empty files, one a promise, whose names say until
// when: "@" and the Unix milliseconds, rounded up, in 16 digits. An object is
// retained until the latest of them. Names cannot be torn by a crash, and
// adding one cannot lower the latest, so that two processes can extend at
// once without a lock. "@" is in no key: the marks of "a" never meet those of
// "a/b".
//
// It is advisory: this driver honours it, rm does not. Between processes, a
// Delete that has already looked may still win against a Retain; within one
// process the two are serialised.
const retainDir = ".retain"

// mark is one promise.
type mark struct {
	name  string // path
	until time.Time
	once  bool // made by a Create, which takes it back when it loses the key
}

func retainPath(key string) string { return retainDir + "/" + key }

// Retain implements blob.Store.
func (s *Store) Retain(ctx context.Context, key string, until time.Time) error {
	const op = "retain object"
	if err := s.begin(ctx, op, key); err != nil {
		return err
	}
	defer s.lockKey(key)()
	if _, err := s.stat(op, key); err != nil {
		return err
	}
	if !until.After(s.clock()) {
		return nil // nothing to extend
	}
	name := markName(key, until, "")
	if err := s.makeMark(ctx, name); err != nil && !errors.Is(err, fs.ErrExist) {
		return s.fail(op, key, err)
	}
	if err := s.syncUp(path.Dir(name)); err != nil {
		return s.fail(op, key, err)
	}
	if _, err := s.stat(op, key); err != nil {
		return errors.Join(err, s.fs.Unlink(name)) // deleted meanwhile
	}
	return s.fail(op, key, s.dropBelow(key, until))
}

// dropBelow removes marks that a later one has made pointless. Marks of a
// Create are its own to remove, or Delete's.
func (s *Store) dropBelow(key string, until time.Time) error {
	marks, err := s.marks(key)
	if err != nil {
		return err
	}
	for _, m := range marks {
		if m.once || !m.until.Before(until) {
			continue
		}
		if err := s.fs.Unlink(m.name); err != nil && !isMissing(err) {
			return err
		}
	}
	return nil
}

// markOnce makes the mark that goes with one Create, durably, under a name
// nobody else makes: if the Create loses the key, only its own promise goes.
func (s *Store) markOnce(ctx context.Context, key string, until time.Time) (name string, err error) {
	var id [8]byte
	rand.Read(id[:]) // never fails
	name = markName(key, until, "."+hex.EncodeToString(id[:]))
	if err := s.makeMark(ctx, name); err != nil {
		return "", err
	}
	return name, s.syncUp(path.Dir(name))
}

func (s *Store) makeMark(ctx context.Context, name string) error {
	return s.inDir(ctx, path.Dir(name), func() error {
		f, err := s.fs.Create(name, objectMode)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// marks reads the promises about one key; normally none or one.
func (s *Store) marks(key string) ([]mark, error) {
	var marks []mark
	dir := retainPath(key)
	err := s.fs.Entries(dir, func(e fs.DirEntry) error {
		if until, once, ok := parseMark(e.Name()); ok {
			marks = append(marks, mark{name: dir + "/" + e.Name(), until: until, once: once})
		}
		return nil
	})
	if isMissing(err) {
		return nil, nil
	}
	return marks, err
}

func latest(marks []mark) (until time.Time) {
	for _, m := range marks {
		if m.until.After(until) {
			until = m.until
		}
	}
	return until
}

func markName(key string, until time.Time, suffix string) string {
	ms := until.UnixMilli()
	if time.UnixMilli(ms).Before(until) {
		ms++ // never shorter than asked for
	}
	return fmt.Sprintf("%s/@%016d%s", retainPath(key), ms, suffix)
}

// parseMark reads a mark's file name. Other names are no marks.
func parseMark(name string) (until time.Time, once, ok bool) {
	digits, found := strings.CutPrefix(name, "@")
	digits, _, once = strings.Cut(digits, ".")
	if !found || len(digits) != 16 {
		return time.Time{}, false, false
	}
	ms, err := strconv.ParseUint(digits, 10, 63)
	if err != nil {
		return time.Time{}, false, false
	}
	return time.UnixMilli(int64(ms)), once, true
}
