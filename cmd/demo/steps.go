package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// holdfast runs one command and shows it with its output.
func (d *demo) holdfast(ctx context.Context, args ...string) error {
	d.printf("$ holdfast %s", strings.Join(args, " "))
	w := &indented{w: d.out}
	return d.host.Run(ctx, testcontainers.Command{Path: d.binary, Args: append(args, "--config", d.config), Stdout: w, Stderr: w})
}

func (d *demo) initRepo(ctx context.Context, _ string) error {
	return d.holdfast(ctx, "init", "--generate-passphrase-file", filepath.Join(d.host.Dir(), "holdfast.pass"))
}

// streamer is the long-running `holdfast stream`.
type streamer struct {
	proc testcontainers.Process
	out  *watched
}

func (d *demo) startStream(ctx context.Context) (*streamer, error) {
	s := &streamer{out: &watched{w: &indented{w: d.out}, changed: make(chan struct{})}}
	d.printf("$ holdfast stream shop &")
	var err error
	s.proc, err = d.host.Start(ctx, testcontainers.Command{Path: d.binary, Args: []string{"stream", "shop", "--quiet", "--config", d.config}, Stdout: s.out, Stderr: s.out})
	if err != nil {
		return nil, err
	}
	return s, s.out.wait(ctx, "streaming from")
}

func (d *demo) streamAndBackup(ctx context.Context, _ string) error {
	s, err := d.startStream(ctx)
	if err != nil {
		return err
	}
	d.stream = s
	if d.load, err = startWorkload(ctx, d.source.AdminURL()); err != nil {
		return err
	}
	if err := d.holdfast(ctx, "backup", "shop"); err != nil {
		return err
	}
	n, _ := d.load.last()
	d.printf("the workload has committed %s rows by now", humanize.Comma(n))
	return d.load.failed()
}

// mistake lets the workload go on, remembers the moment, drops a table, and
// lets the workload go on again: the restore must find the moment between.
func (d *demo) mistake(ctx context.Context, _ string) error {
	if err := sleep(ctx, 3*time.Second); err != nil {
		return err
	}
	d.beforeN, _ = d.load.last()
	if err := d.query(ctx, d.source.AdminURL(), `select clock_timestamp()`, &d.before); err != nil {
		return err
	}
	if err := sleep(ctx, 100*time.Millisecond); err != nil {
		return err
	}
	if err := d.exec(ctx, `drop table orders`); err != nil {
		return err
	}
	d.printf("just before, at %s, the ledger held at least %s rows", d.before.UTC().Format(time.RFC3339Nano), humanize.Comma(d.beforeN))
	return sleep(ctx, 4*time.Second)
}

func (d *demo) killSource(ctx context.Context, _ string) error {
	if err := d.source.Kill9(ctx); err != nil {
		return err
	}
	d.load.stop()
	n, at := d.load.last()
	d.printf("last row acknowledged by the server: %s, at %s", humanize.Comma(n), at.UTC().Format(time.RFC3339Nano))
	if err := d.stream.out.wait(ctx, "connection lost"); err != nil {
		return err
	}
	if err := d.stream.proc.Signal(ctx, int(syscall.SIGINT)); err != nil {
		return err
	}
	var exit *testcontainers.ExitError
	if err := d.stream.proc.Wait(ctx); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

func (d *demo) restore(ctx context.Context, _ string) error {
	target := filepath.Join(d.host.Dir(), "restored")
	if err := d.holdfast(ctx, "restore", "shop", "--to", target, "--target-time", d.before.UTC().Format(time.RFC3339Nano)); err != nil {
		return err
	}
	log := &watched{w: io.Discard, changed: make(chan struct{})}
	p, err := d.host.Start(ctx, testcontainers.Command{Path: "postgres", Stdout: log, Stderr: log, Args: []string{
		"-D", target, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + d.host.Dir(), "-c", "logging_collector=off"}})
	if err != nil {
		return err
	}
	if err := log.wait(ctx, "archive recovery complete"); err != nil {
		return fmt.Errorf("%w; the server says:\n%s", err, log.text())
	}
	err = d.compare(ctx)
	return errors.Join(err, p.Signal(ctx, int(syscall.SIGINT)), p.Wait(ctx))
}

// compare asks the restored copy for the dropped table and the ledger's end.
func (d *demo) compare(ctx context.Context) error {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Path: "/postgres",
		RawQuery: url.Values{"host": {d.host.Dir()}, "password": {d.source.Password()}}.Encode()}
	var orders, n, missing int64
	var at time.Time
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := d.query(ctx, u.String(), `select (select count(*) from orders), max(n), max(n) - count(*), max(at) from ledger`, &orders, &n, &missing, &at)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			return err
		}
		if err := sleep(ctx, 200*time.Millisecond); err != nil {
			return err
		}
	}
	lastN, lastAt := d.load.last()
	d.printf("orders is back with %s rows", humanize.Comma(orders))
	d.printf("last inserted before the kill  row %-10s %s", humanize.Comma(lastN), lastAt.UTC().Format(time.RFC3339Nano))
	d.printf("the moment asked for                          %s", d.before.UTC().Format(time.RFC3339Nano))
	d.printf("last restored                  row %-10s %s", humanize.Comma(n), at.UTC().Format(time.RFC3339Nano))
	switch {
	case orders != int64(5*d.customers()):
		return fmt.Errorf("%d orders restored, %d were loaded", orders, 5*d.customers())
	case missing != 0:
		return fmt.Errorf("%d ledger rows are missing before row %d", missing, n)
	case n < d.beforeN || at.After(d.before):
		return fmt.Errorf("the copy ends at row %d (%s), not at the moment asked for", n, at)
	}
	return nil
}

// drill runs a drill of the newest state and keeps its record.
func (d *demo) drill(ctx context.Context, _ string) error {
	if err := d.holdfast(ctx, "drill", "shop", "--record-dir", d.records); err != nil {
		return err
	}
	if err := os.MkdirAll(d.o.records, 0o755); err != nil {
		return err
	}
	found, err := filepath.Glob(filepath.Join(d.records, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range found {
		body, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		keep := filepath.Join(d.o.records, filepath.Base(f))
		if err := os.WriteFile(keep, body, 0o644); err != nil {
			return err
		}
		d.printf("the record: %s", keep)
	}
	return nil
}

func sleep(ctx context.Context, t time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(t):
		return nil
	}
}

// indented shows a command's output set off from the demo's own.
type indented struct {
	w   io.Writer
	mid bool
}

func (i *indented) Write(p []byte) (int, error) {
	for _, line := range bytes.SplitAfter(p, []byte("\n")) {
		if len(line) == 0 {
			continue
		}
		if !i.mid {
			fmt.Fprint(i.w, "     ")
		}
		i.mid = !bytes.HasSuffix(line, []byte("\n"))
		if _, err := i.w.Write(line); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// watched is output in which a text can be waited for.
type watched struct {
	w io.Writer

	mu      sync.Mutex
	seen    bytes.Buffer
	changed chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen.Write(p)
	close(w.changed)
	w.changed = make(chan struct{})
	return w.w.Write(p)
}

func (w *watched) text() string { w.mu.Lock(); defer w.mu.Unlock(); return w.seen.String() }

func (w *watched) wait(ctx context.Context, text string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		w.mu.Lock()
		found, changed := strings.Contains(w.seen.String(), text), w.changed
		w.mu.Unlock()
		if found {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %q: %w", text, ctx.Err())
		case <-changed:
		}
	}
}
