package file_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

func put(t *testing.T, s blob.Store, key, body string) {
	t.Helper()
	if err := s.Create(t.Context(), key, []byte(body), blob.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func keysOf(t *testing.T, s blob.Store, prefix string, opt blob.ListOptions) []string {
	t.Helper()
	var keys []string
	err := s.List(t.Context(), prefix, opt, func(o blob.Object) error {
		keys = append(keys, o.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func TestOpenMakesPrivateDirectories(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "new", "store")
	put(t, open(t, dir), "a/b/o", "x")
	want := map[string]fs.FileMode{
		"new": 0o700, "new/store": 0o700, "new/store/a": 0o700, "new/store/a/b": 0o700,
		"new/store/a/b/o": 0o400, "new/store/.tmp": 0o700,
	}
	for name, mode := range want {
		info, err := os.Stat(filepath.Join(top, name))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: mode %v, want %v (%v)", name, info.Mode().Perm(), mode, err)
		}
	}
	put(t, open(t, dir), "second", "y") // opens again
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing")
	_, err := file.Open(missing, file.Options{MustExist: true})
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(hferr.HintOf(err), "mount") {
		t.Errorf("missing: %v, hint %q", err, hferr.HintOf(err))
	}
	if _, err := os.Stat(missing); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused directory was made: %v", err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Open(plain, file.Options{}); err == nil || hferr.HintOf(err) == "" {
		t.Errorf("a file opened as a store: %v, hint %q", err, hferr.HintOf(err))
	}
}

// TestGone: a store that went away is no empty store, and takes nothing more.
func TestGone(t *testing.T) {
	away := map[string]func(dir string) error{
		"moved":   func(dir string) error { return os.Rename(dir, dir+"-moved") },
		"removed": os.RemoveAll,
		"replaced": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"-moved"), os.Mkdir(dir, 0o700))
		},
	}
	for name, do := range away {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "store")
			s := open(t, dir)
			put(t, s, "a/o", "x")
			if err := do(dir); err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			_, statErr := s.Stat(ctx, "none")
			_, readErr := s.Read(ctx, "none", 0, -1)
			for op, err := range map[string]error{
				"create": s.Create(ctx, "new", nil, blob.CreateOptions{}),
				"stat":   statErr,
				"read":   readErr,
				"list":   s.List(ctx, "", blob.ListOptions{}, func(blob.Object) error { return nil }),
				"delete": s.Delete(ctx, "none"),
				"retain": s.Retain(ctx, "none", time.Now().Add(time.Hour)),
			} {
				if !errors.Is(err, file.ErrGone) || errors.Is(err, blob.ErrNotFound) {
					t.Errorf("%s: %v", op, err)
				}
				if !strings.Contains(hferr.HintOf(err), "mount") {
					t.Errorf("%s: hint %q", op, hferr.HintOf(err))
				}
			}
		})
	}
}

// TestSymlinks: nothing outside the directory can be reached, and what is no
// plain file is no object.
func TestSymlinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	put(t, s, "real", "x")
	links := map[string]string{"out": outside, "leaf": filepath.Join(outside, "secret"), "in": "real", "up": ".."}
	for name, to := range links {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"out/secret", "leaf", "in", "up/x"} {
		if body, err := get(t.Context(), s, key); err == nil {
			t.Errorf("read of %q gives %q", key, body)
		}
	}
	if err := s.Create(t.Context(), "out/new", []byte("x"), blob.CreateOptions{}); err == nil {
		t.Error("created through a symbolic link")
	}
	if err := s.Delete(t.Context(), "out/secret"); err == nil {
		t.Error("delete through a symbolic link succeeded")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 1 {
		t.Errorf("outside now holds %v, %v", left, err)
	}
	if keys := keysOf(t, s, "", blob.ListOptions{}); !slices.Equal(keys, []string{"real"}) {
		t.Errorf("listed %q", keys)
	}
}

// TestPrefixConflict: a key cannot also be the directory of another, and is
// not said to exist either.
func TestPrefixConflict(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/b", "ab")
	put(t, s, "c", "c")
	for _, key := range []string{"a", "c/d", "c/d/e"} {
		err := s.Create(t.Context(), key, nil, blob.CreateOptions{})
		if !errors.Is(err, blob.ErrPrefix) || errors.Is(err, blob.ErrExists) {
			t.Errorf("%q: %v", key, err)
		}
	}
	if keys := keysOf(t, s, "", blob.ListOptions{}); !slices.Equal(keys, []string{"a/b", "c"}) {
		t.Errorf("listed %q", keys)
	}
	// An empty directory, as a crash leaves it, is no conflict and no prefix.
	if err := os.MkdirAll(filepath.Join(dir, "e"), 0o700); err != nil {
		t.Fatal(err)
	}
	if dirs := keysOf(t, s, "", blob.ListOptions{Dirs: true}); !slices.Equal(dirs, []string{"a/", "c"}) {
		t.Errorf("dirs %q", dirs)
	}
	put(t, s, "e", "e")
}

