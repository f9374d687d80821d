// Command provision gets what the tests, the demo and the benchmarks need on
// a machine that has nothing but Go:
//
//	provision postgres@15 postgres@18   server binaries, into the cache directory
//	provision docker                    a Docker daemon, installed and started
//	provision image:postgres@15         a local image holdfast/postgres:15
//	provision pgbackrest                pgBackRest, for the benchmarks
//	provision faketime                  libfaketime, for servers whose clock is set
//
// Everything is idempotent, quick when already there, and safe to run twice at
// once. Each step says how long it took. It belongs to development: the
// product never installs or downloads anything.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

func main() {
	// What is provisioned is for other users too, whatever our caller's umask.
	syscall.Umask(0o022)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], provisioner{
		log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		getenv: os.Getenv,
	})
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "provision:", err)
		if hint := hferr.HintOf(err); hint != "" {
			fmt.Fprintln(os.Stderr, "hint:", hint)
		}
		os.Exit(1)
	}
}

// provisioner carries what every step needs.
type provisioner struct {
	log    *slog.Logger
	getenv func(string) string
}

const usage = "usage: provision {docker | pgbackrest | faketime | postgres@<major> | image:postgres@<major>} …"

func run(ctx context.Context, targets []string, p provisioner) error {
	if len(targets) == 0 {
		return errors.New(usage)
	}
	for _, target := range targets {
		began := time.Now()
		what, err := p.get(ctx, target)
		if err != nil {
			return fmt.Errorf("get %s: %w", target, err)
		}
		fmt.Printf("%-20s %6.1f s  %s\n", target, time.Since(began).Seconds(), what)
	}
	return nil
}

// get provides one target and says what it now is.
func (p provisioner) get(ctx context.Context, target string) (string, error) {
	switch target {
	case "docker":
		return p.docker(ctx)
	case "pgbackrest", "faketime":
		return program(ctx, target)
	}
	name, image := strings.CutPrefix(target, "image:")
	engine, version, ok := strings.Cut(name, "@")
	if !ok || engine == "" || version == "" {
		return "", errors.New(usage)
	}
	if image {
		return p.image(ctx, engine, version)
	}
	return p.server(ctx, engine, version)
}
