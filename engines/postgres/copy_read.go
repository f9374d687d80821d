package postgres

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/holdfastdb/holdfast/engines"
)

// readWorkers is how many tables are read, or checked, at a time.
const readWorkers = 2

// relation is one table or index of a copy.
type relation struct {
	Database, Schema, Name string
	OID                    uint32
}

func (r relation) String() string { return r.Database + "." + r.Schema + "." + r.Name }

func (r relation) sql() string { return pgx.Identifier{r.Schema, r.Name}.Sanitize() }

// databases are all that allow connections. template0 is never changed after
// initdb and refuses them.
func (c *pgCopy) databases(ctx context.Context) (names []string, err error) {
	err = c.in(ctx, defaultDatabase, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, "select datname::text from pg_database where datallowconn order by datname")
		if err != nil {
			return err
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return names, err
}

// storedTablesSQL lists what holds rows of its own: tables, catalogues and
// partitions among them, and materialized views that were ever filled. TOAST
// is read through its table.
const storedTablesSQL = `
select current_database()::text, n.nspname::text, c.relname::text, c.oid
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where (c.relkind = 'r' or c.relkind = 'm' and c.relispopulated) and c.relpersistence <> 't'
 order by c.relpages desc, c.oid`

// relations runs a query that lists relations of one database.
func (c *pgCopy) relations(ctx context.Context, database, query string) (list []relation, err error) {
	err = c.in(ctx, database, func(conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, query)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[relation])
		return err
	})
	return list, err
}

// ReadAll reads every row of every table as text, which fetches and
// decompresses every TOASTed value and runs every type's output function.
// Bytes are those of the text.
func (c *pgCopy) ReadAll(ctx context.Context) (engines.ReadStats, error) {
	var stats engines.ReadStats
	names, err := c.databases(ctx)
	if err != nil {
		return stats, err
	}
	var rows, size atomic.Int64
	for _, name := range names {
		tables, err := c.relations(ctx, name, storedTablesSQL)
		if err != nil {
			return stats, err
		}
		err = c.each(ctx, name, tables, func(ctx context.Context, conn *pgx.Conn, t relation) error {
			count := &countWriter{w: io.Discard}
			tag, err := conn.PgConn().CopyTo(ctx, count, "copy (select * from only "+t.sql()+") to stdout")
			rows.Add(tag.RowsAffected())
			size.Add(count.n)
			if err != nil {
				return fmt.Errorf("read %s after %d bytes: %w", t, count.n, err)
			}
			return nil
		})
		if err != nil {
			return stats, err
		}
		stats.Databases++
		stats.Tables += len(tables)
		stats.Rows, stats.Bytes = rows.Load(), size.Load()
	}
	return stats, nil
}

// each calls f for every relation of a database, on a few connections.
func (c *pgCopy) each(ctx context.Context, database string, list []relation, f func(context.Context, *pgx.Conn, relation) error) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range min(readWorkers, len(list)) {
		g.Go(func() error {
			return c.in(ctx, database, func(conn *pgx.Conn) error {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(list) {
						return nil
					}
					if err := f(ctx, conn, list[i]); err != nil {
						return err
					}
				}
			})
		})
	}
	return g.Wait()
}
