package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/client"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// image is one that the daemon has.
type image struct {
	ref  string
	id   string // the registry's digest where there is one, else the local id
	path string // PATH of its environment
}

// pullLimit bounds a pull: a server image has about 150 MB.
const pullLimit = 10 * time.Minute

// chooseImage takes the image asked for, pulling it if need be. If none was
// asked for it takes the engine's image if the daemon has it, else the one the
// provisioner built, else it pulls the engine's.
func chooseImage(ctx context.Context, cli *client.Client, r recipe, s Spec, log *slog.Logger) (image, error) {
	if s.Image == "" && s.Version == "" {
		return image{}, fmt.Errorf("%w: neither a %s version nor an image was asked for", ErrMissing, s.Engine)
	}
	local, pull := []string{s.Image}, s.Image
	if s.Image == "" {
		pull = fmt.Sprintf(r.image, s.Version)
		local = []string{pull, fmt.Sprintf(r.local, s.Version)}
	}
	for _, ref := range local {
		img, err := inspectImage(ctx, cli, ref)
		if err == nil || !cerrdefs.IsNotFound(err) {
			return img, err
		}
	}
	log.Info("pulling a server image", "image", pull)
	if err := pullImage(ctx, cli, pull); err != nil {
		if ctx.Err() != nil {
			return image{}, ctx.Err()
		}
		return image{}, hferr.New("get a "+s.Engine+" image",
			fmt.Errorf("%w: Docker has none of %s, and pulling %s failed: %w", ErrMissing, strings.Join(local, ", "), pull, err),
			imageHint(r, s))
	}
	return inspectImage(ctx, cli, pull)
}

func imageHint(r recipe, s Spec) string {
	if s.Image != "" {
		return "load or pull " + s.Image + " into Docker, or name another image"
	}
	return fmt.Sprintf("docker pull "+r.image+", or build one here: go run ./testcontainers/provision image:%s@%s",
		s.Version, s.Engine, s.Version)
}

func inspectImage(ctx context.Context, cli *client.Client, ref string) (image, error) {
	res, err := cli.ImageInspect(ctx, ref)
	if err != nil {
		return image{}, fmt.Errorf("inspect image %s: %w", ref, err)
	}
	img := image{ref: ref, id: res.ID}
	if len(res.RepoDigests) > 0 {
		img.id = res.RepoDigests[0]
	}
	if res.Config != nil {
		for _, kv := range res.Config.Env {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				img.path = v
			}
		}
	}
	return img, nil
}

func pullImage(ctx context.Context, cli *client.Client, ref string) error {
	ctx, cancel := context.WithTimeout(ctx, pullLimit)
	defer cancel()
	res, err := cli.ImagePull(ctx, ref, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	return errors.Join(res.Wait(ctx), res.Close())
}
