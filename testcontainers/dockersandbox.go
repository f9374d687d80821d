package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/client"
)

const (
	// guestRoot is where a sandbox's directories are in the container. It
	// differs from the host's path on purpose: an engine that forgets
	// GuestPath fails at once.
	guestRoot = "/holdfast"
	// runName holds the process ids of what runs in the container.
	runName = "run"

	labelSandbox = "holdfast.sandbox" // Spec.Label
	labelOwner   = "holdfast.owner"   // owner, as JSON
	labelHome    = "holdfast.home"    // directory of the sandbox on the host
)

// keeper is the container's first process. It holds the container open as
// long as we hold its standard input open: when this process dies, however it
// does, the daemon closes the input, the keeper ends, and the container goes
// away with all that runs in it. While cat runs the shell reaps orphans; if
// KillAll hit cat, or the image has none, the shell itself reads on.
const keeper = `cat >/dev/null 2>&1 && exit 0; while read -r x; do :; done`

// sharedMemory is the limit of /dev/shm, which PostgreSQL uses for parallel
// queries and index builds; Docker's default of 64 MB breaks them.
const sharedMemory = 1 << 30

// dockerSandbox is a Sandbox in one container; its processes are execs.
type dockerSandbox struct {
	home    *home
	cli     *client.Client
	recipe  recipe
	image   image
	version string
	log     *slog.Logger
	id      string // container id, "" before it is made
	stdin   client.HijackedResponse
	labels  map[string]string

	mu      sync.Mutex
	next    int // number of the next process
	running []*dockerExec
	closing bool

	removing sync.Mutex
	removed  bool
}

func (d *dockerSandbox) Dir() string { return d.home.dir() }

func (d *dockerSandbox) GuestPath(host string) string {
	rel, err := d.home.inside(host)
	if err != nil {
		return host
	}
	return path.Join(guestRoot, dataName, filepath.ToSlash(rel))
}

func (d *dockerSandbox) Share(_ context.Context, file string) (string, error) {
	host, err := d.home.share(file)
	if err != nil {
		return "", err
	}
	return path.Join(guestRoot, shareName, filepath.Base(host)), nil
}

func (d *dockerSandbox) Own(ctx context.Context, path string) error { return d.home.own(ctx, path) }

func (d *dockerSandbox) Describe() Description {
	return Description{
		Provider: DockerProvider, Isolation: "container, no network",
		Image: d.image.ref, ImageID: d.image.id, Version: d.version, User: d.home.user.name,
	}
}

