package main

import (
	"archive/tar"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// tree writes a file system as a tar archive, each name once, parents first.
type tree struct {
	tar  *tar.Writer
	seen map[string]bool
	size int64 // bytes of the files' content
}

func newTree(w io.Writer) *tree { return &tree{tar: tar.NewWriter(w), seen: map[string]bool{}} }

func (t *tree) close() error { return t.tar.Close() }

func (t *tree) has(name string) bool { return t.seen[name] }

// header writes an entry after the directories it is in.
func (t *tree) header(h *tar.Header) error {
	if parent := path.Dir(h.Name); parent != "." && !t.seen[parent] {
		if err := t.dir(parent, 0o755); err != nil {
			return err
		}
	}
	t.seen[h.Name] = true
	h.Format = tar.FormatPAX
	return t.tar.WriteHeader(h)
}

func (t *tree) dir(name string, mode int64) error {
	if t.seen[name] {
		return nil
	}
	return t.header(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode})
}

func (t *tree) text(name, text string) error {
	err := t.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(t.tar, text)
	}
	return err
}

// file adds a host file, following links, under a name.
func (t *tree) file(host, name string) error {
	if t.seen[name] {
		return nil
	}
	f, err := os.Open(host)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mode := int64(0o644)
	if info.Mode()&0o111 != 0 {
		mode = 0o755
	}
	if err := t.header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	n, err := io.Copy(t.tar, f)
	t.size += n
	return err
}

// copyDir adds a directory with everything in it, links as links.
func (t *tree) copyDir(ctx context.Context, host, name string) error {
	return filepath.WalkDir(host, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(host, p)
		if err != nil {
			return err
		}
		to := path.Join(name, filepath.ToSlash(rel))
		switch {
		case d.IsDir():
			return t.dir(to, 0o755)
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			return t.header(&tar.Header{Typeflag: tar.TypeSymlink, Name: to, Linkname: target, Mode: 0o777})
		default:
			return t.file(p, to)
		}
	})
}

// systemLibraries are where this machine's shared libraries may be.
func systemLibraries() ([]string, error) {
	dirs := []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	for _, pattern := range []string{"/lib/*-linux-gnu", "/usr/lib/*-linux-gnu"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		dirs = append(more, dirs...)
	}
	return dirs, nil
}

var errNoLibrary = errors.New("this machine lacks a shared library")

// addLibraries adds the loader and the shared libraries that a program needs,
// except those found in own, which are in the tree already. Each goes where it
// is on this machine, where this machine's loader looks for it.
func addLibraries(t *tree, program string, own []string) error {
	system, err := systemLibraries()
	if err != nil {
		return err
	}
	needs, loader, err := readELF(program)
	if err != nil || len(needs) == 0 {
		return err
	}
	if loader != "" {
		if err := t.file(loader, strings.TrimPrefix(loader, "/")); err != nil {
			return err
		}
	}
	for _, lib := range needs {
		if slices.ContainsFunc(own, func(d string) bool { return exists(filepath.Join(d, lib)) }) {
			continue
		}
		i := slices.IndexFunc(system, func(d string) bool { return exists(filepath.Join(d, lib)) })
		if i < 0 {
			return fmt.Errorf("%w: %s needs %s", errNoLibrary, program, lib)
		}
		file := filepath.Join(system[i], lib)
		if t.has(file[1:]) {
			continue
		}
		if err := t.file(file, file[1:]); err != nil {
			return err
		}
		if err := addLibraries(t, file, own); err != nil {
			return err
		}
	}
	return nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// readELF returns the libraries a program names and its loader. A script has
// neither.
func readELF(file string) (needs []string, loader string, err error) {
	f, err := elf.Open(file)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }()
	if needs, err = f.ImportedLibraries(); err != nil {
		return nil, "", fmt.Errorf("%s: %w", file, err)
	}
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", file, err)
		}
		loader = strings.TrimRight(string(b), "\x00")
	}
	return needs, loader, nil
}
