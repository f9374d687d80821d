// Command demo is `make demo`: Holdfast's main job on a real PostgreSQL, from
// nothing to a drill's verdict, driving the holdfast binary the way a DBA
// would. It loads a data set, takes a base backup while the log streams and a
// workload writes, drops a table, kills the server with SIGKILL, restores to
// just before the mistake, runs a drill, says what was lost, and removes
// everything it made except the drill's record.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

type options struct {
	binary  string
	major   string
	mb      int
	records string
	keep    bool
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/holdfast", "the holdfast binary to drive")
	flag.StringVar(&o.major, "postgres", "18", "PostgreSQL major version")
	flag.IntVar(&o.mb, "mb", 500, "size of the data set, MB at least")
	flag.StringVar(&o.records, "records", "demo-records", "where the drill's record is left")
	flag.BoolVar(&o.keep, "keep", false, "leave servers' directories and repository in place at the end")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is one run: the source, and a place of its own for the repository,
// the restored copy and the holdfast processes, all as an unprivileged user.
type demo struct {
	o       options
	out     io.Writer
	began   time.Time
	source  *pgserver.Server
	host    testcontainers.Sandbox
	binary  string // inside host
	config  string
	records string
	load    *workload
	stream  *streamer
	before  time.Time // just before the mistake, by the source's clock
	beforeN int64     // ledger row acknowledged by then
	phases  []phase
}

type phase struct {
	name string
	took time.Duration
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	d := &demo{o: o, out: out, began: time.Now()}
	// /tmp and not $TMPDIR: socket paths are limited to 107 bytes.
	dir, err := os.MkdirTemp("/tmp", "hf-demo-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, d.cleanUp(cctx, dir))
	}()
	for _, s := range []struct {
		name string
		do   func(context.Context, string) error
	}{
		{"start a throwaway PostgreSQL " + o.major, d.startSource},
		{fmt.Sprintf("load a shop of at least %d MB", o.mb), d.loadData},
		{"make an encrypted repository", d.initRepo},
		{"stream the log, and take a base backup under load", d.streamAndBackup},
		{"the mistake: DROP TABLE orders", d.mistake},
		{"kill -9 the server", d.killSource},
		{"restore to just before the mistake", d.restore},
		{"drill: prove the newest state", d.drill},
	} {
		if err := d.step(ctx, dir, s.name, s.do); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	d.summary()
	return nil
}

func (d *demo) step(ctx context.Context, dir, name string, do func(context.Context, string) error) error {
	fmt.Fprintf(d.out, "\n== %s\n", name)
	t := time.Now()
	err := do(ctx, dir)
	d.phases = append(d.phases, phase{name, time.Since(t)})
	return err
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.out, "   "+format+"\n", args...) }

func (d *demo) startSource(ctx context.Context, dir string) error {
	log := slog.New(slog.DiscardHandler)
	s, err := pgserver.Start(ctx, pgserver.Options{
		Major: d.o.major, Dir: dir, Role: "holdfast",
		Conf: map[string]string{"max_wal_size": "4GB", "synchronous_commit": "on"},
		SQL:  []string{"CREATE DATABASE holdfast OWNER holdfast", "GRANT pg_monitor TO holdfast"},
	})
	if err != nil {
		return err
	}
	d.source = s
	d.host, err = testcontainers.NewProcess(log, testcontainers.Finder{Getenv: os.Getenv}).Provision(ctx,
		testcontainers.Spec{Engine: "postgres", Version: d.o.major, Dir: dir, Label: "demo"})
	if err != nil {
		return err
	}
	bin, err := filepath.Abs(d.o.binary)
	if err != nil {
		return err
	}
	if d.binary, err = d.host.Share(ctx, bin); err != nil {
		return err
	}
	d.printf("%s", d.source.Describe().Version)
	return d.writeConfig(ctx)
}

// writeConfig writes the holdfast.yaml a team would have.
func (d *demo) writeConfig(ctx context.Context) error {
	home := d.host.Dir()
	d.config, d.records = filepath.Join(home, "holdfast.yaml"), filepath.Join(home, "records")
	if err := os.WriteFile(filepath.Join(home, "pg.pass"), []byte(d.source.Password()+"\n"), 0o600); err != nil {
		return err
	}
	text := fmt.Sprintf(`repository:
  url: file://%[1]s/repository
  key: {passphrase_file: %[1]s/holdfast.pass}
databases:
  - name: shop
    url: postgres://holdfast@127.0.0.1:%[2]d/postgres?sslmode=disable
    password_file: %[1]s/pg.pass
    objectives: {rpo: 10s, rto: 5m}
    drill:
      provider: process
      checks:
        - {name: customers are all there, sql: "select count(*) from customers", expect: "%[3]d"}
        - {name: the ledger has no hole, sql: "select count(*) = max(n) from ledger"}
`, home, d.source.Port(), d.customers())
	if err := os.WriteFile(d.config, []byte(text), 0o600); err != nil {
		return err
	}
	return d.host.Own(ctx, home)
}

func (d *demo) cleanUp(ctx context.Context, dir string) error {
	var errs []error
	if d.load != nil {
		d.load.stop()
	}
	if d.o.keep {
		fmt.Fprintf(d.out, "\nKept: %s\n", dir)
		return nil
	}
	if d.host != nil {
		errs = append(errs, d.host.Remove(ctx, 5*time.Second))
	}
	if d.source != nil {
		errs = append(errs, d.source.Close(ctx))
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}

func (d *demo) summary() {
	fmt.Fprintf(d.out, "\n== in %s\n", time.Since(d.began).Round(time.Second))
	for _, p := range d.phases {
		d.printf("%6.1f s  %s", p.took.Seconds(), p.name)
	}
}
