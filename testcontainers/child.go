package testcontainers

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// child is one process started in a processSandbox.
type child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // set before done is closed
}

// newChild prepares a command: in a session of its own (no terminal, and
// Ctrl-C reaches only us), as the servers' user, with nothing of our
// environment, and with a parent-death signal, for which see thread.
func newChild(path string, c Command, h *home, bins string, quit syscall.Signal) *child {
	cmd := exec.Command(path, c.Args...)
	cmd.Dir = h.dir()
	cmd.Env = append([]string{
		"PATH=" + searchPath(bins, h.shared()), "HOME=" + h.dir(), "LANG=C.UTF-8",
	}, c.Env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
	// A worker that outlives its server holds the output open; Wait must not
	// hang on it.
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true, Credential: h.user.credential(), Pdeathsig: quit,
	}
	return &child{cmd: cmd, done: make(chan struct{})}
}

// reap waits for the end of the process, whether or not anybody asks.
func (c *child) reap() {
	c.err = exitError(c.cmd.Path, c.cmd.Wait())
	close(c.done)
}

func exitError(path string, err error) error {
	var exit *exec.ExitError
	if errors.Is(err, exec.ErrWaitDelay) { // the process itself succeeded
		return nil
	}
	if !errors.As(err, &exit) {
		return err
	}
	code := exit.ExitCode()
	if st, ok := exit.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		code = 128 + int(st.Signal())
	}
	return &ExitError{Path: path, Code: code}
}

// Signal of a process that has ended is no error.
func (c *child) Signal(ctx context.Context, sig int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := c.cmd.Process.Signal(syscall.Signal(sig))
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (c *child) Wait(ctx context.Context) error {
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *child) PID() int { return c.cmd.Process.Pid }
