package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// pgCopy is a restored server that answers. Every call connects as the
// bootstrap superuser over the sandbox's socket.
type pgCopy struct {
	*replay
	version      string
	walBlockSize int64
	reached      repo.Position
	lastCommit   time.Time
}

var _ engines.Copy = (*pgCopy)(nil)

const (
	// checkTimeout bounds one statement of a user's check.
	checkTimeout = 10 * time.Minute
	// defaultDatabase exists in every cluster unless somebody dropped it.
	defaultDatabase = "postgres"
)

// connect opens a connection to one database of the copy.
//
// The parameters in the startup packet overrule what the catalogue sets for a
// role or a database (ALTER ROLE … SET), which the copy's own configuration
// does not. unset leaves some of them to the catalogue.
func (c *pgCopy) connect(ctx context.Context, database string, unset ...string) (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig("sslmode=disable connect_timeout=30")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port = c.req.Sandbox.GuestPath(c.place.run), copyPort
	cfg.User, cfg.Password, cfg.Database = c.details.BootstrapUser, "", database
	cfg.TLSConfig, cfg.Fallbacks = nil, nil
	cfg.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.req.Sandbox.Dial(ctx, c.place.socket)
	}
	cfg.RuntimeParams = map[string]string{
		"application_name":          "holdfast",
		"session_preload_libraries": "",
		"row_security":              "off",
		"statement_timeout":         "0",
		"lock_timeout":              "0",
		"search_path":               "pg_catalog", // whatever else is set, our names mean the catalogue's
	}
	if c.details.VersionNum >= 170000 {
		cfg.RuntimeParams["event_triggers"] = "off"
	}
	for _, name := range unset {
		delete(cfg.RuntimeParams, name)
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connect to database %q of the copy: %w", database, err)
	}
	return conn, nil
}

// in runs f on a connection to a database.
func (c *pgCopy) in(ctx context.Context, database string, f func(*pgx.Conn) error, unset ...string) error {
	conn, err := c.connect(ctx, database, unset...)
	if err != nil {
		return err
	}
	err = f(conn)
	// The statement's outcome counts, not the farewell's.
	_ = conn.Close(context.WithoutCancel(ctx))
	return err
}

// open asks the server who it is and where its recovery ended.
func (c *pgCopy) open(ctx context.Context) error {
	return c.in(ctx, defaultDatabase, func(conn *pgx.Conn) error {
		var recovering bool
		var lsn string
		var last *time.Time
		err := conn.QueryRow(ctx, `
			select pg_is_in_recovery(), coalesce(pg_last_wal_replay_lsn()::text, '0/0'), pg_last_xact_replay_timestamp(),
			       current_setting('server_version'), current_setting('wal_block_size')::int8`).
			Scan(&recovering, &lsn, &last, &c.version, &c.walBlockSize)
		if err != nil {
			return err
		}
		if recovering {
			return errors.New("the server says that it is open, and that it is in recovery")
		}
		if last != nil {
			c.lastCommit = last.UTC()
		}
		if c.reached, err = ParseLSN(lsn); err != nil {
			return err
		}
		// A record that switches segments ends where its segment does, though
		// the plan may end inside the padding behind it.
		legs := c.req.Plan.Log.Legs
		c.reached = min(c.reached, legs[len(legs)-1].To)
		return nil
	})
}

// Reached is the end of the last record replayed, and the time of the last
// commit or abort among them: zero if there was none.
func (c *pgCopy) Reached(context.Context) (repo.Position, time.Time, error) {
	return c.reached, c.lastCommit, nil
}

// Version is server_version.
func (c *pgCopy) Version() string { return c.version }

// Beats reads the heartbeat ring.
func (c *pgCopy) Beats(ctx context.Context) ([]repo.Beat, error) {
	there := false
	err := c.in(ctx, defaultDatabase, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1 and datallowconn)", beatDatabase).Scan(&there)
	})
	if err != nil || !there {
		return nil, err
	}
	var beats []repo.Beat
	err = c.in(ctx, beatDatabase, func(conn *pgx.Conn) (err error) {
		beats, err = readBeats(ctx, conn)
		return err
	})
	return beats, err
}

// Query runs one statement in a read-only transaction. No row, and a null,
// are "".
func (c *pgCopy) Query(ctx context.Context, database, query string) (string, error) {
	if database == "" {
		database = defaultDatabase
	}
	first := ""
	err := c.in(ctx, database, func(conn *pgx.Conn) error {
		settings := fmt.Sprintf("set statement_timeout = %d; set default_transaction_read_only = on; begin read only", checkTimeout.Milliseconds())
		if _, err := conn.Exec(ctx, settings, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		// The extended protocol takes one statement only, so a check cannot
		// leave the transaction. Results come as text.
		rows := conn.PgConn().ExecParams(ctx, query, nil, nil, nil, nil)
		if rows.NextRow() && len(rows.Values()) > 0 {
			first = string(rows.Values()[0])
		}
		_, err := rows.Close()
		return err
	}, "search_path") // the user's statement means what it means at the source
	return first, err
}

// Close stops the server. What it leaves is the sandbox's to delete.
func (c *pgCopy) Close(ctx context.Context) error { return c.stop(ctx) }
