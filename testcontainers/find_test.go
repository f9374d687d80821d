package testcontainers

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// fakeServer makes a directory with a "postgres" that claims a version.
func fakeServer(t *testing.T, dir, says string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/sh\n[ -z \"$HOLDFAST_LEAK\" ] || exit 9\n" + says + "\n"
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func env(kv map[string]string) func(string) string { return func(k string) string { return kv[k] } }

func TestFindOrder(t *testing.T) {
	t.Setenv("HOLDFAST_LEAK", "yes")
	tmp := t.TempDir()
	named := fakeServer(t, filepath.Join(tmp, "named"), "echo postgres 16.9")
	onPath := fakeServer(t, filepath.Join(tmp, "path"), "echo postgres 16.1")
	old := fakeServer(t, filepath.Join(tmp, "old"), "echo postgres 9.6")
	broken := fakeServer(t, filepath.Join(tmp, "broken"), "exit 1")
	r, _ := recipeFor("postgres")
	cached := fakeServer(t, filepath.Join(serverDir(tmp, "postgres", r.packages["16"]), "bin"), "echo postgres 16.14")

	vars := map[string]string{
		"HOLDFAST_POSTGRES_BIN_16": named, "HOLDFAST_CACHE": tmp,
		"PATH": strings.Join([]string{"relative", broken, old, onPath}, ":"),
	}
	for _, want := range []struct{ version, source, unset string }{
		{"16.9", "HOLDFAST_POSTGRES_BIN_16", "HOLDFAST_POSTGRES_BIN_16"},
		{"16.1", "PATH", "PATH"},
		{"16.14", "provisioned", ""},
	} {
		b, err := Finder{env(vars)}.Find(t.Context(), "postgres", "16")
		if err != nil || b.Version != want.version || b.Source != want.source {
			t.Errorf("%+v, %v; want %s by %s", b, err, want.version, want.source)
		}
		vars[want.unset] = ""
	}

	vars["PATH"] = broken + ":" + old
	if err := os.RemoveAll(cached); err != nil {
		t.Fatal(err)
	}
	_, err := Finder{env(vars)}.Find(t.Context(), "postgres", "16")
	if !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	for _, place := range []string{"$HOLDFAST_POSTGRES_BIN_16", "/usr/lib/postgresql/16/bin", "/usr/pgsql-16/bin", broken, old + " (another version)", cached + " (nothing there)"} {
		if !strings.Contains(err.Error(), place) {
			t.Errorf("the error does not name %s: %v", place, err)
		}
	}
	if hint := hferr.HintOf(err); !strings.Contains(hint, "make servers") || !strings.Contains(hint, "postgresql-16") {
		t.Errorf("hint: %s", hint)
	}

	vars["HOLDFAST_POSTGRES_BIN_16"] = old
	if _, err := (Finder{env(vars)}).Find(t.Context(), "postgres", "16"); err == nil || errors.Is(err, ErrMissing) {
		t.Errorf("an unusable %s was passed over: %v", r.binVariable("16"), err)
	}
}

func TestCacheDir(t *testing.T) {
	tmp := t.TempDir()
	open, closed := filepath.Join(tmp, "open"), filepath.Join(tmp, "closed")
	for d, mode := range map[string]os.FileMode{tmp: 0o755, filepath.Dir(tmp): 0o755, open: 0o755, closed: 0o700} {
		if err := errors.Join(os.MkdirAll(d, mode), os.Chmod(d, mode)); err != nil {
			t.Fatal(err)
		}
	}
	root := os.Geteuid() == 0
	fromClosed := filepath.Join(closed, ".cache", "holdfast")
	if root {
		fromClosed = sharedCache
	}
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"HOLDFAST_CACHE": "/c", "HOME": open}, "/c"},
		{map[string]string{"XDG_CACHE_HOME": open + "/x", "HOME": closed}, open + "/x/holdfast"},
		{map[string]string{"HOME": open}, open + "/.cache/holdfast"},
		{map[string]string{"HOME": closed}, fromClosed},
	} {
		got, err := CacheDir(env(c.env))
		if err != nil || got != c.want {
			t.Errorf("%v: %q, %v; want %q", c.env, got, err, c.want)
		}
	}
	if got, err := CacheDir(env(map[string]string{"HOLDFAST_CACHE": "here"})); err == nil {
		t.Errorf("a relative cache: %q", got)
	}
	if got, err := CacheDir(env(nil)); root != (err == nil) {
		t.Errorf("without any variable: %q, %v", got, err)
	}
}

func TestMayPass(t *testing.T) {
	a := account{uid: 10, gid: 20, groups: []uint32{20, 21}}
	for _, c := range []struct {
		uid, gid uint32
		mode     os.FileMode
		want     bool
	}{
		{10, 1, 0o100, true}, {10, 20, 0o011, false}, // the owner's bit decides for the owner
		{1, 20, 0o010, true}, {1, 21, 0o010, true}, {1, 21, 0o101, false},
		{1, 1, 0o001, true}, {1, 1, 0o770, false},
	} {
		if got := a.mayPass(c.mode, &syscall.Stat_t{Uid: c.uid, Gid: c.gid}); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
