package postgres

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// SQLSTATEs that lead to advice (manual, appendix A). The code decides, not
// the text: a server may speak any language.
const (
	stateBadPassword    = "28P01"
	stateBadAuth        = "28000"
	stateNoDatabase     = "3D000"
	stateNoPrivilege    = "42501"
	stateTooMany        = "53300"
	stateCannotConnect  = "57P03"
	stateAdminShutdown  = "57P01"
	stateCrashShutdown  = "57P02"
	stateObjectInUse    = "55006"
	stateNotInState     = "55000"
	stateUndefined      = "42704"
	stateNoFile         = "58P01"
	stateDuplicate      = "42710"
	stateDataCorrupted  = "XX001"
	stateConfigLimit    = "53400"
	stateUndefinedTable = "42P01"
)

// redacted is an error whose text was cleaned of secrets; the chain below it
// stays reachable for errors.As.
type redacted struct {
	text string
	err  error
}

func (e *redacted) Error() string { return e.text }
func (e *redacted) Unwrap() error { return e.err }

// clean removes passwords from an error's text, should a driver put one in.
func (s *source) clean(err error) error {
	text := err.Error()
	for _, p := range s.secret {
		text = strings.ReplaceAll(text, p, secret.Redacted)
	}
	if text == err.Error() {
		return err
	}
	return &redacted{text, err}
}

// explain turns a driver's error into one with a hint, and gives every error
// its condition (engines.ConditionOf).
func (s *source) explain(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	c := conditionOf(err)
	var known *hferr.E
	if !errors.As(err, &known) {
		err = hferr.New(what, s.clean(shorten(err)), s.hint(err))
	}
	return engines.Classify(c, err)
}

// shorten prefers the server's own words to the driver's account of every
// address and TLS mode it tried, but only if there was just one answer.
func shorten(err error) error {
	var connectErr *pgconn.ConnectError
	var pgErr *pgconn.PgError
	if errors.As(err, &connectErr) && errors.As(err, &pgErr) && strings.Count(connectErr.Error(), "SQLSTATE") == 1 {
		return pgErr
	}
	return err
}

func (s *source) hint(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return s.serverHint(err, pgErr)
	}
	var dns *net.DNSError
	var op *net.OpError
	var unknownCA x509.UnknownAuthorityError
	var hostname x509.HostnameError
	switch text := err.Error(); {
	case errors.As(err, &unknownCA):
		return "the server's certificate is not signed by a known authority: give it with sslrootcert=FILE in the URL"
	case errors.As(err, &hostname):
		return "the server's certificate is for another host name: connect by that name, or use sslmode=verify-ca"
	case strings.Contains(text, "server refused TLS connection"):
		return "the server does not offer TLS but sslmode requires it: set ssl = on at the server, or sslmode=disable on a trusted network"
	case errors.As(err, &dns):
		return fmt.Sprintf("the host name %s cannot be resolved: check the URL", s.config.Host)
	case errors.As(err, &op), errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "timeout"):
		return fmt.Sprintf("no server answers at %s: check that it runs, that listen_addresses and the port (%d) are right, and that no firewall is between", s.config.Host, s.config.Port)
	}
	return ""
}

// serverHint advises on what the server itself refused.
func (s *source) serverHint(err error, e *pgconn.PgError) string {
	role := pgx.Identifier{s.config.User}.Sanitize()
	switch e.Code {
	case stateBadPassword:
		return fmt.Sprintf("give the right password for role %s: password_file in holdfast.yaml, PGPASSFILE, or PGPASSWORD", s.config.User)
	case stateBadAuth:
		return s.authHint(err, e)
	case stateNoDatabase:
		return fmt.Sprintf("name an existing database in the URL, for example postgres://%s@%s:%d/postgres", s.config.User, s.config.Host, s.config.Port)
	case stateNoPrivilege:
		// Either this database or the start of a WAL sender was denied; only a
		// database's denial quotes its name.
		if strings.Contains(e.Message, s.config.Database) {
			return fmt.Sprintf("GRANT CONNECT ON DATABASE %s TO %s;", pgx.Identifier{s.config.Database}.Sanitize(), role)
		}
		return fmt.Sprintf("ALTER ROLE %s REPLICATION;", role)
	case stateTooMany:
		return "the server has no free connection or WAL sender: raise max_connections or max_wal_senders, or end what uses them (SELECT * FROM pg_stat_replication)"
	case stateCannotConnect, stateAdminShutdown, stateCrashShutdown:
		return "the server is starting up, shutting down or recovering: try again when it accepts connections"
	}
	return ""
}

var quotedAddress = regexp.MustCompile(`"(\[local\]|[0-9a-fA-F.:]+(?:%[^"]*)?)"`)

// authHint covers SQLSTATE 28000: no line in pg_hba.conf, a line that rejects,
// a peer or certificate mismatch, or a role that does not exist.
func (s *source) authHint(err error, e *pgconn.PgError) string {
	role := pgx.Identifier{s.config.User}.Sanitize()
	if !strings.Contains(e.Message, "pg_hba") {
		return fmt.Sprintf("CREATE ROLE %s LOGIN REPLICATION PASSWORD '…';  -- or, if it exists: ALTER ROLE %s LOGIN;", role, role)
	}
	lines := []string{}
	if strings.Contains(err.Error(), "hostssl") || (s.config.TLSConfig == nil && !strings.HasPrefix(s.config.Host, "/")) {
		lines = append(lines, "if pg_hba.conf asks for TLS (hostssl), use sslmode=require or stricter in the URL; otherwise")
	}
	database := pgx.Identifier{s.config.Database}.Sanitize()
	if strings.Contains(e.Message, "replication") {
		database = "replication"
	}
	lines = append(lines,
		"add this line to pg_hba.conf, above any line that rejects it, and run SELECT pg_reload_conf();",
		s.hbaLine(database, e.Message))
	return strings.Join(lines, "\n")
}

// hbaLine is the exact line for pg_hba.conf. The server quotes the address it
// sees, which is not ours behind address translation.
func (s *source) hbaLine(database, message string) string {
	user := s.config.User
	if strings.ContainsAny(user, " \t,\"#") || strings.ToLower(user) == "all" {
		user = `"` + strings.ReplaceAll(user, `"`, `""`) + `"`
	}
	address := "ADDRESS/32"
	if m := quotedAddress.FindStringSubmatch(message); m != nil {
		address = m[1]
	} else if strings.HasPrefix(s.config.Host, "/") {
		address = "[local]"
	}
	switch {
	case address == "[local]":
		return fmt.Sprintf("local   %s   %s   scram-sha-256", database, user)
	case strings.Contains(address, "/"):
	case strings.Contains(address, ":"):
		address += "/128"
	default:
		address += "/32"
	}
	kind := "host"
	if strings.Contains(message, "SSL encryption") || strings.Contains(message, "SSL on") {
		kind = "hostssl"
	}
	return fmt.Sprintf("%s   %s   %s   %s   scram-sha-256", kind, database, user, address)
}
