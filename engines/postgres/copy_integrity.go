package postgres

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
)

// Verdicts of engines.CheckResult.
const (
	verdictPass   = "pass"
	verdictFail   = "fail"
	verdictNotRun = "not-run"
	tierIntegrity = "integrity"
)

// heapSQL lists what verify_heapam takes: tables, materialized views, TOAST.
const heapSQL = `
select current_database()::text, n.nspname::text, c.relname::text, c.oid
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_am a on a.oid = c.relam
 where c.relkind in ('r', 'm', 't') and a.amname = 'heap' and c.relpersistence <> 't'
 order by c.relpages desc, c.oid`

// btreeSQL lists the B-tree indexes that are in use.
const btreeSQL = `
select current_database()::text, n.nspname::text, c.relname::text, c.oid
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_am a on a.oid = c.relam
  join pg_index i on i.indexrelid = c.oid
 where c.relkind = 'i' and a.amname = 'btree' and c.relpersistence <> 't' and i.indisvalid and i.indisready
 order by c.relpages desc, c.oid`

// Integrity runs amcheck in every database: each heap page against its
// tuples, their visibility and their TOAST values; each B-tree for its order,
// and that every row of the table is in it. Then page checksums as the whole
// reading so far has found them.
func (c *pgCopy) Integrity(ctx context.Context) ([]engines.CheckResult, error) {
	names, err := c.databases(ctx)
	if err != nil {
		return nil, err
	}
	var out []engines.CheckResult
	for _, name := range names {
		results, err := c.checkDatabase(ctx, name)
		if err != nil {
			return out, fmt.Errorf("check the structure of database %q: %w", name, err)
		}
		out = append(out, results...)
	}
	sums, err := c.checksums(ctx)
	return append(out, sums), err
}

func (c *pgCopy) checkDatabase(ctx context.Context, database string) ([]engines.CheckResult, error) {
	heap := engines.CheckResult{ID: "heap:" + database, Tier: tierIntegrity, Expected: "0", Verdict: verdictNotRun}
	btree := engines.CheckResult{ID: "btree:" + database, Tier: tierIntegrity, Expected: "0", Verdict: verdictNotRun}
	var why string
	var hasHeap bool
	err := c.in(ctx, database, func(conn *pgx.Conn) (err error) {
		why, hasHeap, err = installAmcheck(ctx, conn)
		return err
	})
	if err != nil {
		return nil, err
	}
	if why != "" {
		heap.Detail, btree.Detail = why, why
		return []engines.CheckResult{heap, btree}, nil
	}
	heap.Detail = "amcheck has no verify_heapam before PostgreSQL 14"
	if hasHeap {
		if heap, err = c.amcheck(ctx, database, heap, heapSQL, verifyHeap); err != nil {
			return nil, err
		}
	}
	if btree, err = c.amcheck(ctx, database, btree, btreeSQL, verifyBtree); err != nil {
		return nil, err
	}
	return []engines.CheckResult{heap, btree}, nil
}

// installAmcheck makes the extension in the copy; why says why it cannot.
func installAmcheck(ctx context.Context, conn *pgx.Conn) (why string, hasHeap bool, err error) {
	var available bool
	err = conn.QueryRow(ctx, "select exists (select from pg_available_extensions where name = 'amcheck')").Scan(&available)
	if err != nil || !available {
		return "the server has no amcheck extension", false, err
	}
	const install = "create schema if not exists holdfast_check; create extension if not exists amcheck schema holdfast_check"
	if _, err = conn.Exec(ctx, install, pgx.QueryExecModeSimpleProtocol); err != nil {
		return "", false, err
	}
	err = conn.QueryRow(ctx, `
		select exists (select from pg_proc p join pg_depend d on d.objid = p.oid and d.deptype = 'e'
		                 join pg_extension e on e.oid = d.refobjid
		                where e.extname = 'amcheck' and p.proname = 'verify_heapam')`).Scan(&hasHeap)
	return "", hasHeap, err
}

// amcheckSchemaSQL finds the extension's functions wherever it is installed.
const amcheckSchemaSQL = "select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace where e.extname = 'amcheck'"

// verify checks one relation and returns what is wrong with it, first
// finding first.
type verify func(ctx context.Context, conn *pgx.Conn, schema string, r relation) (problems int, first string, err error)

// verifyHeap: messages name blocks and offsets, never values.
func verifyHeap(ctx context.Context, conn *pgx.Conn, schema string, r relation) (n int, first string, err error) {
	err = conn.QueryRow(ctx, fmt.Sprintf(`
		select count(*), coalesce(min(format('block %%s offset %%s: %%s', blkno, offnum, msg)), '')
		  from %s($1::oid::regclass, on_error_stop => false, check_toast => true)`, pgx.Identifier{schema, "verify_heapam"}.Sanitize()), r.OID).Scan(&n, &first)
	return n, first, err
}

func verifyBtree(ctx context.Context, conn *pgx.Conn, schema string, r relation) (int, string, error) {
	_, err := conn.Exec(ctx, fmt.Sprintf("select %s($1::oid::regclass, true)", pgx.Identifier{schema, "bt_index_check"}.Sanitize()), r.OID)
	return 0, "", err
}

// amcheck runs one kind of check over a database. An error of the server in
// the midst of a relation (a page that cannot be read) is a finding; a lost
// connection is not.
func (c *pgCopy) amcheck(ctx context.Context, database string, res engines.CheckResult, list string, check verify) (engines.CheckResult, error) {
	relations, err := c.relations(ctx, database, list)
	if err != nil {
		return res, err
	}
	var schema string
	if err := c.in(ctx, database, func(conn *pgx.Conn) error { return conn.QueryRow(ctx, amcheckSchemaSQL).Scan(&schema) }); err != nil {
		return res, err
	}
	var mu sync.Mutex
	problems, first := 0, ""
	err = c.each(ctx, database, relations, func(ctx context.Context, conn *pgx.Conn, r relation) error {
		n, text, err := check(ctx, conn, schema, r)
		if err != nil {
			if ctx.Err() != nil || conn.IsClosed() {
				return fmt.Errorf("%s: %w", r, err)
			}
			n, text = n+1, err.Error()
		}
		mu.Lock()
		defer mu.Unlock()
		if n > 0 && first == "" {
			first = r.String() + ": " + text
		}
		problems += n
		return nil
	})
	if err != nil {
		return res, err
	}
	res.Actual, res.Verdict = strconv.Itoa(problems), verdictPass
	res.Detail = fmt.Sprintf("%d relations", len(relations))
	if problems > 0 {
		res.Verdict, res.Detail = verdictFail, fmt.Sprintf("%d relations; first: %s", len(relations), first)
	}
	return res, nil
}

// checksums is the server's own count of pages whose checksum did not match
// since it started.
func (c *pgCopy) checksums(ctx context.Context) (engines.CheckResult, error) {
	res := engines.CheckResult{ID: "checksums", Tier: tierIntegrity, Expected: "0", Verdict: verdictPass}
	err := c.in(ctx, defaultDatabase, func(conn *pgx.Conn) error {
		var on string
		if err := conn.QueryRow(ctx, "select current_setting('data_checksums')").Scan(&on); err != nil {
			return err
		}
		if on != "on" {
			res.Verdict, res.Expected, res.Detail = verdictNotRun, "", "the cluster has no page checksums"
			return nil
		}
		return conn.QueryRow(ctx, "select coalesce(sum(checksum_failures), 0)::text from pg_stat_database").Scan(&res.Actual)
	})
	if err == nil && res.Verdict == verdictPass && res.Actual != res.Expected {
		res.Verdict = verdictFail
	}
	return res, err
}
