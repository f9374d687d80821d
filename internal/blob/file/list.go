package file

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// windowSize is how many names of one directory are held at a time. A larger
// directory is read again for each further window, so that memory stays flat.
const windowSize = 1 << 16

// errFound ends a walk that only asked whether there is anything.
var errFound = errors.New("found")

// List implements blob.Store: a walk that holds one window of names for each
// directory on the way, and enters only directories that can hold answers.
func (s *Store) List(ctx context.Context, prefix string, opt blob.ListOptions, fn func(blob.Object) error) error {
	const op = "list objects"
	if err := blob.CheckPrefix(prefix); err != nil {
		return err
	}
	if err := errors.Join(ctx.Err(), s.gone()); err != nil {
		return s.fail(op, prefix, err)
	}
	w := &walk{ctx: ctx, s: s, prefix: prefix, opt: opt, window: s.window, fn: fn}
	err := w.dir(prefix[:strings.LastIndexByte(prefix, '/')+1])
	if w.stopped || err == nil {
		return err
	}
	return s.fail(op, prefix, err)
}

// walk is one List under way.
type walk struct {
	ctx     context.Context
	s       *Store
	prefix  string
	opt     blob.ListOptions
	window  int
	fn      func(blob.Object) error
	stopped bool // by an error of fn, which is returned as it is
}

// dir visits a directory, named by its key prefix ("" or ending in "/"), in
// key order. Directory order is not key order: "a-b" sorts before what is
// inside "a", because '-' is less than '/'. So each directory counts as its
// name with the slash.
func (w *walk) dir(base string) error {
	last := ""
	for {
		names, more, err := w.names(base, last)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := w.visit(base + name); err != nil {
				return err
			}
			last = name
		}
		if !more {
			return nil
		}
	}
}

// visit reports one file, or a directory or what is in it.
func (w *walk) visit(key string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if !strings.HasSuffix(key, "/") {
		info, err := w.s.fs.Lstat(key)
		if isMissing(err) || err == nil && !info.Mode().IsRegular() {
			return nil // deleted since
		}
		if err != nil {
			return err
		}
		return w.emit(object(key, info))
	}
	if !w.opt.Dirs {
		return w.dir(key)
	}
	some, err := w.s.holdsObject(w.ctx, key)
	if err != nil || !some {
		return err
	}
	return w.emit(blob.Object{Key: key, Dir: true})
}

func (w *walk) emit(o blob.Object) error {
	err := w.fn(o)
	w.stopped = err != nil
	return err
}

// names returns the smallest names in a directory that are wanted and greater
// than after, in order, and whether there may be more.
func (w *walk) names(base, after string) (names []string, more bool, err error) {
	err = w.s.fs.Entries(path.Clean(base+"."), func(e fs.DirEntry) error {
		name := e.Name()
		if e.IsDir() {
			name += "/"
		}
		if name <= after || !w.wanted(base+name) {
			return nil
		}
		names = append(names, name)
		if len(names) >= 2*w.window {
			slices.Sort(names)
			names, more = names[:w.window], true
		}
		return w.ctx.Err()
	})
	if isMissing(err) {
		return nil, false, nil // no such prefix, or pruned since
	}
	slices.Sort(names)
	if len(names) > w.window {
		names, more = names[:w.window], true
	}
	return names, more, err
}

// wanted reports whether a file's key, or some key in a directory (which ends
// in "/"), can be part of the answer.
func (w *walk) wanted(key string) bool {
	if blob.CheckKey(strings.TrimSuffix(key, "/")) != nil {
		return false // the store's own files, lost+found, and other strangers
	}
	if !strings.HasPrefix(key, w.prefix) {
		return false
	}
	inside := strings.HasSuffix(key, "/") && !w.opt.Dirs && strings.HasPrefix(w.opt.After, key)
	return key > w.opt.After || inside
}

// holdsObject reports whether a directory holds any object at any depth: a
// crash can leave empty directories, and those are no prefixes.
func (s *Store) holdsObject(ctx context.Context, base string) (bool, error) {
	w := &walk{ctx: ctx, s: s, prefix: base, window: s.window, fn: func(blob.Object) error { return errFound }}
	err := w.dir(base)
	if errors.Is(err, errFound) {
		return true, nil
	}
	return false, err
}
