package file_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// fillUp stores objects of size bytes until the disk is full, and checks that
// the error is clear and that nothing stored before was hurt. It returns how
// many fitted.
func fillUp(t *testing.T, s *file.Store, l *ledger, size int) (fitted int) {
	t.Helper()
	for ; ; fitted++ {
		body := bytes.Repeat([]byte{byte('a' + fitted%26)}, size)
		err := l.create(t.Context(), s, fmt.Sprintf("d/%06d", fitted), body, blob.CreateOptions{})
		if err == nil {
			continue
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("on a full disk: %v", err)
		}
		if hint := hferr.HintOf(err); !strings.Contains(hint, "free space") {
			t.Fatalf("on a full disk the hint is %q", hint)
		}
		if err := l.check(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return fitted
	}
}

// TestFullDisk fills a real, tiny file system where this process may mount
// one; elsewhere TestFullDiskFake and TestSizeLimit stand for it, and it fills
// the fake with the same sizes.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := mountTiny(t, dir); err != nil {
		t.Logf("no tmpfs (%v): filling the fake", err)
		disk := crashfs.New(1, atCrashClock)
		disk.SetFree(1 << 20)
		if fitted := fillUp(t, overFS(disk), newLedger(), 100_000); fitted != 10 {
			t.Fatalf("%d objects fitted", fitted)
		}
		return
	}
	s, l := open(t, filepath.Join(dir, "store")), newLedger()
	if fitted := fillUp(t, s, l, 100_000); fitted == 0 {
		t.Fatal("nothing fitted")
	}
	noTemp(t, filepath.Join(dir, "store"))
	// Deletion works on a full disk, and makes room.
	for i := range 3 {
		if err := l.delete(t.Context(), s, fmt.Sprintf("d/%06d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.create(t.Context(), s, "d/after", bytes.Repeat([]byte("z"), 100_000), blob.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l.check(t.Context(), s); err != nil {
		t.Fatal(err)
	}
}

// TestSizeLimit has the kernel refuse a write in the middle of an object, as
// any user: a child process limits the size of its files.
func TestSizeLimit(t *testing.T) {
	dir := t.TempDir()
	if out, err := child(t, "limit", dir, 0).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	noTemp(t, dir)
	s := open(t, dir)
	if got, err := get(t.Context(), s, "small"); err != nil || string(got) != "small" {
		t.Fatalf("the object stored before holds %q, %v", got, err)
	}
	if _, err := s.Stat(t.Context(), "big"); !errors.Is(err, blob.ErrNotFound) {
		t.Fatalf("the object that did not fit: %v", err)
	}
}

// limited is the child of TestSizeLimit.
func limited(ctx context.Context, s *file.Store) error {
	signal.Ignore(syscall.SIGXFSZ) // else the runtime dies of it
	limit := syscall.Rlimit{Cur: 3 << 20, Max: 3 << 20}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		return err
	}
	if err := s.Create(ctx, "small", []byte("small"), blob.CreateOptions{}); err != nil {
		return err
	}
	err := s.Create(ctx, "big", make([]byte, 5<<20), blob.CreateOptions{})
	if !errors.Is(err, syscall.EFBIG) || !strings.Contains(hferr.HintOf(err), "ulimit -f") {
		return fmt.Errorf("beyond the limit: %v, hint %q", err, hferr.HintOf(err))
	}
	return nil
}

// TestDenied takes the permissions away, as any user: a child of root becomes
// nobody first, since root is refused nothing.
func TestDenied(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s := open(t, dir)
	put(t, s, "d/o", "x")
	for name, mode := range map[string]os.FileMode{"..": 0o755, "../..": 0o755, ".": 0o555, ".tmp": 0o555, "d": 0o555, "d/o": 0} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	out, err := child(t, "denied", dir, 0).CombinedOutput()
	for _, name := range []string{".", ".tmp", "d"} { // so that they can be removed
		err = errors.Join(err, os.Chmod(filepath.Join(dir, name), 0o700))
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// denied is the child of TestDenied.
func denied(ctx context.Context, s *file.Store) error {
	if os.Getuid() == 0 {
		if err := errors.Join(syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			return err
		}
	}
	_, readErr := s.Read(ctx, "d/o", 0, -1)
	for op, err := range map[string]error{
		"read":   readErr,
		"create": s.Create(ctx, "d/new", nil, blob.CreateOptions{}),
		"delete": s.Delete(ctx, "d/o"),
		"retain": s.Retain(ctx, "d/o", time.Now().Add(time.Hour)),
	} {
		if !errors.Is(err, fs.ErrPermission) || !strings.Contains(hferr.HintOf(err), "read and write") {
			return fmt.Errorf("%s: %v, hint %q", op, err, hferr.HintOf(err))
		}
	}
	return nil
}

// noTemp checks that a failed write took its temporary file away.
func noTemp(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(filepath.Join(dir, ".tmp"))
	if err != nil || len(left) != 0 {
		t.Fatalf("%d temporary files left, %v", len(left), err)
	}
}
