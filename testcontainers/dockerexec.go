package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// launcher notes the process id, as seen inside, and becomes the command.
// Docker tells only the id on the daemon's host, which may be elsewhere.
const launcher = `echo $$ >"$0" && exec "$@"`

// dockerExec is one process started in a dockerSandbox.
type dockerExec struct {
	box     *dockerSandbox
	name    string
	id      string
	pidFile string // host path
	conn    client.HijackedResponse
	done    chan struct{}
	err     error // set before done is closed
}

func (d *dockerSandbox) Start(ctx context.Context, c Command) (Process, error) {
	return d.start(ctx, c)
}

func (d *dockerSandbox) start(ctx context.Context, c Command) (*dockerExec, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closing {
		return nil, errRemoved
	}
	e, err := d.exec(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("start %s in the container: %w", c.Path, err)
	}
	kept := d.running[:0:0]
	for _, old := range d.running {
		if !old.ended() {
			kept = append(kept, old)
		}
	}
	d.running = append(kept, e)
	return e, nil
}

// exec starts a command by way of the launcher. d.mu is held.
func (d *dockerSandbox) exec(ctx context.Context, c Command) (*dockerExec, error) {
	d.next++
	host, guest := d.pidFile(d.next)
	e := &dockerExec{box: d, name: c.Path, pidFile: host, done: make(chan struct{})}
	return e, e.launch(ctx, append([]string{"sh", "-c", launcher, guest, c.Path}, c.Args...), c)
}

// launch starts argv with the environment and the streams of c.
func (e *dockerExec) launch(ctx context.Context, argv []string, c Command) error {
	cli := e.box.cli
	res, err := cli.ExecCreate(ctx, e.box.id, client.ExecCreateOptions{
		Cmd: argv, Env: c.Env, AttachStdin: c.Stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return err
	}
	e.id = res.ID
	// The connection outlives this call, and ctx with it.
	att, err := cli.ExecAttach(context.WithoutCancel(ctx), e.id, client.ExecAttachOptions{})
	if err != nil {
		return err
	}
	e.conn = att.HijackedResponse
	if c.Stdin != nil {
		go func() {
			_, _ = io.Copy(e.conn.Conn, c.Stdin) // the process may well end before it has read all
			_ = e.conn.CloseWrite()
		}()
	}
	go e.follow(orDiscard(c.Stdout), orDiscard(c.Stderr))
	return nil
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

const (
	execPoll = 250 * time.Millisecond
	// lateOutput is how long output may follow the end of a process whose
	// orphans still hold it open.
	lateOutput = time.Second
)

// follow copies the output until it ends, and finds out how the process did.
// The output of a server that was killed may be held open by its workers, so
// the daemon is asked now and then as well.
func (e *dockerExec) follow(stdout, stderr io.Writer) {
	defer close(e.done)
	defer e.conn.Close()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = stdcopy.StdCopy(stdout, stderr, e.conn.Reader) // its end is judged by the exit status
	}()
	output := copied
	for poll := execPoll; ; {
		select {
		case <-output:
			output, poll = nil, 5*time.Millisecond // the status follows at once
		case <-time.After(poll):
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		info, err := e.box.cli.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
		cancel()
		if err != nil {
			e.err = fmt.Errorf("lost sight of %s: %w", e.name, err)
			return
		}
		if info.Running {
			continue
		}
		select {
		case <-copied:
		case <-time.After(lateOutput):
			e.conn.Close()
			<-copied
		}
		if info.ExitCode != 0 {
			e.err = &ExitError{Path: e.name, Code: info.ExitCode}
		}
		return
	}
}

func (e *dockerExec) ended() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

func (e *dockerExec) Wait(ctx context.Context) error {
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pidLimit bounds how long PID waits for the daemon to know it.
const pidLimit = 5 * time.Second

// PID is asked of the daemon, which knows it a moment after the start.
func (e *dockerExec) PID() int {
	ctx, cancel := context.WithTimeout(context.Background(), pidLimit)
	defer cancel()
	for !e.ended() {
		info, err := e.box.cli.ExecInspect(ctx, e.id, client.ExecInspectOptions{})
		if err != nil || info.PID > 0 {
			return info.PID
		}
		time.Sleep(5 * time.Millisecond)
	}
	return 0
}

// Signal of a process that has ended is no error.
func (e *dockerExec) Signal(ctx context.Context, sig int) error {
	pid, err := e.guestPID(ctx)
	if err != nil || pid == 0 {
		return err
	}
	out, err := e.box.shell(ctx, `kill -"$0" "$1"`, strconv.Itoa(sig), strconv.Itoa(pid))
	if err != nil && !e.ended() {
		return fmt.Errorf("send signal %d to %s: %w: %s", sig, e.name, err, strings.TrimSpace(out))
	}
	return nil
}

// guestPID waits for the launcher's note; 0 means that the process ended.
func (e *dockerExec) guestPID(ctx context.Context) (int, error) {
	for !e.ended() {
		b, err := os.ReadFile(e.pidFile)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("read the process id: %w", err)
		}
		if text, whole := strings.CutSuffix(string(b), "\n"); whole {
			return strconv.Atoi(text)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-e.done:
		case <-time.After(2 * time.Millisecond):
		}
	}
	return 0, nil
}

func (d *dockerSandbox) Run(ctx context.Context, c Command) error {
	e, err := d.start(ctx, c)
	if err != nil {
		return err
	}
	err = e.Wait(ctx)
	if ctx.Err() != nil {
		_ = e.Signal(context.WithoutCancel(ctx), 9)
	}
	return err
}

// shell runs a line of our own, which does not count as one of the sandbox's
// processes, and returns what it printed.
func (d *dockerSandbox) shell(ctx context.Context, line string, args ...string) (string, error) {
	var out strings.Builder
	e := &dockerExec{box: d, name: "sh", done: make(chan struct{})}
	if err := e.launch(ctx, append([]string{"sh", "-c", line}, args...), Command{Stdout: &out, Stderr: &out}); err != nil {
		return "", err
	}
	<-e.done
	return out.String(), e.err
}
