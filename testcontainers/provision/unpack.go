package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// inArchive is where the server's tree lies in the package.
const inArchive = "package/native/"

// linksFile lists the symbolic links, which npm packages cannot hold; the
// package's own post-install script makes them from it.
const linksFile = "pg-symlinks.json"

var errIntegrity = errors.New("the archive is not the one that was pinned")

// checkIntegrity compares a file with a "sha512-<base64>" hash.
func checkIntegrity(file, want string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	h := sha512.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(h.Sum(nil)); got != want {
		return fmt.Errorf("%w: %s, expected %s", errIntegrity, got, want)
	}
	return nil
}

// unpack extracts the server's tree into dir, readable and enterable by all:
// the servers run as another user than the one who provisions.
func unpack(ctx context.Context, archive, dir string) error {
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir) // no name in the archive leads outside
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	if err := unpackTar(ctx, tar.NewReader(z), root); err != nil {
		return fmt.Errorf("unpack %s: %w", archive, err)
	}
	if err := makeLinks(root); err != nil {
		return err
	}
	return fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = root.Chmod(p, 0o755) // whatever the umask is
		}
		return err
	})
}

func unpackTar(ctx context.Context, t *tar.Reader, root *os.Root) error {
	for {
		hdr, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(path.Clean(hdr.Name), inArchive)
		if !ok || hdr.Typeflag != tar.TypeReg {
			continue
		}
		if err := unpackFile(root, name, hdr.FileInfo().Mode(), t); err != nil {
			return err
		}
	}
}

func unpackFile(root *os.Root, name string, mode fs.FileMode, r io.Reader) error {
	perm := fs.FileMode(0o644)
	if mode&0o111 != 0 || strings.HasPrefix(name, "bin/") {
		perm = 0o755
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, perm)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Chmod(perm), f.Close())
}

// link is one entry of linksFile: source is the existing file, target the
// link, both as paths from the package's root.
type link struct{ Source, Target string }

func makeLinks(root *os.Root) error {
	b, err := root.ReadFile(linksFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := parseLinks(b)
	if err != nil {
		return err
	}
	for _, l := range links {
		err := root.Symlink(l.Source, l.Target)
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("link %s: %w", l.Target, err)
		}
	}
	return nil
}

// parseLinks returns links whose target is a path in the server's tree and
// whose source is relative to the target's directory. Both must be inside the
// tree and in the same directory, which is all that library links need.
func parseLinks(b []byte) ([]link, error) {
	var raw []link
	if err := json.Unmarshal(b, &raw); err != nil {
		return nil, fmt.Errorf("read %s: %w", linksFile, err)
	}
	var links []link
	for _, l := range raw {
		source, ok1 := strings.CutPrefix(path.Clean(l.Source), "native/")
		target, ok2 := strings.CutPrefix(path.Clean(l.Target), "native/")
		if !ok1 || !ok2 || !fs.ValidPath(target) || path.Dir(source) != path.Dir(target) {
			return nil, fmt.Errorf("read %s: %q is no link inside one directory", linksFile, l.Target)
		}
		links = append(links, link{Source: path.Base(source), Target: target})
	}
	return links, nil
}
