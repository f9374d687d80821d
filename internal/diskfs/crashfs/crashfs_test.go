package crashfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	. "github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

const seeds = 200

// outcomes runs do on many disks, crashes each, and counts what show says.
func outcomes(t *testing.T, do func(f *FS) error, show func(f *FS) string) map[string]int {
	t.Helper()
	seen := map[string]int{}
	for seed := range uint64(seeds) {
		f := New(seed, nil)
		if err := do(f); err != nil {
			t.Fatal(err)
		}
		seen[show(f.Restart())]++
	}
	return seen
}

// put writes a file, synced or not.
func put(f *FS, name, body string, sync bool) error {
	h, err := f.Create(name, 0o600)
	if err != nil {
		return err
	}
	_, err = h.Write([]byte(body))
	if sync {
		err = errors.Join(err, h.Sync())
	}
	return errors.Join(err, h.Close())
}

// body shows a file's contents, or that there is none.
func body(name string) func(*FS) string {
	return func(f *FS) string {
		h, err := f.Open(name)
		if err != nil {
			return "none"
		}
		info, _ := h.Stat()
		b := make([]byte, info.Size())
		h.ReadAt(b, 0)
		return string(b)
	}
}

func names(f *FS) string {
	var out []byte
	for _, n := range []string{"old", "new", "d/old", "d/new"} {
		if _, err := f.Lstat(n); err == nil {
			out = fmt.Append(out, n, " ")
		}
	}
	return string(bytes.TrimSpace(out))
}

// only checks that exactly these outcomes were seen.
func only(t *testing.T, what string, seen map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("%s: never %q: %v", what, w, seen)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("%s: %v, want %q", what, seen, want)
	}
}

func TestUnsyncedIsUncertain(t *testing.T) {
	seen := outcomes(t, func(f *FS) error {
		return errors.Join(put(f, "x", "ab", true), f.SyncDir("."))
	}, body("x"))
	only(t, "synced", seen, "ab")

	seen = outcomes(t, func(f *FS) error { return put(f, "x", "ab", true) }, body("x"))
	only(t, "name not synced", seen, "none", "ab")

	seen = outcomes(t, func(f *FS) error {
		return errors.Join(put(f, "x", "ab", false), f.SyncDir("."))
	}, body("x"))
	only(t, "data not synced", seen, "", "a", "ab", "\x00\x00")

	seen = outcomes(t, func(f *FS) error {
		err := errors.Join(put(f, "x", "ab", true), f.SyncDir("."))
		h, aerr := f.Append("x")
		if err = errors.Join(err, aerr); err == nil {
			_, err = h.Write([]byte("c"))
		}
		return err
	}, body("x"))
	only(t, "appended", seen, "ab", "abc", "ab\x00")
}

func TestNamesAreIndependent(t *testing.T) {
	seen := outcomes(t, func(f *FS) error {
		return errors.Join(put(f, "old", "", true), put(f, "new", "", true))
	}, names)
	only(t, "two files", seen, "", "old", "new", "old new")

	// A durable name in a directory that is not durable.
	seen = outcomes(t, func(f *FS) error {
		return errors.Join(f.Mkdir("d", 0o700), put(f, "d/old", "", true), f.SyncDir("d"))
	}, names)
	only(t, "new directory", seen, "", "d/old")

	seen = outcomes(t, func(f *FS) error {
		return errors.Join(put(f, "old", "", true), f.SyncDir("."), f.Unlink("old"))
	}, names)
	only(t, "unlink", seen, "", "old")
}

func TestRename(t *testing.T) {
	base := func(f *FS) error {
		return errors.Join(f.Mkdir("d", 0o700), put(f, "old", "x", true), f.SyncDir("."))
	}
	seen := outcomes(t, func(f *FS) error { return errors.Join(base(f), f.Rename("old", "new")) }, names)
	only(t, "rename", seen, "old", "new", "old new")
	seen = outcomes(t, func(f *FS) error {
		return errors.Join(base(f), f.Rename("old", "d/new"), f.SyncDir("d"))
	}, names)
	only(t, "rename across, new name synced", seen, "d/new", "old d/new")
	seen = outcomes(t, func(f *FS) error {
		return errors.Join(base(f), f.Rename("old", "new"), f.SyncDir("."))
	}, names)
	only(t, "rename, synced", seen, "new")
}

