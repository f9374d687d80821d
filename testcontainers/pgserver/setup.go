package pgserver

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/testcontainers"
)

// hba lets anybody who reaches the socket in (its directory is the server
// user's alone), and others by password.
const hba = `local all all trust
local replication all trust
host all all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
`

func (s *Server) initdb(ctx context.Context) error {
	secret := filepath.Join(s.sandbox.Dir(), "password")
	if err := os.WriteFile(secret, []byte(s.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the password file: %w", err)
	}
	if err := s.sandbox.Own(ctx, secret); err != nil {
		return err
	}
	// The C locale is on every machine, and sorts alike on all.
	err := s.sandbox.Run(ctx, testcontainers.Command{
		Path: "initdb",
		Args: []string{
			"-D", s.sandbox.GuestPath(s.DataDir()), "-U", admin, "--pwfile", s.sandbox.GuestPath(secret),
			"--auth", "scram-sha-256", "--data-checksums", "--no-sync", "--encoding", "UTF8", "--locale", "C",
		},
		Stdout: &s.log, Stderr: &s.log,
	})
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	if err := os.Remove(secret); err != nil {
		return fmt.Errorf("delete the password file: %w", err)
	}
	conf := Defaults()
	maps.Copy(conf, s.opts.Conf)
	if err := appendFile(filepath.Join(s.DataDir(), "postgresql.conf"), confLines(conf)); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.DataDir(), "pg_hba.conf"), []byte(hba), 0o600)
}

// confLines writes settings as postgresql.conf does, sorted.
func confLines(conf map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(conf)) {
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(conf[name])
		fmt.Fprintf(&b, "%s = '%s'\n", name, quoted)
	}
	return b.String()
}

func appendFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(text); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// setUp makes the role and runs the caller's statements.
func (s *Server) setUp(ctx context.Context) error {
	var statements []string
	if s.opts.Role != "" {
		statements = append(statements, fmt.Sprintf("create role %s login replication password '%s'",
			pgx.Identifier{s.opts.Role}.Sanitize(), s.password)) // rand.Text needs no quoting
	}
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for _, q := range append(statements, s.opts.SQL...) {
		if _, err := conn.Exec(ctx, q); err != nil {
			return fmt.Errorf("set up the server: %w", err)
		}
	}
	return nil
}

// connect opens a superuser connection over the socket.
func (s *Server) connect(ctx context.Context) (*pgx.Conn, error) {
	conf, err := pgx.ParseConfig("sslmode=disable user=" + admin + " dbname=postgres host=" + s.SocketDir() + " port=" + strconv.Itoa(s.port))
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, conf)
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
