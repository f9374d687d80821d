package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

var errNoApt = errors.New("not root on a Debian system")

// program makes sure that a program is there whose Debian package has its
// name.
func program(ctx context.Context, name string) (string, error) {
	if _, err := exec.LookPath(name); err != nil {
		if err := aptInstall(ctx, name); err != nil {
			return "", err
		}
	}
	return exec.LookPath(name)
}

// aptInstall installs Debian packages where we may, and says what to install
// where we may not.
func aptInstall(ctx context.Context, packages ...string) error {
	names := strings.Join(packages, " ")
	if _, err := exec.LookPath("apt-get"); err != nil || os.Geteuid() != 0 {
		return hferr.New("install "+names, errNoApt, "install "+names+" with your system's package manager and run this again")
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if aptGet(ctx, install...) == nil {
		return nil
	}
	// A fresh machine has no package lists, an old one stale lists.
	if err := aptGet(ctx, "update"); err != nil {
		return err
	}
	return aptGet(ctx, install...)
}

func aptGet(ctx context.Context, args ...string) error {
	// Another apt may be at work: wait for it rather than fail.
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-q", "-o", "DPkg::Lock::Timeout=300"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	text := strings.TrimSpace(string(out))
	if len(text) > 2000 {
		text = text[len(text)-2000:]
	}
	return fmt.Errorf("apt-get %s: %w: %s", strings.Join(args, " "), err, text)
}
