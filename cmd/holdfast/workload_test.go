package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// schema of the workload: accounts whose sum never changes, a ledger whose
// rows are numbered without a hole in order of commit by each writer.
var schema = []string{
	`create table accounts (id int primary key, balance bigint not null)`,
	`insert into accounts select i, 1000 from generate_series(1, 200) i`,
	`create table ledger (writer int, n bigint, at timestamptz default clock_timestamp(), primary key (writer, n))`,
	`create table filler (id int primary key, body text)`,
	`insert into filler select i, repeat(md5(i::text), 30) from generate_series(1, 20000) i`,
}

// workload transfers money and numbers its commits until stopped. acked[w] is
// the last commit of writer w that the server acknowledged.
type workload struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	acked  []atomic.Int64
}

func (s *site) workload(writers int) *workload {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.ctx)
	w := &workload{cancel: cancel, acked: make([]atomic.Int64, writers)}
	for i := range writers {
		c, err := pgx.Connect(ctx, s.server.AdminURL())
		if err != nil {
			s.t.Fatal(err)
		}
		var first int64
		if err := c.QueryRow(ctx, `select coalesce(max(n), 0) from ledger where writer = $1`, i).Scan(&first); err != nil {
			s.t.Fatal(err)
		}
		w.acked[i].Store(first)
		w.done.Go(func() { w.write(ctx, s.t, c, i) })
	}
	s.t.Cleanup(w.stop)
	return w
}

func (w *workload) write(ctx context.Context, t *testing.T, c *pgx.Conn, writer int) {
	defer c.Close(context.WithoutCancel(ctx))
	for n := w.acked[writer].Load() + 1; ctx.Err() == nil; n++ {
		err := pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			from, to := 1+(n*7+int64(writer)*13)%200, 1+(n*11+int64(writer)*17+1)%200
			first, second := from, to
			if first > second {
				first, second = second, first
			}
			amount := n % 50
			for _, id := range []int64{first, second} {
				delta := amount
				if id == from {
					delta = -amount
				}
				if from == to {
					delta = 0
				}
				if _, err := tx.Exec(ctx, `update accounts set balance = balance + $1 where id = $2`, delta, id); err != nil {
					return err
				}
			}
			_, err := tx.Exec(ctx, `insert into ledger (writer, n) values ($1, $2)`, writer, n)
			return err
		})
		if err != nil {
			if ctx.Err() == nil {
				t.Logf("writer %d ended at %d: %v", writer, n, err)
			}
			return
		}
		w.acked[writer].Store(n)
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *workload) stop() { w.cancel(); w.done.Wait() }

// invariants checks what must hold in every consistent copy: money neither
// made nor lost, no numbered commit missing before a later one.
func (s *site) invariants(dsn string) (rows int64) {
	s.t.Helper()
	var sum, holes int64
	s.query(dsn, `select sum(balance) from accounts`, &sum)
	s.query(dsn, `select coalesce(sum(m - c), 0)::bigint, coalesce(sum(c), 0)::bigint from (select max(n) m, count(*) c from ledger group by writer) x`, &holes, &rows)
	if sum != 200*1000 {
		s.t.Errorf("the accounts sum to %d, not 200000: the copy is torn", sum)
	}
	if holes != 0 {
		s.t.Errorf("%d numbered commits are missing", holes)
	}
	return rows
}

// holdsAll checks that a copy has every commit that was acknowledged.
func (s *site) holdsAll(dsn string, w *workload) {
	s.t.Helper()
	for i := range w.acked {
		var n int64
		s.query(dsn, fmt.Sprintf(`select coalesce(max(n), 0) from ledger where writer = %d`, i), &n)
		if want := w.acked[i].Load(); n < want {
			s.t.Errorf("writer %d: the copy ends at commit %d, %d was acknowledged and archived", i, n, want)
		}
	}
}

// archived waits until everything the server has written is in the store.
func (s *site) archived() {
	s.t.Helper()
	var target string
	s.query(s.server.AdminURL(), `select pg_current_wal_lsn()::text from pg_current_wal_lsn()`, &target)
	deadline := time.Now().Add(60 * time.Second)
	for {
		var ok bool
		s.query(s.server.AdminURL(), `select coalesce(bool_or(restart_lsn >= '`+target+`'::pg_lsn), false) from pg_replication_slots where slot_name like 'holdfast%'`, &ok)
		if ok {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the slot was not acknowledged through %s within a minute", target)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