func TestSweepTemp(t *testing.T) {
	dir := t.TempDir()
	put(t, open(t, dir), "o", "x")
	now := time.Now()
	ages := map[string]time.Duration{"1-old": 25 * time.Hour, "1-young": 23 * time.Hour, "1-ahead": -time.Hour}
	for name, age := range ages {
		p := filepath.Join(dir, ".tmp", name)
		if err := errors.Join(os.WriteFile(p, nil, 0o400), os.Chtimes(p, now, now.Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	s, err := file.Open(dir, file.Options{Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	left, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	if err != nil || len(left) != 2 || left[0].Name() != "1-ahead" || left[1].Name() != "1-young" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestStrangers: files that cannot be keys are neither listed nor in the way.
func TestStrangers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "a/o", "x")
	for _, name := range []string{"lost+found", "a/.nfs0001", "a/with space", ".retain/a/o/junk"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if keys := keysOf(t, s, "", blob.ListOptions{}); !slices.Equal(keys, []string{"a/o"}) {
		t.Errorf("listed %q", keys)
	}
	if err := s.Delete(t.Context(), "a/o"); err != nil {
		t.Error(err)
	}
}

// TestListWindows: a directory of many more names than are held at a time.
func TestListWindows(t *testing.T) {
	s := file.New(crashfs.New(1, nil), "crashfs", file.Options{})
	var all []string
	for i := range 200 {
		key := fmt.Sprintf("d/%03d", i)
		if i%10 == 0 {
			key += "/in"
		}
		put(t, s, key, "")
		all = append(all, key)
	}
	for _, window := range []int{1, 7, 99, 100, 200, 1000} {
		s.SetWindow(window)
		for _, after := range []string{"", "d/0505", "d/100/", "d/199"} {
			want := slices.DeleteFunc(slices.Clone(all), func(k string) bool { return k <= after })
			if got := keysOf(t, s, "d/", blob.ListOptions{After: after}); !slices.Equal(got, want) {
				t.Errorf("window %d, after %q: %d keys, want %d", window, after, len(got), len(want))
			}
		}
	}
}

// TestTruncatedMeanwhile: a file that shrinks under a reader is an error, not
// a short object.
func TestTruncatedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "o", strings.Repeat("x", 1000))
	r, err := s.Read(t.Context(), "o", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	name := filepath.Join(dir, "o")
	if err := errors.Join(os.Chmod(name, 0o600), os.Truncate(name, 10)); err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(r); !errors.Is(err, io.ErrUnexpectedEOF) || len(body) != 10 {
		t.Errorf("read %d bytes, %v", len(body), err)
	}
}

// failing is a disk on which one operation fails.
type failing struct {
	*crashfs.FS
	op  string
	err error
}

func (f failing) Create(name string, perm fs.FileMode) (diskfs.File, error) {
	if f.op == "create" {
		return nil, &fs.PathError{Op: "openat", Path: name, Err: f.err}
	}
	return f.FS.Create(name, perm)
}

func (f failing) Link(oldname, newname string) error {
	if f.op == "link" {
		return &os.LinkError{Op: "linkat", Old: oldname, New: newname, Err: f.err}
	}
	return f.FS.Link(oldname, newname)
}

func (f failing) SyncDir(name string) error {
	if f.op == "syncdir" {
		return &fs.PathError{Op: "sync", Path: name, Err: f.err}
	}
	return f.FS.SyncDir(name)
}

func TestHints(t *testing.T) {
	cases := []struct {
		op   string
		err  syscall.Errno
		hint string
	}{
		{"create", syscall.ENOSPC, "free space"},
		{"link", syscall.EDQUOT, "quota"},
		{"create", syscall.EROFS, "read-write"},
		{"create", syscall.EACCES, "chown"},
		{"link", syscall.EPERM, "hard links"},
		{"link", syscall.EOPNOTSUPP, "hard links"},
		{"syncdir", syscall.EIO, "kernel log"},
		{"create", syscall.EMFILE, "ulimit -n"},
	}
	for _, c := range cases {
		disk := failing{crashfs.New(1, nil), c.op, c.err}
		s := file.New(disk, "there", file.Options{})
		err := s.Create(t.Context(), "a/key", []byte("x"), blob.CreateOptions{})
		if !errors.Is(err, c.err) || !strings.Contains(hferr.HintOf(err), c.hint) {
			t.Errorf("%s fails with %v: %v, hint %q", c.op, c.err, err, hferr.HintOf(err))
		}
		if err == nil || !strings.Contains(err.Error(), `"a/key" in there`) {
			t.Errorf("%v: the error does not name its place: %v", c.err, err)
		}
		if c.op != "syncdir" {
			if _, err := s.Stat(t.Context(), "a/key"); !errors.Is(err, blob.ErrNotFound) {
				t.Errorf("%v: the object is there: %v", c.err, err)
			}
		}
	}
}
