package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// source is one server. It keeps no connection: every method opens what it
// needs, so that a server's restart between two jobs is nobody's business.
type source struct {
	config *pgx.ConnConfig // template, copied for each connection
	name   string          // the user's name for the database
	log    *slog.Logger
	clock  func() time.Time
	pause  func(ctx context.Context, d time.Duration) error
	secret []string // values that no error may contain
}

var _ engines.Source = (*source)(nil)

// connectTimeout bounds a connection attempt when the URL does not say.
const connectTimeout = 15 * time.Second

func connect(ctx context.Context, o engines.ConnectOptions) (*source, error) {
	s, err := newSource(o)
	if err != nil {
		return nil, err
	}
	conn, err := s.sql(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.hangUp(conn)
	var num int
	if err := conn.QueryRow(ctx, "select current_setting('server_version_num')::int").Scan(&num); err != nil {
		return nil, s.explain("connect to "+s.name, err)
	}
	if num < minVersionNum {
		return nil, engines.Permanent(hferr.NewUsage("connect to "+s.name,
			fmt.Errorf("the server is PostgreSQL %d.%d; holdfast needs 13 or later", num/10000, num%10000),
			"upgrade the server: older versions cannot say which files a base backup holds"))
	}
	return s, nil
}

// newSource reads the URL the way pgx does: PGPASSFILE, ~/.pgpass, service
// files and the PG* variables fill in what the URL leaves out.
func newSource(o engines.ConnectOptions) (*source, error) {
	what := "connect to " + o.Database
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "postgres" && u.Scheme != "postgresql") {
		// The parser's own text quotes the URL, which may hold a password.
		return nil, hferr.NewUsage(what, errors.New("the database URL is not a valid postgres:// URL"),
			"write postgres://USER@HOST:PORT/DATABASE, with special characters percent-encoded, and give the password by a password file or PGPASSFILE")
	}
	config, err := pgx.ParseConfig(o.URL)
	if err != nil {
		return nil, hferr.NewUsage(what, errors.New("the database URL or one of the PG* variables is not valid"),
			"check host, port, sslmode and the certificate files the URL names")
	}
	if !o.Password.Empty() {
		config.Password = o.Password.Reveal()
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	config.RuntimeParams["application_name"] = applicationName(o.Database)
	s := &source{config: config, name: o.Database, log: o.Log, clock: o.Clock, pause: pause}
	if s.clock == nil {
		s.clock = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if config.Password != "" {
		s.secret = append(s.secret, config.Password, url.QueryEscape(config.Password), url.PathEscape(config.Password))
	}
	return s, nil
}

// pause waits, unless ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// receiverName is the application_name of the connection that follows the
// log: what an administrator writes into synchronous_standby_names. It is the
// slot's name, so it needs no quotes there; no other connection of ours has
// it, so that a base backup or a one-shot tail is never taken for the stream.
func receiverName(database string) string { return slotName(database) }

// receiver opens the connection that follows the log.
func (s *source) receiver(ctx context.Context, temporary bool) (*pgconn.PgConn, error) {
	if temporary {
		return s.replication(ctx, nil)
	}
	named := *s
	named.config = s.config.Copy()
	named.config.RuntimeParams["application_name"] = receiverName(s.name)
	return named.replication(ctx, nil)
}

// applicationName is seen in pg_stat_activity and pg_stat_replication. The
// server cuts it at 63 bytes and replaces what is not printable ASCII.
func applicationName(database string) string {
	name := "holdfast " + strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, database)
	return name[:min(len(name), 63)]
}

// sql opens an ordinary connection; database "" is the URL's.
func (s *source) sql(ctx context.Context, database string) (*pgx.Conn, error) {
	config := s.config.Copy()
	if database != "" {
		config.Database = database
	}
	// Whatever a role or a database has in its search_path, our names mean
	// the catalogue's.
	config.RuntimeParams["search_path"] = "pg_catalog"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.explain("connect to "+s.name, err)
	}
	return conn, nil
}

// replication opens a connection in walsender mode. Notices, which carry the
// server's warnings during a base backup, go to notice.
func (s *source) replication(ctx context.Context, notice func(*pgconn.Notice)) (*pgconn.PgConn, error) {
	config := s.config.Config.Copy()
	config.RuntimeParams["replication"] = "true"
	if notice != nil {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notice(n) }
	}
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, s.explain("open a replication connection to "+s.name, err)
	}
	return conn, nil
}

// hangUpAfter bounds how long a goodbye may take.
const hangUpAfter = 5 * time.Second

// hangUp closes politely even when the caller's ctx has ended, so that the
// server does not log a lost connection, and waits until a cancelled command
// has been told to the server.
func (s *source) hangUp(conn interface{ Close(context.Context) error }) {
	ctx, cancel := context.WithTimeout(context.Background(), hangUpAfter)
	defer cancel()
	_ = conn.Close(ctx) // nothing depends on it
	var raw *pgconn.PgConn
	switch c := conn.(type) {
	case *pgx.Conn:
		raw = c.PgConn()
	case *pgconn.PgConn:
		raw = c
	}
	if raw != nil {
		select {
		case <-raw.CleanupDone():
		case <-ctx.Done():
		}
	}
}

// Close is for the contract: there is nothing to close.
func (s *source) Close() error { return nil }

// Clock is the server's own time.
func (s *source) Clock(ctx context.Context) (time.Time, error) {
	conn, err := s.sql(ctx, "")
	if err != nil {
		return time.Time{}, err
	}
	defer s.hangUp(conn)
	var t time.Time
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&t); err != nil {
		return time.Time{}, s.explain("ask "+s.name+" for its time", err)
	}
	return t, nil
}

// Log is the server's WAL.
func (s *source) Log() engines.LogSource { return &logSource{source: s, stall: streamStall} }

// Heartbeat opens a connection that writes beats.
func (s *source) Heartbeat(ctx context.Context) (consistency.Pulse, error) {
	return newPulse(ctx, s)
}

// replicationRow runs a replication command that answers one row.
func replicationRow(ctx context.Context, conn *pgconn.PgConn, command string, columns int) ([]string, error) {
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, err
	}
	verb, _, _ := strings.Cut(command, " ")
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) < columns {
		return nil, fmt.Errorf("%s: the server's answer has not the form expected", verb)
	}
	row := make([]string, len(results[0].Rows[0]))
	for i, v := range results[0].Rows[0] {
		row[i] = string(v)
	}
	return row, nil
}

// system is what a replication connection says of the server.
type system struct {
	ID       string
	Timeline uint32
	Flushed  string // end of the log that may be streamed, "0/3000028"
}

func identifySystem(ctx context.Context, conn *pgconn.PgConn) (system, error) {
	row, err := replicationRow(ctx, conn, "IDENTIFY_SYSTEM", 3)
	if err != nil {
		return system{}, err
	}
	tli, err := strconv.ParseUint(row[1], 10, 32)
	if err != nil {
		return system{}, fmt.Errorf("IDENTIFY_SYSTEM: timeline %q", row[1])
	}
	return system{ID: row[0], Timeline: uint32(tli), Flushed: row[2]}, nil
}
