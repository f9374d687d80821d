package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// The load writes log and nothing else: messages of random bytes, which do
// not compress, each the size of a page (as most of a busy server's log after
// a checkpoint is), without their sender paying for their transport.
const (
	noiseRows = 4000
	noiseSize = 8000
)

var loadSchema = []string{
	`create table noise (id int primary key, body bytea)`,
	`alter table noise alter body set storage external`,
	`create table probe (id bigserial primary key, at timestamptz default now())`,
	`insert into noise select i, (select string_agg(sha512((i * 1000 + j)::text::bytea), ''::bytea) from generate_series(1, 125) j) from generate_series(0, 3999) i`,
	`vacuum analyze noise`,
}

// load keeps all of the server's log at a rate, bytes per second, until ctx
// ends: what others write counts. After a stall it does not make up for more
// than a second.
func load(ctx context.Context, c *pgx.Conn, rate float64) error {
	const tick = 10 * time.Millisecond
	size := max(100, min(noiseSize, int(rate/20)))
	var start, at int64
	if err := c.QueryRow(ctx, `select pg_current_wal_insert_lsn() - '0/0'`).Scan(&start); err != nil {
		return err
	}
	at = start
	began, row := time.Now(), 0
	for ctx.Err() == nil {
		due := rate*time.Since(began).Seconds() - float64(at-start)
		if due > rate { // it could not keep up
			began = began.Add(time.Duration((due - rate) / rate * float64(time.Second)))
			due = rate
		}
		n := min(int(due)/size, noiseRows/4)
		row = row % (noiseRows - n)
		err := c.QueryRow(ctx, `select pg_current_wal_insert_lsn() - '0/0' from (select count(pg_logical_emit_message(false, 'bench', substr(body, 1, $3))) from noise where id >= $1 and id < $2) m`,
			row, row+n, size).Scan(&at)
		if err != nil {
			return unlessEnded(ctx, err)
		}
		row += n
		_ = pause(ctx, tick)
	}
	return nil
}

// unlessEnded: a statement that was cut off because the time is up is no failure.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// commit is one probe's.
type commit struct {
	at  time.Time // when the server had answered
	end int64     // the server's log was flushed up to here then
}

// probes commits a row so often, until ctx ends.
func probes(ctx context.Context, c *pgx.Conn, every time.Duration, note func(commit)) error {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if _, err := c.Exec(ctx, `insert into probe default values`); err != nil {
			return unlessEnded(ctx, err)
		}
		p := commit{at: time.Now()}
		if err := c.QueryRow(ctx, `select pg_current_wal_flush_lsn() - '0/0'`).Scan(&p.end); err != nil {
			return unlessEnded(ctx, err)
		}
		note(p)
	}
}

// lag measures from a commit to its acknowledgement by a receiver.
type lag struct {
	mu      sync.Mutex
	open    []commit
	seconds []float64
}

func (l *lag) note(c commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = append(l.open, c)
}

// reached: everything before end is durable.
func (l *lag) reached(end int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.open) > 0 && l.open[0].end <= end {
		l.seconds = append(l.seconds, now.Sub(l.open[0].at).Seconds())
		l.open = l.open[1:]
	}
}

func (l *lag) waiting() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// watch polls what a receiver has acknowledged as durable, until ctx ends.
// What it notes is late by a poll at most.
func (l *lag) watch(ctx context.Context, c *pgx.Conn, name string) error {
	const poll = 5 * time.Millisecond
	for ctx.Err() == nil {
		var end int64
		if err := c.QueryRow(ctx, `select coalesce(max(flush_lsn - '0/0'), 0) from pg_stat_replication where application_name = $1`, name).Scan(&end); err != nil {
			return unlessEnded(ctx, err)
		}
		l.reached(end, time.Now())
		_ = pause(ctx, poll)
	}
	return nil
}