// TestHardLink: two names are one file, also after a crash.
func TestHardLink(t *testing.T) {
	f := New(1, nil)
	err := errors.Join(put(f, "old", "x", true), f.Link("old", "new"), f.SyncDir("."))
	if err != nil {
		t.Fatal(err)
	}
	f = f.Restart()
	h, err := f.Append("old")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Write([]byte("y")); err != nil {
		t.Fatal(err)
	}
	if got := body("new")(f); got != "xy" {
		t.Errorf("the other name shows %q", got)
	}
}

func TestErrnos(t *testing.T) {
	f := New(1, nil)
	if err := errors.Join(f.Mkdir("d", 0o700), put(f, "d/x", "", false), put(f, "y", "", false)); err != nil {
		t.Fatal(err)
	}
	_, createErr := f.Create("y", 0o600)
	_, underFile := f.Lstat("y/z")
	for want, err := range map[error]error{
		syscall.ENOTEMPTY: f.Rmdir("d"),
		syscall.ENOTDIR:   f.Rmdir("y"),
		syscall.EISDIR:    f.Unlink("d"),
		syscall.ENOENT:    f.Unlink("d/none"),
		fs.ErrExist:       f.Mkdir("y", 0o700),
		fs.ErrNotExist:    f.Link("none", "z"),
	} {
		if !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	if !errors.Is(createErr, fs.ErrExist) || !errors.Is(underFile, syscall.ENOTDIR) || !errors.Is(f.Link("d/x", "y"), fs.ErrExist) {
		t.Errorf("create %v, lstat %v", createErr, underFile)
	}
}

func TestCrashAt(t *testing.T) {
	took := map[bool]int{}
	for seed := range uint64(seeds) {
		f := New(seed, nil)
		f.CrashAt(3) // create, write, sync, syncdir
		if err := errors.Join(put(f, "x", "ab", true)); err != nil {
			t.Fatal(err)
		}
		if err := f.SyncDir("."); !errors.Is(err, ErrCrashed) || !f.Crashed() {
			t.Fatalf("at the crash: %v", err)
		}
		if err := f.Mkdir("later", 0o700); !errors.Is(err, ErrCrashed) {
			t.Fatalf("after the crash: %v", err)
		}
		_, err := f.Restart().Lstat("x")
		took[err == nil]++
	}
	if took[true] == 0 || took[false] == 0 {
		t.Errorf("the last operation took effect: %v", took)
	}
}

func TestFull(t *testing.T) {
	f := New(1, nil)
	f.SetFree(3)
	if err := put(f, "x", "abcde", true); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("got %v", err)
	}
	if got := body("x")(f); got != "abc" {
		t.Errorf("what fitted is %q", got)
	}
}

// TestWriteAt: an unsynced write in place loses any of its sectors, and never
// what was synced beside it.
func TestWriteAt(t *testing.T) {
	old, later := bytes.Repeat([]byte("a"), 2048), bytes.Repeat([]byte("b"), 1024)
	seen := outcomes(t, func(f *FS) error {
		h, err := f.Create("x", 0o600)
		if err != nil {
			return err
		}
		_, err = h.WriteAt(old, 0)
		err = errors.Join(err, h.Datasync(), f.SyncDir("."))
		_, werr := h.WriteAt(later, 512)
		return errors.Join(err, werr)
	}, func(f *FS) string {
		b := body("x")(f)
		return b[:1] + b[512:513] + b[1024:1025] + b[1536:1537] + fmt.Sprint(len(b))
	})
	only(t, "written in place", seen, "aaaa2048", "abaa2048", "aaba2048", "abba2048", "a\x00\x00a2048")

	f := New(1, nil)
	f.SetFree(10)
	h, err := f.Create("x", 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt([]byte("12345678"), 0); err != nil {
		t.Fatal(err)
	}
	if n, err := h.WriteAt([]byte("abcdefgh"), 4); n != 6 || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if _, err := h.WriteAt([]byte("zzzz"), 0); err != nil || body("x")(f) != "zzzzabcdef" {
		t.Errorf("%v, %q", err, body("x")(f))
	}
}
