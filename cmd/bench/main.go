// Command bench is `make bench`: full backups by Holdfast beside pgBackRest,
// of the same PostgreSQL, on the same machine, in the same run, interleaved.
// It prints the Markdown that docs/benchmarks.md keeps: wall time, CPU of
// client and server, bytes in the repository, peak memory, and ratios of
// medians. `bench feed` measures fetch-log from a warm store, `bench stream`
// how long a commit takes to become durable and what the streamer uses,
// `bench commit` what a receiver adds to a commit. It asserts no timing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

type options struct {
	binary string
	major  string
	mb     int
	rounds int

	files, segments int // of the feed's log

	seconds int    // of load, or of pgbench
	only    string // cases whose name contains it
}

func main() {
	var o options
	flag.StringVar(&o.binary, "binary", "bin/holdfast", "the holdfast binary to measure")
	flag.StringVar(&o.major, "postgres", "15", "PostgreSQL major version")
	flag.IntVar(&o.mb, "mb", 1000, "size of the data, MB, about")
	flag.IntVar(&o.rounds, "rounds", 5, "measured rounds; one more is run first and thrown away")
	flag.IntVar(&o.files, "files", 100, "feed: WAL files of 16 MiB")
	flag.IntVar(&o.segments, "segments", 20000, "feed: segments of the plan of many small ones")
	flag.IntVar(&o.seconds, "seconds", 0, "stream: length of a measurement (0: 60); commit: of a round (0: 10)")
	flag.StringVar(&o.only, "only", "", "stream, commit: only the cases whose name contains this")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	jobs := map[string]func(context.Context, options) error{"": run, "feed": runFeed, "stream": runStream, "commit": runCommit}
	job, ok := jobs[flag.Arg(0)]
	if !ok {
		fmt.Fprintf(os.Stderr, "bench: no benchmark %q\n", flag.Arg(0))
		os.Exit(2)
	}
	err := job(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp("/tmp", "hf-bench-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := pgserver.Start(ctx, pgserver.Options{
		Major: o.major, Dir: dir, Role: "holdfast", Log: slog.New(slog.DiscardHandler),
		Conf: map[string]string{"max_wal_size": "8GB", "shared_buffers": "256MB"},
	})
	if err != nil {
		return err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Close(cctx))
	}()
	fmt.Fprintln(os.Stderr, "loading …")
	size, err := loadData(ctx, s, o.mb)
	if err != nil {
		return err
	}
	b := &bench{server: s, dir: dir, binary: o.binary}
	tools, err := b.tools(ctx)
	if err != nil {
		return err
	}
	results := map[string][]measure{}
	for round := range o.rounds + 1 {
		for _, tool := range tools {
			m, err := b.measure(ctx, tool)
			if err != nil {
				return fmt.Errorf("%s: %w", tool.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %-28s %6.2f s  client %5.2f  server %5.2f  %4d MB\n", round, tool.name, m.wall, m.client, m.server, m.bytes>>20)
			if round > 0 { // the first is cold
				results[tool.name] = append(results[tool.name], m)
			}
		}
	}
	fmt.Printf("PostgreSQL %s, %d MB in PGDATA, %d rounds interleaved after one thrown away, %d cores, %s/%s, unix socket or loopback, local repository.\n\n",
		s.Describe().Version, size>>20, o.rounds, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	table(os.Stdout, tools, results)
	return nil
}

// loadData makes a third each of OLTP-like rows, JSON documents and rows that do
// not compress.
func loadData(ctx context.Context, s *pgserver.Server, mb int) (int64, error) {
	c, err := pgx.Connect(ctx, s.AdminURL())
	if err != nil {
		return 0, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for _, q := range []string{
		fmt.Sprintf(`create table accounts as select i as aid, i %% 100 as bid, (i::bigint * 7919 %% 100000)::int as balance, repeat(' ', 84)::char(84) as filler from generate_series(1, %d) i`, mb*2300),
		`alter table accounts add primary key (aid)`,
		fmt.Sprintf(`create table documents as select i as id, jsonb_build_object('id', i, 'name', md5(i::text), 'tags', jsonb_build_array(md5((i*3)::text), md5((i*7)::text)), 'text', repeat('lorem ipsum ' || (i %% 97) || ' dolor ', 20)) as body from generate_series(1, %d) i`, mb*500),
		`alter table documents add primary key (id)`,
		fmt.Sprintf(`create table noise as select i as id, sha512((i || 'a')::text::bytea) || sha512((i || 'b')::text::bytea) || sha512((i || 'c')::text::bytea) || sha512((i || 'd')::text::bytea) as body from generate_series(1, %d) i`, mb*1100),
		`vacuum analyze`, `checkpoint`,
	} {
		if _, err := c.Exec(ctx, q); err != nil {
			return 0, fmt.Errorf("%.30s…: %w", q, err)
		}
	}
	return treeSize(filepath.Join(s.DataDir(), "base"))
}
