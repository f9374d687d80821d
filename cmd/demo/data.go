package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// customers is the number of rows that makes the whole data set, with its
// orders, documents and indexes, at least as large as asked for (measured:
// about 2.4 kB a customer).
func (d *demo) customers() int { return d.o.mb * 430 }

// loadData makes a shop: customers, orders, and documents in JSON, with text
// that compresses about as well as people's data does.
func (d *demo) loadData(ctx context.Context, _ string) error {
	n := d.customers()
	for _, part := range [][]string{{
		`create table customers (id int primary key, name text, email text, city text, since date, balance numeric(12,2))`,
		`create table orders (id bigint primary key, customer int, item text, quantity int, price numeric(10,2), note text, at timestamptz)`,
		`create table documents (id int primary key, body jsonb)`,
		`create table ledger (n bigint primary key, amount int, at timestamptz default clock_timestamp())`,
	}} {
		if err := d.exec(ctx, part...); err != nil {
			return err
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return d.exec(gctx, fmt.Sprintf(`insert into customers select i, 'Customer ' || md5(i::text), md5(i::text) || '@example.org',
			(array['Oslo','Lyon','Porto','Graz','Turku','Gdansk'])[1 + i %% 6], date '2015-01-01' + i %% 4000, (i::bigint * 7919 %% 1000000) / 100.0
			from generate_series(1, %d) i`, n),
			fmt.Sprintf(`insert into orders select i, 1 + i %% %d, 'article ' || i %% 5000, 1 + i %% 9, (i::bigint * 104729 %% 100000) / 100.0,
			'deliver to ' || md5((i * 3)::text) || ' before noon', timestamptz '2026-01-01' + i * interval '7 seconds'
			from generate_series(1, %d) i`, n, 5*n),
			`create index on orders (customer)`)
	})
	g.Go(func() error {
		return d.exec(gctx, fmt.Sprintf(`insert into documents select i, jsonb_build_object('id', i, 'kind', (array['invoice','letter','offer'])[1 + i %% 3],
			'tags', jsonb_build_array(md5(i::text), md5((i + 1)::text)), 'text', repeat(md5((i * 5)::text) || ' lorem ipsum dolor sit amet, ', 16))
			from generate_series(1, %d) i`, n))
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if err := d.exec(ctx, `vacuum analyze`, `checkpoint`); err != nil {
		return err
	}
	var size int64
	if err := d.query(ctx, d.source.AdminURL(), `select sum(pg_database_size(oid)) from pg_database`, &size); err != nil {
		return err
	}
	d.printf("%s of data, %s orders", humanize.Bytes(uint64(size)), humanize.Comma(int64(5*n)))
	return nil
}

func (d *demo) exec(ctx context.Context, statements ...string) error {
	c, err := pgx.Connect(ctx, d.source.AdminURL())
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return fmt.Errorf("%.40s…: %w", s, err)
		}
	}
	return nil
}

func (d *demo) query(ctx context.Context, url, sql string, into ...any) error {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	return c.QueryRow(ctx, sql).Scan(into...)
}

// workload commits numbered rows, one a transaction, and remembers the last
// one that the server acknowledged.
type workload struct {
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu  sync.Mutex
	n   int64
	at  time.Time // the server's clock
	err error     // what ended it
}

func startWorkload(ctx context.Context, url string) (*workload, error) {
	c, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	wctx, cancel := context.WithCancel(ctx)
	w := &workload{cancel: cancel}
	w.done.Go(func() {
		defer c.Close(context.WithoutCancel(ctx))
		for n := int64(1); wctx.Err() == nil; n++ {
			var at time.Time
			err := c.QueryRow(wctx, `insert into ledger (n, amount) values ($1::bigint, ($1::bigint * 31 % 997)::int) returning at`, n).Scan(&at)
			w.mu.Lock()
			if w.err = err; err == nil {
				w.n, w.at = n, at
			}
			w.mu.Unlock()
			if err != nil {
				return // the server was killed, or we were stopped
			}
		}
	})
	return w, nil
}

// last is the newest acknowledged row.
func (w *workload) last() (int64, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n, w.at
}

// failed is what ended the workload early, nil while it runs.
func (w *workload) failed() error { w.mu.Lock(); defer w.mu.Unlock(); return w.err }

func (w *workload) stop() { w.cancel(); w.done.Wait() }
