package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

const walFileSize = 16 << 20

// makeWAL runs a TPC-B-like load (as pgbench's: three updates, a select and an
// insert a transaction, one client) until a server has written so many WAL files, and
// copies them in order.
func makeWAL(ctx context.Context, dir string, o options) (files []string, version string, err error) {
	s, err := pgserver.Start(ctx, pgserver.Options{
		Major: o.major, Log: discard,
		Conf: map[string]string{"wal_keep_size": "64GB", "max_wal_size": "1GB", "shared_buffers": "256MB"},
	})
	if err != nil {
		return nil, "", err
	}
	defer func() {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, s.Close(cctx))
	}()
	c, err := pgx.Connect(ctx, s.AdminURL())
	if err != nil {
		return nil, "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	fmt.Fprintf(os.Stderr, "writing %d WAL files …\n", o.files)
	for _, q := range []string{
		`create table branches as select i as bid, 0 as bbalance, repeat(' ', 88)::char(88) as filler from generate_series(1, 20) i`,
		`create table tellers as select i as tid, i / 10 as bid, 0 as tbalance, repeat(' ', 84)::char(84) as filler from generate_series(1, 200) i`,
		`create table accounts as select i as aid, i / 100000 as bid, 0 as abalance, repeat(' ', 84)::char(84) as filler from generate_series(1, 2000000) i`,
		`create table history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22))`,
		`alter table branches add primary key (bid)`, `alter table tellers add primary key (tid)`, `alter table accounts add primary key (aid)`,
		`create procedure work(n int) language plpgsql as $$
declare a int; t int; b int; d int;
begin
	for i in 1..n loop
		a := 1 + random() * 1999999; t := 1 + random() * 199; b := 1 + random() * 19; d := random() * 10000 - 5000;
		update accounts set abalance = abalance + d where aid = a;
		perform abalance from accounts where aid = a;
		update tellers set tbalance = tbalance + d where tid = t;
		update branches set bbalance = bbalance + d where bid = b;
		insert into history values (t, b, a, d, now(), null);
		commit;
	end loop;
end $$`, `checkpoint`, `select pg_switch_wal()`,
	} {
		if _, err := c.Exec(ctx, q); err != nil {
			return nil, "", fmt.Errorf("%.30s…: %w", q, err)
		}
	}
	number := func() (n int, err error) {
		err = c.QueryRow(ctx, `select div(pg_current_wal_lsn() - '0/0', $1)::int`, walFileSize).Scan(&n)
		return n, err
	}
	first, err := number()
	for last := first; err == nil && last < first+o.files; last, err = number() {
		// As in production, a part of the log is whole pages: those changed
		// for the first time since a checkpoint.
		if _, err = c.Exec(ctx, `call work(20000)`); err == nil {
			_, err = c.Exec(ctx, `checkpoint`)
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		return nil, "", err
	}
	for n := range o.files {
		name := walName(first + n)
		b, err := os.ReadFile(filepath.Join(s.DataDir(), "pg_wal", name))
		if err != nil {
			return nil, "", err
		}
		files = append(files, filepath.Join(dir, name))
		if err := os.WriteFile(files[n], b, 0o600); err != nil {
			return nil, "", err
		}
	}
	slices.Sort(files)
	return files, s.Describe().Version, nil
}

// walName is XLogFileName for timeline 1 and segments of 16 MiB.
func walName(n int) string { return fmt.Sprintf("%08X%08X%08X", 1, n/256, n%256) }

// firstPosition is where the first of WAL files begins.
func firstPosition(files []string) repo.Position {
	name := filepath.Base(files[0])
	high, _ := strconv.ParseUint(name[8:16], 16, 32) // made by walName
	low, _ := strconv.ParseUint(name[16:], 16, 32)
	return repo.Position(high<<32 | low*walFileSize)
}
