package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/client"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
)

const (
	// buildLabel says what an image was made of, so that a new pin or a new
	// recipe makes a new image.
	buildLabel = "holdfast.build"
	// imageRecipe is to be raised whenever the content of images changes.
	imageRecipe = "1"
	// inImage is where the server is in the image.
	inImage = "usr/local/pgsql"
)

// tools are the programs in an image beside the server's: a shell, which
// servers and the sandbox need, and what restore scripts expect.
var tools = [...]string{"sh", "cat", "cp", "env", "id", "ls", "mkdir", "mv", "rm", "sleep", "test", "true", "false"}

// image builds holdfast/<engine>:<version> from the pinned build and this
// machine's own shell and C library. No registry, no network and no root file
// system of a distribution is needed, so it takes seconds anywhere.
func (p provisioner) image(ctx context.Context, engine, version string) (string, error) {
	if err := p.fetchBuild(ctx, engine, version); err != nil {
		return "", err
	}
	b, err := testcontainers.PinnedBuild(p.getenv, engine, version)
	if err != nil {
		return "", err
	}
	cli, err := client.New(client.FromEnv)
	if err != nil {
		return "", err
	}
	defer func() { _ = cli.Close() }()
	if _, err := daemonVersion(ctx); err != nil {
		return "", hferr.New("reach Docker", err, "run `go run ./testcontainers/provision docker` first")
	}
	ref, made := "holdfast/"+engine+":"+version, b.Package+" "+imageRecipe
	if res, err := cli.ImageInspect(ctx, ref); err == nil && res.Config != nil && res.Config.Labels[buildLabel] == made {
		return ref + " is there", nil
	}
	size, err := importImage(ctx, cli, ref, made, b.Dir)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", ref, err)
	}
	return fmt.Sprintf("%s built, %d MB", ref, size>>20), nil
}

// importImage streams the image's file system to the daemon and returns its
// size in bytes.
func importImage(ctx context.Context, cli *client.Client, ref, made, server string) (int64, error) {
	r, w := io.Pipe()
	var size int64
	go func() {
		t := newTree(w)
		err := writeImage(ctx, t, server)
		size = t.size
		_ = w.CloseWithError(err)
	}()
	res, err := cli.ImageImport(ctx, client.ImageImportSource{Source: r, SourceName: "-"}, ref, client.ImageImportOptions{
		Changes: []string{
			"ENV PATH=/" + inImage + "/bin:/usr/local/bin:/usr/bin:/bin",
			fmt.Sprintf("LABEL %s=%q", buildLabel, made),
		},
	})
	if err != nil {
		return 0, errors.Join(err, r.CloseWithError(err))
	}
	answer, err := io.ReadAll(res)
	err = errors.Join(err, res.Close())
	if err == nil && strings.Contains(string(answer), `"error"`) {
		err = errors.New(strings.TrimSpace(string(answer)))
	}
	return size, err
}

// writeImage writes the whole file system.
func writeImage(ctx context.Context, t *tree, server string) error {
	for _, dir := range []string{"tmp", "var/tmp"} {
		if err := t.dir(dir, 0o1777); err != nil {
			return err
		}
	}
	for _, dir := range []string{"dev", "etc", "proc", "root", "run", "sys", "var"} {
		if err := t.dir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := t.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"); err != nil {
		return err
	}
	if err := t.text("etc/group", "root:x:0:\n"); err != nil {
		return err
	}
	if err := t.copyDir(ctx, server, inImage); err != nil {
		return err
	}
	for _, tool := range tools {
		if err := addTool(t, tool); err != nil {
			return err
		}
	}
	return addServerLibraries(t, server)
}

func addTool(t *tree, name string) error {
	for _, dir := range []string{"/bin", "/usr/bin"} {
		file := filepath.Join(dir, name)
		if _, err := os.Stat(file); err != nil {
			continue
		}
		if err := t.file(file, "bin/"+name); err != nil {
			return err
		}
		return addLibraries(t, file, nil)
	}
	return fmt.Errorf("this machine has no %s", name)
}

// addServerLibraries adds what the server takes from the system; what comes
// with it is in its own tree already. Extensions in other languages (Perl,
// Python) may need what this machine does not have: those then cannot be
// loaded in the container, as they cannot on this machine.
func addServerLibraries(t *tree, server string) error {
	own := []string{filepath.Join(server, "lib")}
	for _, part := range []struct {
		pattern  string
		optional bool
	}{{"bin/*", false}, {"lib/*.so*", false}, {"lib/postgresql/*.so", true}} {
		files, err := filepath.Glob(filepath.Join(server, part.pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			err := addLibraries(t, f, own)
			if err != nil && (!part.optional || !errors.Is(err, errNoLibrary)) {
				return err
			}
		}
	}
	return t.close()
}
