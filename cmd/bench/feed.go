package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/wal"
)

// feedCase is one way to hold and serve the same log.
type feedCase struct {
	name    string
	plan    string   // plan.json
	pieces  []string // in the order recovery asks for them
	stored  int64    // bytes of the segments in the store
	objects int
}

// feedRun is one recovery's worth of fetch-log calls, without the server.
type feedRun struct {
	calls        []float64 // seconds each
	cpu          float64   // of all processes, seconds
	fetch, ahead int64     // peak memory of the largest fetch-log and of the prefetcher
}

func (r feedRun) total() (sum float64) {
	for _, s := range r.calls {
		sum += s
	}
	return sum
}

// runFeed measures fetch-log from a warm local store.
func runFeed(ctx context.Context, o options) (err error) {
	// Prefetchers outlive who starts them; as their reaper we learn what they used.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/tmp", "hf-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if o.binary, err = filepath.Abs(o.binary); err != nil {
		return err
	}
	logs, version, err := makeWAL(ctx, dir, o)
	if err != nil {
		return err
	}
	cases, err := feedCases(ctx, dir, o, logs)
	if err != nil {
		return err
	}
	results := map[string][]feedRun{}
	for round := range o.rounds + 1 {
		for _, c := range cases {
			r, err := c.run(ctx, dir, o.binary, logs, round == 0)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d  %-60s %4.0f MB/s  first %3.0f ms  cpu %5.2f s\n", round, c.name, megabytes(logs)/r.total(), 1e3*r.calls[0], r.cpu)
			if round > 0 { // the first warms the store, and checks every byte
				results[c.name] = append(results[c.name], r)
			}
		}
	}
	fmt.Printf("%.0f MB of log of PostgreSQL %s in %d files, %d rounds interleaved after one thrown away, %d cores, %s/%s, warm local repository, encrypted.\n\n",
		megabytes(logs), version, len(logs), o.rounds, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH)
	feedTable(os.Stdout, megabytes(logs), cases, results)
	return nil
}

func megabytes(logs []string) float64 { return float64(len(logs)) * walFileSize / 1e6 }

