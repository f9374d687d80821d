package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/moby/moby/client"
)

// Reap removes what sandboxes under dir, and their containers, left behind
// when their owner was killed: whatever carries label (empty: any) and whose
// owner no longer runs. It returns what it removed, and goes on after an
// error. Sandboxes in use, also other processes', are left alone. That no
// Docker daemon answers is no error: then there are no containers to remove.
func Reap(ctx context.Context, dir, label string) ([]string, error) {
	containers, err1 := reapContainers(ctx, dir, label)
	homes, err2 := reapHomes(ctx, dir, label)
	return append(containers, homes...), errors.Join(err1, err2)
}

func reapHomes(ctx context.Context, dir, label string) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(escapeGlob(dir), placePrefix+"*"))
	if err != nil {
		return nil, err
	}
	var removed []string
	var errs []error
	for _, root := range found {
		ok, err := orphan(root, label)
		if err == nil && ok {
			err = reapHome(ctx, root)
		}
		if err != nil {
			errs = append(errs, err)
		} else if ok {
			removed = append(removed, root)
		}
	}
	return removed, errors.Join(errs...)
}

func reapHome(ctx context.Context, root string) error {
	if err := killResidents(ctx, root, nil, killPatience); err != nil {
		return err
	}
	return removeTree(root)
}

// orphan reports whether root is a sandbox with the label whose owner is
// gone. One without a readable owner is left alone: its owner may be just
// about to write it. So is one of another user: in a directory open to all,
// anybody can write anything into it.
func orphan(root, label string) (bool, error) {
	info, err := os.Lstat(root)
	if err != nil || !info.IsDir() {
		return false, ignoreMissing(err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return false, nil
	}
	b, err := os.ReadFile(filepath.Join(root, ownerFile))
	if err != nil {
		return false, ignoreMissing(err)
	}
	o, err := decodeOwner(b)
	if err != nil {
		return false, fmt.Errorf("%s: %w", root, err)
	}
	return (label == "" || o.Label == label) && !o.alive(), nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// escapeGlob makes a path match itself only.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// reapContainers removes containers whose owner ran on this host and is gone.
// Normally they end with their owner (see keeper); this is for those that a
// hanging daemon or a restart of it left.
func reapContainers(ctx context.Context, dir, label string) ([]string, error) {
	cli, err := dialDocker(ctx)
	if err != nil {
		return nil, ctx.Err()
	}
	defer func() { _ = cli.Close() }()
	filter := labelSandbox
	if label != "" {
		filter += "=" + label
	}
	list, err := cli.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("label", filter),
	})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	var removed []string
	var errs []error
	for _, c := range list.Items {
		o, err := decodeOwner([]byte(c.Labels[labelOwner]))
		if err == nil && (o.alive() || filepath.Dir(c.Labels[labelHome]) != filepath.Clean(dir)) {
			continue
		}
		if err == nil {
			err = removeContainer(ctx, cli, c.ID)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("container %s: %w", c.ID, err))
			continue
		}
		removed = append(removed, "container "+c.ID)
	}
	return removed, errors.Join(errs...)
}
