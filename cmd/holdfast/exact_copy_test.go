package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// lineage opens the site's repository in the test's own process.
func (s *site) lineage() *repo.Lineage {
	s.t.Helper()
	a := newApp(os.Stdin, os.Stdout, os.Stderr, func(name string) (string, bool) {
		for _, kv := range s.env {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v, true
			}
		}
		return "", false
	})
	r, _, err := a.openRepo(s.ctx, &config.File{})
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := agent.FindLineage(s.ctx, r, databaseName)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// walkingCopy is one restored directory that is taken from target to target,
// each behind the one before: its server recovers to a target and pauses
// there; for the next one it is started again with that one's settings and
// plan, and goes on from where it was.
type walkingCopy struct {
	s       *site
	lineage *repo.Lineage
	dir     string
}

// walkFrom restores a base for a plan that is the first to be visited.
func (s *site) walkFrom(l *repo.Lineage, first *engines.RestorePlan) *walkingCopy {
	s.t.Helper()
	w := &walkingCopy{s: s, lineage: l, dir: s.path("walking")}
	s.must("restore", databaseName, "--to", w.dir, "--backup", first.Base.ID, "--target-lsn", postgres.FormatLSN(first.Stop.At))
	return w
}

// visit recovers to a plan's stop and tells what the copy holds there.
func (w *walkingCopy) visit(p *engines.RestorePlan) []int64 {
	w.s.t.Helper()
	w.prepare(p)
	c := w.s.tryBoot(w.dir)
	if err := c.log.wait(w.s.ctx, "pausing at the end of recovery", serverEnded); err != nil {
		w.s.t.Fatalf("%+v: %v; the server says:\n%s", p.Stop, err, c.log)
	}
	conn, err := pgx.Connect(w.s.ctx, c.url())
	if err != nil {
		w.s.t.Fatalf("%v; the server says:\n%s", err, c.log)
	}
	got := w.s.held(conn)
	var startup int
	if err := conn.QueryRow(w.s.ctx, "select pid from pg_stat_activity where backend_type = 'startup'").Scan(&startup); err != nil {
		w.s.t.Fatal(err)
	}
	conn.Close(w.s.ctx)
	c.stopPaused(startup)
	return got
}

// stopPaused stops a server whose recovery is paused. Its startup process
// sleeps for a second at a time and is not woken by the order to end
// (recoveryPausesHere); any signal to its latch wakes it.
func (c *copyServer) stopPaused(startup int) {
	c.s.t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.stop()
	}()
	for {
		select {
		case <-ended:
			return
		case <-time.After(20 * time.Millisecond):
			_ = syscall.Kill(startup, syscall.SIGUSR1) // it may be gone
		}
	}
}

// held is numberedRows in order.
func (s *site) held(c *pgx.Conn) []int64 {
	s.t.Helper()
	got := s.numberedRows(c)
	slices.Sort(got)
	return got
}

// prepare writes the plan and the settings that restore writes for it, and
// makes the server pause where it would promote.
func (w *walkingCopy) prepare(p *engines.RestorePlan) {
	w.s.t.Helper()
	feed := filepath.Join(w.dir, agent.FeedDir)
	entries, err := os.ReadDir(feed)
	if err != nil {
		w.s.t.Fatal(err)
	}
	for _, e := range entries { // whatever an earlier plan's feed has left
		if e.Name() != "key" {
			if err := os.RemoveAll(filepath.Join(feed, e.Name())); err != nil {
				w.s.t.Fatal(err)
			}
		}
	}
	planFile := filepath.Join(feed, "plan.json")
	doc, err := json.Marshal(agent.FeedPlan{Engine: "postgres", Repo: "file://" + w.s.repo, Lineage: w.lineage.Info().ID, Plan: p, Base: p.Base})
	if err != nil {
		w.s.t.Fatal(err)
	}
	settings := w.settings(p, planFile) + "recovery_target_action = 'pause'\nhot_standby = 'on'\nfsync = 'off'\n"
	for path, text := range map[string][]byte{planFile: doc, filepath.Join(w.dir, "postgresql.auto.conf"): []byte(settings)} {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			w.s.t.Fatal(err)
		}
		if err := w.s.host.Own(w.s.ctx, path); err != nil {
			w.s.t.Fatal(err)
		}
	}
}

// settings are what Configure writes for a plan, taken from an empty shell of
// a data directory.
func (w *walkingCopy) settings(p *engines.RestorePlan, planFile string) string {
	w.s.t.Helper()
	shell := w.s.t.TempDir()
	if err := os.Mkdir(filepath.Join(shell, "global"), 0o700); err != nil {
		w.s.t.Fatal(err)
	}
	for _, name := range []string{"PG_VERSION", "backup_label", "global/pg_control", "postgresql.conf", "pg_hba.conf"} {
		if err := os.WriteFile(filepath.Join(shell, name), nil, 0o600); err != nil {
			w.s.t.Fatal(err)
		}
	}
	_, err := postgres.New().Restorer().Configure(w.s.ctx, engines.ConfigureRequest{
		Plan: p, Dir: shell, Fetch: []string{w.s.bin, "fetch-log", "--plan", planFile},
	})
	if err != nil {
		w.s.t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(shell, "postgresql.auto.conf"))
	if err != nil {
		w.s.t.Fatal(err)
	}
	return string(text)
}

// differences between what a copy holds and what it must hold, both in order.
func differences(got, want []int64) (missing, extra []int64) {
	for _, x := range want {
		if _, ok := slices.BinarySearch(got, x); !ok {
			missing = append(missing, x)
		}
	}
	for _, x := range got {
		if _, ok := slices.BinarySearch(want, x); !ok {
			extra = append(extra, x)
		}
	}
	return missing, extra
}