// feedCases stores the log in segments of a WAL file each and in small ones,
// and makes a plan over each, with and without prefetch.
func feedCases(ctx context.Context, dir string, o options, logs []string) ([]feedCase, error) {
	per := max(1, o.segments/len(logs))
	var out []feedCase
	for _, split := range []int{1, per} {
		store := filepath.Join(dir, fmt.Sprintf("repo-%d", split))
		l, err := storeLog(ctx, store, logs, split)
		if err != nil {
			return nil, err
		}
		size, err := treeSize(filepath.Join(store, "l", l.Info().ID, "log"))
		if err != nil {
			return nil, err
		}
		for _, ahead := range []bool{false, true} {
			c := feedCase{stored: size, objects: split * len(logs)}
			c.name = fmt.Sprintf("%d segments, prefetch %v", c.objects, map[bool]string{true: "on", false: "off"}[ahead])
			limits := agent.PrefetchLimits{}
			if !ahead {
				limits.Bytes = 1 // less than a file
			}
			if err := c.makePlan(ctx, l, filepath.Join(dir, strings.ReplaceAll(c.name, " ", "-")), store, logs, limits); err != nil {
				return nil, err
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// storeLog archives WAL files, each cut into so many segments.
func storeLog(ctx context.Context, dir string, logs []string, split int) (*repo.Lineage, error) {
	st, err := file.Open(dir, file.Options{})
	if err != nil {
		return nil, err
	}
	r, _, err := repo.Init(ctx, st, repo.InitOptions{Passphrase: secret.New("a passphrase for the benchmark"), ScryptWork: 10})
	if err != nil {
		return nil, err
	}
	l, err := r.EnsureLineage(ctx, repo.LineageInfo{ID: "pg-1", Engine: "postgres", Database: "bench"})
	if err != nil {
		return nil, err
	}
	if err := l.PutBranch(ctx, benchBranch()); err != nil {
		return nil, err
	}
	for n, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		at := firstPosition(logs) + repo.Position(n)*walFileSize
		for part := range slices.Chunk(b, (len(b)+split-1)/split) {
			end := at + repo.Position(len(part))
			if err := l.PutSegment(ctx, &repo.SegmentMeta{Branch: benchBranch().ID, Start: at, End: end}, part); err != nil {
				return nil, err
			}
			at = end
		}
	}
	return l, nil
}

func benchBranch() repo.Branch {
	return repo.Branch{ID: "00000001-root", Number: 1, Proof: map[string]string{}}
}

func (c *feedCase) makePlan(ctx context.Context, l *repo.Lineage, dir, store string, logs []string, limits agent.PrefetchLimits) error {
	details, err := json.Marshal(postgres.Details{VersionNum: 150000, WALSegmentSize: walFileSize})
	if err != nil {
		return err
	}
	from := firstPosition(logs)
	plan := &engines.RestorePlan{
		Base: repo.Manifest{ID: "bench", Engine: "postgres", Details: details},
		Log:  &wal.Plan{Lineage: l.Info().ID, Legs: []wal.Leg{{Branch: benchBranch(), From: from, To: from + repo.Position(len(logs))*walFileSize}}},
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	c.plan, err = agent.WriteFeed(ctx, l, agent.FeedPlan{Engine: "postgres", Repo: "file://" + store, Plan: plan, Prefetch: limits}, dir)
	for _, path := range logs {
		c.pieces = append(c.pieces, filepath.Base(path))
	}
	return err
}

// run plays a recovery: each piece in turn, then the one behind the last.
func (c feedCase) run(ctx context.Context, dir, binary string, logs []string, check bool) (r feedRun, err error) {
	dst := filepath.Join(filepath.Dir(filepath.Dir(c.plan)), "RECOVERYXLOG")
	// A child's peak includes ours up to its exec (setmax_mm_hiwater_rss):
	// forget what we had in memory (clear_refs in proc(5)).
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return r, err
	}
	for n, name := range c.pieces {
		cmd := exec.CommandContext(ctx, binary, "fetch-log", "--plan", c.plan, name, dst)
		out := new(bytes.Buffer)
		cmd.Stderr = out
		began := time.Now()
		if err := cmd.Run(); err != nil {
			return r, fmt.Errorf("fetch-log %s: %w\n%s", name, err, out)
		}
		r.calls = append(r.calls, time.Since(began).Seconds())
		r.cpu += (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
		if ru, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			r.fetch = max(r.fetch, ru.Maxrss<<10)
		}
		if check { // in the round that is thrown away: it takes memory
			if err := sameFile(dst, logs[n]); err != nil {
				return r, err
			}
		}
		if err := os.Remove(dst); err != nil {
			return r, err
		}
	}
	return r, r.reap()
}

// reap waits for the prefetcher, which ends with the plan.
func (r *feedRun) reap() error {
	for {
		var ru syscall.Rusage
		_, err := syscall.Wait4(-1, nil, 0, &ru)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return nil
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return err
		default:
			r.cpu += time.Duration(ru.Utime.Nano() + ru.Stime.Nano()).Seconds()
			r.ahead = max(r.ahead, ru.Maxrss<<10)
		}
	}
}

func sameFile(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s was delivered with other bytes", filepath.Base(b))
	}
	return nil
}

// feedTable prints medians over the rounds.
func feedTable(w io.Writer, mb float64, cases []feedCase, results map[string][]feedRun) {
	fmt.Fprintln(w, "| store | MB/s, median [min–max] | first call ms | later calls ms, median [p95] | CPU ms a file | stored MB | fetch-log MB | prefetcher MB |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|")
	for _, c := range cases {
		var rates, first, cpu, later []float64
		var fetch, ahead int64
		for _, r := range results[c.name] {
			rates = append(rates, mb/r.total())
			first = append(first, 1e3*r.calls[0])
			cpu = append(cpu, 1e3*r.cpu/float64(len(r.calls)))
			for _, s := range r.calls[1:] {
				later = append(later, 1e3*s)
			}
			fetch, ahead = max(fetch, r.fetch), max(ahead, r.ahead)
		}
		slices.Sort(rates)
		slices.Sort(first)
		slices.Sort(cpu)
		slices.Sort(later)
		mid := func(v []float64) float64 { return v[len(v)/2] }
		fmt.Fprintf(w, "| %s | %.0f [%.0f–%.0f] | %.0f | %.0f [%.0f] | %.0f | %.0f | %.0f | %.0f |\n", c.name,
			mid(rates), rates[0], rates[len(rates)-1], mid(first), mid(later), later[len(later)*95/100], mid(cpu),
			float64(c.stored)/1e6, float64(fetch)/1e6, float64(ahead)/1e6)
	}
}

var discard = slog.New(slog.DiscardHandler)
