package testcontainers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

func TestReapLeavesStrangersAlone(t *testing.T) {
	dir := t.TempDir()
	young := filepath.Join(dir, "hf-young") // its owner has not been written yet
	odd := filepath.Join(dir, "hf-odd")
	target := filepath.Join(dir, "precious")
	foreign := filepath.Join(dir, "hf-foreign") // somebody else's, in a directory open to all
	dead := []byte(`{"pid":1,"start":1,"boot":"old","label":"x"}`)
	for _, err := range []error{
		os.Mkdir(young, 0o755), os.Mkdir(odd, 0o755), os.Mkdir(target, 0o755),
		os.WriteFile(filepath.Join(odd, ownerFile), []byte("not JSON"), 0o600),
		os.WriteFile(filepath.Join(target, ownerFile), dead, 0o600),
		os.Mkdir(foreign, 0o755), os.WriteFile(filepath.Join(foreign, ownerFile), dead, 0o600),
		os.Lchown(foreign, os.Geteuid()+1, -1),
		os.Symlink(target, filepath.Join(dir, "hf-link")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	removed, err := reapHomes(t.Context(), dir, "")
	if len(removed) != 0 || err == nil || !strings.Contains(err.Error(), odd) {
		t.Errorf("removed %v, %v", removed, err)
	}
	for _, d := range []string{young, odd, target, foreign} {
		if _, err := os.Stat(d); err != nil {
			t.Error(err)
		}
	}
	if err := removeTree(target); err == nil {
		t.Error("something that is no sandbox was deleted")
	}
}

// TestReapContainers makes containers as a hanging daemon could leave them:
// the keeper ended nothing, the owner is long dead.
func TestReapContainers(t *testing.T) {
	cli, err := dialDocker(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cli.Close() })
	r, _ := recipeFor("postgres")
	img, err := chooseImage(t.Context(), cli, r, Spec{Engine: "postgres", Version: "15"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	living, err := newOwner("mine")
	if err != nil {
		t.Fatal(err)
	}
	dead := living
	dead.Start++
	create := func(o owner, home, label string) string {
		t.Helper()
		text, err := o.encode()
		if err != nil {
			t.Fatal(err)
		}
		res, err := cli.ContainerCreate(t.Context(), client.ContainerCreateOptions{Config: &container.Config{
			Image: img.ref, Entrypoint: []string{"sh"},
			Labels: map[string]string{labelSandbox: label, labelOwner: string(text), labelHome: filepath.Join(home, "hf-1")},
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := removeContainer(context.Background(), cli, res.ID); err != nil {
				t.Error(err)
			}
		})
		return res.ID
	}
	orphan := create(dead, dir, "mine")
	kept := []string{create(living, dir, "mine"), create(dead, dir, "other"), create(dead, filepath.Dir(dir), "mine")}

	removed, err := reapContainers(t.Context(), dir, "mine")
	if err != nil || !slices.Equal(removed, []string{"container " + orphan}) {
		t.Errorf("removed %v, %v; want %s", removed, err, orphan)
	}
	if _, err := cli.ContainerInspect(t.Context(), orphan, client.ContainerInspectOptions{}); !cerrdefs.IsNotFound(err) {
		t.Errorf("the orphan: %v", err)
	}
	for _, id := range kept {
		if _, err := cli.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{}); err != nil {
			t.Errorf("a container of somebody else: %v", err)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reapContainers(cancelled, dir, "mine"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
