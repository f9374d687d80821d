package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// commitCase is what follows the log, if anything, while one client commits.
type commitCase struct {
	name        string
	start       func(ctx context.Context) (*receiver, error) // nil: nothing follows
	synchronous bool
}

// commitRun is one round.
type commitRun struct{ median, p99 float64 } // ms

// alone is what the others are compared with.
const alone = "no receiver"

// commitCases: the peer is what comes with PostgreSQL, writing the log as it
// is to the same disk, and syncing it at once.
func (s *streamSite) commitCases(bins string) []commitCase {
	receivewal := func(ctx context.Context) (*receiver, error) {
		dir := s.path("received")
		if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o700)); err != nil {
			return nil, err
		}
		u, err := url.Parse(s.server.AdminURL())
		if err != nil {
			return nil, err
		}
		u.User = url.User(u.User.Username())
		pass := fmt.Sprintf("*:*:*:*:%s\n", s.server.Password())
		if err := os.WriteFile(s.path("pgpass"), []byte(pass), 0o600); err != nil {
			return nil, err
		}
		u.RawQuery += "&passfile=" + url.QueryEscape(s.path("pgpass"))
		return s.receiver(ctx, "pg_receivewal", exec.Command(filepath.Join(bins, "pg_receivewal"), //nolint:noctx // ended by SIGINT
			"-d", u.String(), "-D", dir, "--synchronous", "--no-loop"))
	}
	spool := func(ctx context.Context) (*receiver, error) { return s.stream(ctx, s.spoolArgs()...) }
	store := func(ctx context.Context) (*receiver, error) { return s.stream(ctx) }
	return []commitCase{
		{name: alone},
		{name: "stream, asynchronous", start: store},
		{name: "stream --durability spool, asynchronous", start: spool},
		{name: "stream --durability spool, synchronous", start: spool, synchronous: true},
		{name: "pg_receivewal --synchronous, synchronous", start: receivewal, synchronous: true},
	}
}

// runCommit measures a single client's commits beside receivers.
func runCommit(ctx context.Context, o options) (err error) {
	s, err := newStreamSite(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close(ctx)) }()
	bins := s.server.Describe().Binaries
	if err := s.pgbench(ctx, bins, "-i", "-q", "-s", "10"); err != nil {
		return err
	}
	seconds := o.seconds
	if seconds == 0 {
		seconds = 10
	}
	cases := s.commitCases(bins)
	cases = slices.DeleteFunc(cases, func(c commitCase) bool { return c.name != alone && !strings.Contains(c.name, o.only) })
	fmt.Printf("PostgreSQL %s, pgbench -n -N -c 1 -T %d, %d rounds interleaved after one thrown away, load average %s before, %d cores, %s/%s, one disk.\n\n",
		s.server.Describe().Version, seconds, o.rounds, loadAverage(), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	results := map[string][]commitRun{}
	for round := range o.rounds + 1 {
		for i := range cases {
			c := cases[(i+round)%len(cases)] // nobody is always the one behind the same
			r, err := s.commits(ctx, c, bins, seconds)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %-42s median %.3f ms  p99 %.3f ms\n", round, c.name, r.median, r.p99)
			if round > 0 {
				results[c.name] = append(results[c.name], r)
			}
		}
	}
	commitTable(os.Stdout, cases, results)
	return nil
}

// commits runs pgbench once beside a case's receiver.
func (s *streamSite) commits(ctx context.Context, c commitCase, bins string, seconds int) (r commitRun, err error) {
	if c.start != nil {
		p, serr := c.start(ctx)
		if serr != nil {
			return r, serr
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		if c.synchronous {
			defer func() { err = errors.Join(err, s.synchronous(ctx, "")) }()
			if err := s.synchronous(ctx, p.name); err != nil {
				return r, err
			}
		}
	}
	if err := s.exec(ctx, `checkpoint`); err != nil {
		return r, err
	}
	logs := s.path("latency")
	if err := s.pgbench(ctx, bins, "-n", "-N", "-c", "1", "-T", strconv.Itoa(seconds), "-l", "--log-prefix="+logs); err != nil {
		return r, err
	}
	return readLatencies(logs)
}

// synchronous makes each commit wait for a receiver; "": for none.
func (s *streamSite) synchronous(ctx context.Context, name string) error {
	if err := s.exec(ctx, `alter system set synchronous_standby_names = '`+name+`'`, `select pg_reload_conf()`); err != nil {
		return err
	}
	if name == "" {
		return s.until(ctx, time.Minute, `select not exists (select from pg_stat_replication where sync_state <> 'async')`)
	}
	return s.until(ctx, time.Minute, `select exists (select from pg_stat_replication where application_name = $1 and sync_state = 'sync')`, name)
}

func (s *streamSite) pgbench(ctx context.Context, bins string, args ...string) error {
	args = append(args, "-h", s.server.SocketDir(), "-p", strconv.Itoa(s.server.Port()), "-U", "postgres", "postgres")
	cmd := exec.CommandContext(ctx, filepath.Join(bins, "pgbench"), args...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pgbench: %w\n%s", err, out)
	}
	return nil
}

// readLatencies reads and removes pgbench's logs: the third word of each line
// is a transaction's time in µs ("Per-Transaction Logging" in its manual).
func readLatencies(prefix string) (r commitRun, err error) {
	files, err := filepath.Glob(prefix + ".*")
	if err != nil {
		return r, err
	}
	var ms []float64
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return r, err
		}
		for line := range strings.Lines(string(b)) {
			v := strings.Fields(line)
			if len(v) < 3 {
				return r, fmt.Errorf("%s: %q", f, line)
			}
			us, err := strconv.ParseFloat(v[2], 64)
			if err != nil {
				return r, fmt.Errorf("%s: %w", f, err)
			}
			ms = append(ms, us/1e3)
		}
		if err := os.Remove(f); err != nil {
			return r, err
		}
	}
	if len(ms) == 0 {
		return r, errors.New("pgbench logged nothing")
	}
	slices.Sort(ms)
	return commitRun{median: quantile(ms, 50), p99: quantile(ms, 99)}, nil
}

// commitTable prints the median over the rounds of each round's median and
// p99, with the spread.
func commitTable(w io.Writer, cases []commitCase, results map[string][]commitRun) {
	fmt.Fprintln(w, "| receiver | median ms [min–max] | added ms | ratio | p99 ms [min–max] | added ms |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|")
	of := func(name string, field func(commitRun) float64) (mid, low, high float64) {
		var v []float64
		for _, r := range results[name] {
			v = append(v, field(r))
		}
		slices.Sort(v)
		return v[len(v)/2], v[0], v[len(v)-1]
	}
	median, p99 := func(r commitRun) float64 { return r.median }, func(r commitRun) float64 { return r.p99 }
	base, _, _ := of(alone, median)
	base99, _, _ := of(alone, p99)
	for _, c := range cases {
		m, mlow, mhigh := of(c.name, median)
		p, plow, phigh := of(c.name, p99)
		fmt.Fprintf(w, "| %s | %.3f [%.3f–%.3f] | %+.3f | %.2f | %.3f [%.3f–%.3f] | %+.3f |\n",
			c.name, m, mlow, mhigh, m-base, m/base, p, plow, phigh, p-base99)
	}
}
