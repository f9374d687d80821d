package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// numbered is the schema of commits that name themselves: a row of commits
// carries its transaction's id and how many rows of parts belong to it; no row
// of ghosts is ever committed.
var numbered = []string{
	`create extension pg_walinspect`,
	`create table commits (xid bigint primary key, kind text not null, parts int not null)`,
	`create table parts (xid bigint, n int, body text, primary key (xid, n))`,
	`create table ghosts (xid bigint)`,
	`create table early as select ` + me + ` as xid`,
}

const me = `pg_current_xact_id()::text::bigint`

// history makes a source's log: writers of every kind of transaction, with
// restore points, log switches and checkpoints among them.
type history struct {
	s      *site
	cancel context.CancelFunc
	done   sync.WaitGroup
	round  int
}

// write starts writers; quit ends them.
func (s *site) write(round, writers int) *history {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	h := &history{s: s, cancel: cancel, round: round}
	for w := range writers {
		c, err := pgx.Connect(ctx, s.server.AdminURL())
		if err != nil {
			s.t.Fatal(err)
		}
		h.done.Go(func() {
			defer c.Close(context.WithoutCancel(ctx))
			for n := 0; ctx.Err() == nil; n++ {
				if err := transact(ctx, c, round, w, n); err != nil && ctx.Err() == nil {
					s.t.Errorf("writer %d of round %d at %d: %v", w, round, n, err)
					return
				}
				time.Sleep(time.Duration(rand.IntN(12)) * time.Millisecond)
			}
		})
	}
	return h
}

func (h *history) quit() { h.cancel(); h.done.Wait() }

// transact runs one transaction of a kind that n chooses.
func transact(ctx context.Context, c *pgx.Conn, round, writer, n int) error {
	run := func(statements ...string) error {
		for _, q := range statements {
			if _, err := c.Exec(ctx, q); err != nil {
				// The next transaction must not begin inside this one.
				_, rerr := c.Exec(context.WithoutCancel(ctx), "rollback")
				return errors.Join(err, rerr)
			}
		}
		return nil
	}
	commit := func(kind string, parts int) string {
		return fmt.Sprintf("insert into commits values (%s, '%s', %d)", me, kind, parts)
	}
	part := func(from, to int) string {
		return fmt.Sprintf("insert into parts select %s, i, repeat(md5(i::text), 8) from generate_series(%d, %d) i", me, from, to)
	}
	ghost := fmt.Sprintf("insert into ghosts values (%s)", me)
	gid := fmt.Sprintf("g-%d-%d-%d", round, writer, n)
	switch n % 7 {
	case 0:
		return run("begin", ghost, "rollback")
	case 1:
		return run("begin", part(1, 2), "savepoint a", ghost, "rollback to a", part(3, 3), commit("rolled back to", 3), "commit")
	case 2:
		return run("begin", "savepoint a", part(1, 1), "release a", "savepoint b", part(2, 2), "release b", commit("subtransactions", 2), "commit")
	case 3:
		if err := run("begin", part(1, 2), commit("prepared", 2), "prepare transaction '"+gid+"'"); err != nil {
			return err
		}
		time.Sleep(time.Duration(rand.IntN(40)) * time.Millisecond)
		return run("commit prepared '" + gid + "'")
	case 4:
		if err := run("begin", ghost, "prepare transaction '"+gid+"'"); err != nil {
			return err
		}
		return run("rollback prepared '" + gid + "'")
	case 5:
		return run("begin", part(1, 100), commit("many pages", 100), "commit")
	}
	return run(commit("alone", 0))
}

// points makes restore points named prefix-0 … with a log switch or a
// checkpoint after every second one.
func (s *site) points(prefix string, n int) {
	s.t.Helper()
	for i := range n {
		time.Sleep(250 * time.Millisecond)
		s.exec(fmt.Sprintf("select pg_create_restore_point('%s-%d')", prefix, i))
		switch i % 4 {
		case 1:
			s.exec("select pg_switch_wal()")
		case 3:
			s.exec("checkpoint")
		}
	}
}

// switchTimeline makes the source a standby of nobody and promotes it, as a
// failover to a standby without loss does.
func (s *site) switchTimeline() {
	s.t.Helper()
	if err := s.server.StopFast(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	signal := filepath.Join(s.server.DataDir(), "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	info, err := os.Stat(s.server.DataDir())
	if err != nil {
		s.t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := os.Chown(signal, int(st.Uid), int(st.Gid)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.server.Restart(s.ctx); err != nil {
		s.t.Fatal(err)
	}
	var ok bool
	s.query(s.server.AdminURL(), "select pg_promote()", &ok)
	if !ok {
		s.t.Fatal("not promoted")
	}
}

// makeHistory: two base backups, a promotion between the second one and the
// end, a transaction that is prepared before it and committed behind it, and
// no commit after the last one of round 2.
func (s *site) makeHistory() (bases []string) {
	s.t.Helper()
	backup := func() {
		var doc struct {
			ID string `json:"backup"`
		}
		s.mustJSON(&doc, append([]string{"backup"}, s.source()...)...)
		bases = append(bases, doc.ID)
	}
	s.exec(numbered...)
	// No heartbeat: the last commit of the archive shall be one of ours.
	st := s.stream("--flush-every", "400ms", "--heartbeat-every", "1h")
	s.exec("select pg_create_restore_point('too early')")
	backup()
	h := s.write(0, 4)
	s.points("first", 6)
	backup()
	s.points("second", 4)
	s.exec("select pg_create_restore_point('twice')")
	h.quit()
	c, err := pgx.Connect(s.ctx, s.server.AdminURL())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, q := range []string{"begin", fmt.Sprintf("insert into commits values (%s, 'across', 0)", me), "prepare transaction 'across'"} {
		if _, err := c.Exec(s.ctx, q); err != nil {
			s.t.Fatal(err)
		}
	}
	c.Close(s.ctx)
	// No transaction is prepared in the segment in which the timeline switches:
	// a hot standby that comes to the shutdown checkpoint there wants to read
	// it again under the old timeline's name, and has the segment under the
	// new one's ("requested WAL segment has already been removed").
	s.exec("select pg_switch_wal()")
	for range 20 {
		s.exec(fmt.Sprintf("insert into commits values (%s, 'before the switch', 0)", me))
	}
	s.switchTimeline()
	h = s.write(1, 4)
	s.exec("commit prepared 'across'")
	s.points("third", 6)
	s.exec("select pg_create_restore_point('twice')")
	h.quit()
	s.exec(fmt.Sprintf("insert into commits values (%s, 'last', 0)", me))
	s.archived()
	st.signal(syscall.SIGTERM)
	if code := st.wait(); code != 0 {
		s.t.Fatalf("stream ended with %d:\n%s", code, st.out)
	}
	return bases
}
