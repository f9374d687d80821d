// Command holdfast is the one binary: each command is one file here, which
// declares its flags, wires packages together and prints. No logic lives here.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// The first Ctrl-C or SIGTERM asks every job to stop cleanly; a second
	// one ends the process at once, since the handler is removed by then.
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup's wish counts
		ends = append(ends, syscall.SIGHUP) // the terminal was closed
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	context.AfterFunc(ctx, stop)
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.LookupEnv)
	os.Exit(a.run(ctx, os.Args[1:]))
}
