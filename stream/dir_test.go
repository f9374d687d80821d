package stream

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func dirTarget(t *testing.T, dir string, o DirOptions) *DirTarget {
	t.Helper()
	d, err := NewDirTarget(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func writeItem(d *DirTarget, it repo.Item, body string) error {
	f, err := d.Create(it)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte(body), 0)
	return errors.Join(err, f.Close())
}

func TestDirStaysInside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	d := dirTarget(t, filepath.Join(t.TempDir(), "a", "b"), DirOptions{})
	if err := d.Symlink(repo.Item{Path: "out", Link: outside}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"out/f", "../f", "/f"} {
		if err := writeItem(d, repo.Item{Path: p}, "x"); err == nil {
			t.Errorf("%s was written", p)
		}
	}
	if err := d.Mkdir(repo.Item{Path: "out/d"}); err == nil {
		t.Error("a directory was made through the link")
	}
	left, err := os.ReadDir(outside)
	if err != nil || len(left) > 0 {
		t.Errorf("outside: %v %v", left, err)
	}
}

func TestDirNotEmpty(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, f := range []string{"keep", "replace"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("old and long"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := NewDirTarget(dir, DirOptions{}); !errors.Is(err, ErrNotEmpty) || hferr.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
	d := dirTarget(t, dir, DirOptions{AllowNonEmpty: true})
	if err := writeItem(d, repo.Item{Path: "replace"}, "new"); err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]string{"keep": "old and long", "replace": "new"} {
		if got, err := os.ReadFile(filepath.Join(dir, f)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", f, got, err)
		}
	}
}

// TestDirModes restores into a directory without write permission, and parents
// that no item named.
func TestDirModes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := dirTarget(t, dir, DirOptions{})
	if err := d.Mkdir(repo.Item{Path: "ro", Mode: 0o500}); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"ro/f", "no/such/parent"} {
		if err := writeItem(d, repo.Item{Path: p, Mode: 0o400}, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Finish(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := d.syncEach(context.Background()); err != nil {
		t.Errorf("file by file: %v", err)
	}
	for p, want := range map[string]os.FileMode{"ro": 0o500, "ro/f": 0o400, "no": 0o700, "no/such/parent": 0o400} {
		if info, err := os.Stat(filepath.Join(dir, p)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %o", p, info, err, want)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "ro"), 0o700); err != nil { // so that it can be removed
		t.Fatal(err)
	}
}

func TestRestoreSkips(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	o := options(t, MinBudget)
	m, _ := backup(t, b.l, nil, baseTree(), o, 2)
	target := &collecting{}
	stats, err := Restore(context.Background(), b.l, m, target, func(it repo.Item) bool { return it.Path != "base/s7" }, o)
	if err != nil {
		t.Fatal(err)
	}
	if len(target.files) != 1 || string(target.file("base/s7")) != string(baseTree()["base/s7"]) || stats.Items != 1 {
		t.Errorf("%d files, %+v", len(target.files), stats)
	}
}