// Dial goes straight to the socket's file, which the bound directory shows to
// both sides; the container needs no network for it.
func (d *dockerSandbox) Dial(ctx context.Context, socket string) (net.Conn, error) {
	if err := d.home.checkSocket(socket); err != nil {
		return nil, err
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}

// create makes the container, takes hold of its input and starts it.
func (d *dockerSandbox) create(ctx context.Context, s Spec, o DockerOptions) error {
	if err := d.prepare(s); err != nil {
		return err
	}
	res, err := d.cli.ContainerCreate(ctx, client.ContainerCreateOptions{
		Config: d.config(s), HostConfig: d.hostConfig(o),
	})
	if err != nil {
		return fmt.Errorf("create a container of %s: %w", d.image.ref, err)
	}
	d.id = res.ID
	att, err := d.cli.ContainerAttach(ctx, d.id, client.ContainerAttachOptions{Stream: true, Stdin: true})
	if err != nil {
		return fmt.Errorf("attach to the container: %w", err)
	}
	d.stdin = att.HijackedResponse
	if _, err := d.cli.ContainerStart(ctx, d.id, client.ContainerStartOptions{}); err != nil {
		return fmt.Errorf("start the container: %w", err)
	}
	return nil
}

// prepare writes what the container needs to find on the host.
func (d *dockerSandbox) prepare(s Spec) error {
	o, err := newOwner(s.Label)
	if err != nil {
		return err
	}
	text, err := o.encode()
	if err != nil {
		return err
	}
	d.labels = map[string]string{labelSandbox: s.Label, labelOwner: string(text), labelHome: d.home.root}
	run := filepath.Join(d.home.root, runName)
	if err := os.Mkdir(run, 0o700); err != nil {
		return err
	}
	u := d.home.user
	if !u.self {
		if err := os.Chown(run, int(u.uid), int(u.gid)); err != nil {
			return err
		}
	}
	// Servers ask for the name of the user they run as; images know theirs,
	// not the host's.
	passwd := fmt.Sprintf("root:x:0:0:root:/:/bin/sh\nholdfast:x:%d:%d::%s:/bin/sh\n", u.uid, u.gid, path.Join(guestRoot, dataName))
	group := fmt.Sprintf("root:x:0:\nholdfast:x:%d:\n", u.gid)
	return errors.Join(writeReadable(filepath.Join(d.home.root, "passwd"), passwd),
		writeReadable(filepath.Join(d.home.root, "group"), group))
}

func writeReadable(file, text string) error {
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Chmod(file, 0o644) // whatever the umask is
}

func (d *dockerSandbox) config(s Spec) *container.Config {
	dirs := []string{d.image.path, path.Join(guestRoot, shareName)}
	if d.image.path == "" {
		dirs[0] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	for _, p := range d.recipe.dirs {
		if s.Version != "" {
			dirs = append(dirs, fmt.Sprintf(p, s.Version))
		}
	}
	return &container.Config{
		Image: d.image.ref, User: fmt.Sprintf("%d:%d", d.home.user.uid, d.home.user.gid),
		Entrypoint: []string{"sh", "-c", keeper}, Cmd: []string{},
		Env:        []string{"PATH=" + strings.Join(dirs, ":"), "HOME=" + path.Join(guestRoot, dataName), "LANG=C.UTF-8"},
		WorkingDir: path.Join(guestRoot, dataName), Labels: d.labels,
		AttachStdin: true, OpenStdin: true, StdinOnce: true,
		Healthcheck: &container.HealthConfig{Test: []string{"NONE"}},
	}
}

func (d *dockerSandbox) hostConfig(o DockerOptions) *container.HostConfig {
	bind := func(host, guest string, readOnly bool) mount.Mount {
		return mount.Mount{Type: mount.TypeBind, Source: host, Target: guest, ReadOnly: readOnly}
	}
	return &container.HostConfig{
		NetworkMode: "none", AutoRemove: true, ShmSize: sharedMemory,
		CapDrop: []string{"ALL"}, SecurityOpt: []string{"no-new-privileges", "label=disable"},
		Resources: container.Resources{Memory: o.MemoryBytes},
		Mounts: []mount.Mount{
			bind(d.home.dir(), path.Join(guestRoot, dataName), false),
			bind(d.home.shared(), path.Join(guestRoot, shareName), true),
			bind(filepath.Join(d.home.root, runName), path.Join(guestRoot, runName), false),
			bind(filepath.Join(d.home.root, "passwd"), "/etc/passwd", true),
			bind(filepath.Join(d.home.root, "group"), "/etc/group", true),
		},
	}
}

// Remove asks the servers to quit, gives them grace, then removes the
// container and the directory. As with local processes it runs to its end
// even if ctx is cancelled.
func (d *dockerSandbox) Remove(ctx context.Context, grace time.Duration) error {
	d.removing.Lock()
	defer d.removing.Unlock()
	if d.removed {
		return nil
	}
	d.mu.Lock()
	d.closing = true
	running := d.running
	d.mu.Unlock()
	d.quit(ctx, running, grace)
	if err := d.discard(context.WithoutCancel(ctx)); err != nil {
		return err
	}
	d.removed = true
	return d.cli.Close()
}

func (d *dockerSandbox) quit(ctx context.Context, running []*dockerExec, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, e := range running {
		if err := e.Signal(ctx, int(d.recipe.quit)); err != nil {
			d.log.Debug("could not ask a process to quit", "container", d.id, "error", err)
		}
	}
	for _, e := range running {
		_ = e.Wait(ctx) // how it ended is of no interest any more
	}
}

// removeLimit bounds the removal of a container, which may hold gigabytes.
const removeLimit = time.Minute

// discard removes container and directory and makes sure that both are gone.
func (d *dockerSandbox) discard(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, removeLimit)
	defer cancel()
	if d.stdin.Conn != nil {
		d.stdin.Close()
	}
	if d.id != "" {
		if err := removeContainer(ctx, d.cli, d.id); err != nil {
			return fmt.Errorf("remove container %s: %w", d.id, err)
		}
	}
	return d.home.remove()
}

// removeContainer kills and deletes a container with its volumes, and returns
// when the daemon no longer knows it. The daemon may be removing it already.
func removeContainer(ctx context.Context, cli *client.Client, id string) error {
	_, err := cli.ContainerRemove(ctx, id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true})
	if err != nil && !cerrdefs.IsNotFound(err) && !cerrdefs.IsConflict(err) {
		return err
	}
	for {
		_, err := cli.ContainerInspect(ctx, id, client.ContainerInspectOptions{})
		if cerrdefs.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it is still there: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pidFile is where a process notes its id: host path and guest path.
func (d *dockerSandbox) pidFile(n int) (host, guest string) {
	name := fmt.Sprintf("%d.pid", n)
	return filepath.Join(d.home.root, runName, name), path.Join(guestRoot, runName, name)
}
