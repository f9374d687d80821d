package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// streamCase is one load on one stream.
type streamCase struct {
	name   string
	rate   float64 // of log, bytes per second
	spool  bool
	flush  time.Duration // 0: the default
	outage time.Duration // the store is away for so long, in the middle
}

// defaultFlush is `holdfast stream --flush-every`'s.
const defaultFlush = 5 * time.Second

func streamCases() []streamCase {
	const fast, slow = 50e6, 10e3
	return []streamCase{
		{name: "50 MB/s, store", rate: fast},
		{name: "50 MB/s, store, flush 1 s", rate: fast, flush: time.Second},
		{name: "10 kB/s, store", rate: slow},
		{name: "10 kB/s, store, flush 1 s", rate: slow, flush: time.Second},
		{name: "50 MB/s, spool", rate: fast, spool: true},
		{name: "10 kB/s, spool", rate: slow, spool: true},
		{name: "50 MB/s, store, out for 30 s", rate: fast, outage: 30 * time.Second},
		{name: "50 MB/s, spool, store out for 30 s", rate: fast, spool: true, outage: 30 * time.Second},
	}
}

// streamRun is one measurement.
type streamRun struct {
	lag      []float64     // seconds from a commit to its acknowledgement, sorted
	rate     float64       // of log that was written, bytes per second
	cpu      float64       // cores the streamer used, while the load ran
	total    float64       // seconds of CPU of its whole life
	peak     int64         // its resident memory
	logged   int64         // bytes of log of the measurement
	stored   int64         // bytes of the repository at the end
	caughtUp time.Duration // after an outage
}

