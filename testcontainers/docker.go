package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// DockerOptions limit what a container may use.
type DockerOptions struct {
	MemoryBytes int64 // 0: no limit
}

// NewDocker makes the provider that runs servers in a Docker container
// without a network, without capabilities and as an unprivileged user. The
// daemon is the one of DOCKER_HOST, or of the usual socket; it must see this
// host's files, as the sandbox's directory is bound into the container. No
// registry credentials are used.
func NewDocker(log *slog.Logger, o DockerOptions) Provider {
	return &dockerProvider{log: log, opts: o}
}

type dockerProvider struct {
	log  *slog.Logger
	opts DockerOptions
}

func (p *dockerProvider) Name() string { return DockerProvider }

func (p *dockerProvider) Provision(ctx context.Context, s Spec) (Sandbox, error) {
	r, ok := recipeFor(s.Engine)
	if !ok {
		return nil, fmt.Errorf("%w: unknown engine %q", ErrMissing, s.Engine)
	}
	user, err := serverAccount(r.users)
	if err != nil {
		return nil, err
	}
	cli, err := dialDocker(ctx)
	if err != nil {
		return nil, err
	}
	box, err := p.provision(ctx, cli, r, user, s)
	if err != nil {
		return nil, errors.Join(err, cli.Close())
	}
	return box, nil
}

func (p *dockerProvider) provision(ctx context.Context, cli *client.Client, r recipe, user account, s Spec) (*dockerSandbox, error) {
	img, err := chooseImage(ctx, cli, r, s, p.log)
	if err != nil {
		return nil, err
	}
	h, err := newHome(s, user)
	if err != nil {
		return nil, err
	}
	box := &dockerSandbox{home: h, cli: cli, recipe: r, image: img, log: p.log}
	if err := box.create(ctx, s, p.opts); err != nil {
		return nil, errors.Join(err, box.discard(context.WithoutCancel(ctx)))
	}
	if err := box.identify(ctx, s); err != nil {
		return nil, errors.Join(err, box.discard(context.WithoutCancel(ctx)))
	}
	p.log.Debug("made a sandbox", "dir", h.dir(), "container", box.id, "image", img.ref, "user", user.name)
	return box, nil
}

// dockerAnswer bounds the first word with the daemon: one that hangs is as
// good as none.
const dockerAnswer = 5 * time.Second

func dialDocker(ctx context.Context) (*client.Client, error) {
	cli, err := client.New(client.FromEnv)
	if err != nil {
		return nil, hferr.NewUsage("reach Docker", err, "check DOCKER_HOST and its companions")
	}
	ping, cancel := context.WithTimeout(ctx, dockerAnswer)
	defer cancel()
	if _, err := cli.Ping(ping, client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, errors.Join(hferr.New("reach Docker", fmt.Errorf("%w: no daemon answers at %s: %w", ErrMissing, cli.DaemonHost(), err),
			"start Docker (for development: go run ./testcontainers/provision docker), or use the process provider"), cli.Close())
	}
	return cli, nil
}

// identify asks the server in the container for its version.
func (d *dockerSandbox) identify(ctx context.Context, s Spec) error {
	var out strings.Builder
	err := d.Run(ctx, Command{Path: d.recipe.server, Args: []string{"--version"}, Stdout: &out, Stderr: &out})
	if err != nil {
		return hferr.New("use image "+d.image.ref, fmt.Errorf("%w: %s --version in it: %w: %s", ErrMissing, d.recipe.server, err, strings.TrimSpace(out.String())),
			"choose an image that has "+d.recipe.server+" on its PATH")
	}
	full, major, err := parseVersion(out.String())
	if err != nil {
		return fmt.Errorf("image %s: %w: %q", d.image.ref, err, out.String())
	}
	if s.Version != "" && major != s.Version {
		return hferr.NewUsage("use image "+d.image.ref, fmt.Errorf("%w: it has %s %s, not %s", ErrMissing, s.Engine, full, s.Version),
			"choose an image with version "+s.Version)
	}
	d.version = full
	return nil
}
