package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/moby/client"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// docker makes sure that a Docker daemon answers: the one that is there, else
// Debian's, installed and started in the background. The daemon stays, as a
// system's own would; its process id and log are in the cache directory.
func (p provisioner) docker(ctx context.Context) (string, error) {
	if version, err := daemonVersion(ctx); err == nil {
		return "Docker " + version + " answers", nil
	}
	if p.getenv("DOCKER_HOST") != "" {
		return "", hferr.NewUsage("reach Docker", errors.New("no daemon answers at DOCKER_HOST"), "start that daemon, or unset DOCKER_HOST")
	}
	if _, err := exec.LookPath("dockerd"); err != nil {
		// iptables is only a recommendation of docker.io, and dockerd fails
		// without it.
		if err := aptInstall(ctx, "docker.io", "iptables"); err != nil {
			return "", err
		}
	}
	cache, err := testcontainers.CacheDir(p.getenv)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "docker")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return startDaemon(ctx, dir)
}

func daemonVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cli, err := client.New(client.FromEnv)
	if err != nil {
		return "", err
	}
	defer func() { _ = cli.Close() }()
	v, err := cli.ServerVersion(ctx, client.ServerVersionOptions{})
	return v.Version, err
}

// startLimit is generous: a first start creates its storage.
const startLimit = time.Minute

// startDaemon tries the daemon as it is, then with settings for machines that
// allow less (containers, virtual machines without overlay or iptables).
func startDaemon(ctx context.Context, dir string) (string, error) {
	// Two provisioners at once must not start two daemons.
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", err
	}
	if version, err := daemonVersion(ctx); err == nil {
		return "Docker " + version + " answers", nil
	}
	var failures []error
	for _, args := range [][]string{nil, {"--storage-driver=vfs"}, {"--storage-driver=vfs", "--iptables=false", "--bridge=none"}} {
		version, err := tryDaemon(ctx, dir, args)
		if err == nil {
			return strings.TrimSpace("Docker " + version + " started " + strings.Join(args, " ")), nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return "", hferr.New("start dockerd", errors.Join(failures...), "see "+filepath.Join(dir, "dockerd.log")+"; dockerd needs root")
}

func tryDaemon(ctx context.Context, dir string, args []string) (string, error) {
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return "", err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command("dockerd", args...) // outlives us: no context
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := awaitDaemon(ctx, ended); err != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return "", fmt.Errorf("dockerd %s: %w", strings.Join(args, " "), err)
	}
	pid := fmt.Sprintln(cmd.Process.Pid)
	if err := os.WriteFile(filepath.Join(dir, "dockerd.pid"), []byte(pid), 0o644); err != nil {
		return "", err
	}
	return daemonVersion(ctx)
}

func awaitDaemon(ctx context.Context, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		if _, err := daemonVersion(ctx); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("it ended"), err)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