// runStream measures what stands between a commit and its durability.
func runStream(ctx context.Context, o options) (err error) {
	s, err := newStreamSite(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := s.close(ctx); err == nil {
			err = cerr
		}
	}()
	if err := s.exec(ctx, loadSchema...); err != nil {
		return err
	}
	length := time.Duration(o.seconds) * time.Second
	if length == 0 {
		length = time.Minute
	}
	fmt.Printf("PostgreSQL %s, %s a case, load average %s before, %d cores, %s/%s, loopback, local repository, encrypted.\n\n",
		s.server.Describe().Version, length, loadAverage(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	var rows []string
	for _, c := range streamCases() {
		if !strings.Contains(c.name, o.only) {
			continue
		}
		r, err := s.measure(ctx, c, length)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		rows = append(rows, r.row(c))
		fmt.Fprintln(os.Stderr, rows[len(rows)-1])
	}
	streamTable(os.Stdout, rows)
	return nil
}

// loadAverage is of the last minute, as the kernel prints it.
func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// measure runs one case on an empty repository.
func (s *streamSite) measure(ctx context.Context, c streamCase, length time.Duration) (r streamRun, err error) {
	var args []string
	if c.spool {
		args = s.spoolArgs()
	}
	if c.flush != 0 {
		args = append(args, "--flush-every", c.flush.String())
	}
	p, err := s.stream(ctx, args...)
	if err != nil {
		return r, err
	}
	defer func() {
		if serr := p.stop(); err == nil {
			err = serr
		}
		if err == nil {
			r.stored, err = treeSize(s.repo())
		}
	}()
	if c.outage > 0 {
		length = max(length, c.outage+20*time.Second)
	}
	l := &lag{}
	wctx, endWatch := context.WithCancel(ctx)
	defer endWatch()
	g, gctx := errgroup.WithContext(wctx)
	if err := s.background(gctx, g, func(ctx context.Context, conn *pgx.Conn) error { return l.watch(ctx, conn, p.name) }); err != nil {
		return r, err
	}
	if err := s.underLoad(gctx, c, length, p, l, &r); err != nil {
		return r, err
	}
	deadline := time.Now().Add(2 * time.Minute)
	for l.waiting() > 0 && gctx.Err() == nil && time.Now().Before(deadline) {
		_ = pause(gctx, 20*time.Millisecond)
	}
	left := l.waiting()
	endWatch()
	if err := g.Wait(); err != nil {
		return r, err
	}
	if left > 0 {
		return r, fmt.Errorf("%d commits were not acknowledged in time\n%s", left, p.out)
	}
	r.total, r.peak, err = p.usage()
	slices.Sort(l.seconds)
	r.lag = l.seconds
	return r, err
}

// warmUp is how long the load runs before anything counts.
const warmUp = 6 * time.Second

// underLoad runs load and probes for the length of the measurement.
func (s *streamSite) underLoad(ctx context.Context, c streamCase, length time.Duration, p *receiver, l *lag, r *streamRun) error {
	lctx, end := context.WithCancel(ctx)
	defer end()
	g, gctx := errgroup.WithContext(lctx)
	if err := s.background(gctx, g, func(ctx context.Context, conn *pgx.Conn) error { return load(ctx, conn, c.rate) }); err != nil {
		return err
	}
	if err := pause(gctx, warmUp); err != nil {
		return g.Wait()
	}
	err := s.background(gctx, g, func(ctx context.Context, conn *pgx.Conn) error {
		return probes(ctx, conn, 50*time.Millisecond, l.note)
	})
	if err != nil {
		return err
	}
	cpu, _, err := p.usage()
	if err != nil {
		return err
	}
	first, err := s.position(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if c.outage > 0 {
		if r.caughtUp, err = s.storeOut(gctx, c.outage); err != nil {
			return err
		}
	}
	_ = pause(gctx, length-time.Since(began))
	last, err := s.position(ctx)
	if err != nil {
		return err
	}
	took := time.Since(began).Seconds()
	after, _, err := p.usage()
	if err != nil {
		return err
	}
	r.logged, r.rate, r.cpu = last-first, float64(last-first)/took, (after-cpu)/took
	end()
	return g.Wait()
}

// storeOut takes the store away for a while, and says how long after its
// return all log up to that moment was in it.
func (s *streamSite) storeOut(ctx context.Context, d time.Duration) (time.Duration, error) {
	if err := os.Rename(s.repo(), s.repo()+".away"); err != nil {
		return 0, err
	}
	perr := pause(ctx, d)
	if err := os.Rename(s.repo()+".away", s.repo()); err != nil {
		return 0, err
	}
	if perr != nil {
		return 0, perr
	}
	back := time.Now()
	end, err := s.position(ctx)
	if err != nil {
		return 0, err
	}
	err = s.until(ctx, 5*time.Minute, `select coalesce(bool_or(restart_lsn - '0/0' >= $1::bigint), false) from pg_replication_slots where not temporary`, end)
	return time.Since(back), err
}

func (s *streamSite) position(ctx context.Context) (at int64, err error) {
	return at, s.sql.QueryRow(ctx, `select (pg_current_wal_insert_lsn() - '0/0')::bigint`).Scan(&at)
}

// background runs fn on a connection of its own in g.
func (s *streamSite) background(ctx context.Context, g *errgroup.Group, fn func(context.Context, *pgx.Conn) error) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	g.Go(func() error {
		defer conn.Close(context.WithoutCancel(ctx))
		return fn(ctx, conn)
	})
	return nil
}

func streamTable(w io.Writer, rows []string) {
	fmt.Fprintln(w, "| case | flush s | log MB/s | commits | p50 s | p90 s | p99 s | max s | p99 − flush, ms | cores | CPU s | peak MiB | log MB | stored MB | caught up s |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|")
	for _, r := range rows {
		fmt.Fprintln(w, r)
	}
}

// row is one line of the table.
func (r streamRun) row(c streamCase) string {
	flush := c.flush
	if flush == 0 {
		flush = defaultFlush
	}
	over, caught := "", ""
	if !c.spool && c.outage == 0 {
		over = fmt.Sprintf("%.0f", 1e3*(quantile(r.lag, 99)-flush.Seconds()))
	}
	if c.outage > 0 {
		caught = fmt.Sprintf("%.1f", r.caughtUp.Seconds())
	}
	return fmt.Sprintf("| %s | %.0f | %.3g | %d | %.3f | %.3f | %.3f | %.3f | %s | %.2f | %.1f | %.0f | %.0f | %.0f | %s |",
		c.name, flush.Seconds(), r.rate/1e6, len(r.lag), quantile(r.lag, 50), quantile(r.lag, 90), quantile(r.lag, 99), quantile(r.lag, 100),
		over, r.cpu, r.total, float64(r.peak)/(1<<20), float64(r.logged)/1e6, float64(r.stored)/1e6, caught)
}

// quantile of sorted values, in percent.
func quantile(v []float64, percent int) float64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(len(v)*percent/100, len(v)-1)]
}
