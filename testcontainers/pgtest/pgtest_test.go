package pgtest_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
)

func one(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	var v string
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestServerLife(t *testing.T) {
	for _, major := range majors() {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, major, pgserver.Options{
				Role: "holdfast",
				Conf: map[string]string{"application_name": `it's a \test`, "max_wal_senders": "7"},
				SQL:  []string{"create table t as select g from generate_series(1, 100) g", "grant select on t to holdfast"},
			})
			for sql, want := range map[string]string{
				"select split_part(current_setting('server_version'), '.', 1)":           major,
				"select current_setting('data_checksums')":                               "on",
				"select current_setting('wal_level')":                                    "replica",
				"select current_setting('max_wal_senders')":                              "7",
				"select reset_val from pg_settings where name = 'application_name'":      `it's a \test`,
				"select current_user::text":                                              "holdfast",
				"select count(*)::text from t":                                           "100",
				"select inet_server_addr()::text":                                        "127.0.0.1/32",
				"select rolreplication::text from pg_roles where rolname = current_user": "true",
			} {
				if got := one(t, s.URL(), sql); got != want {
					t.Errorf("%s = %q, want %q", sql, got, want)
				}
			}
			replication, err := pgconn.Connect(t.Context(), s.URL()+"&replication=true")
			if err != nil {
				t.Fatal(err)
			}
			if err := replication.Close(t.Context()); err != nil {
				t.Error(err)
			}
			wrong := strings.Replace(s.URL(), s.Password(), "wrong", 1)
			if c, err := pgconn.Connect(t.Context(), wrong); err == nil {
				_ = c.Close(t.Context())
				t.Error("a wrong password was let in")
			}
		})
	}
}

func TestKillRestart(t *testing.T) {
	for _, major := range majors() {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			s := pgtest.Start(t, major, pgserver.Options{SQL: []string{"create table t (v int)", "insert into t values (42)"}})
			if err := s.Kill9(t.Context()); err != nil {
				t.Fatal(err)
			}
			if s.PID() != 0 {
				t.Error("a killed server has a process id")
			}
			if _, err := os.Stat(s.DataDir() + "/postmaster.pid"); err != nil {
				t.Errorf("the server ended in an orderly way: %v", err)
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := one(t, s.AdminURL(), "select v::text from t"); got != "42" {
				t.Errorf("after the crash v = %s", got)
			}
			if err := s.StopFast(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(s.DataDir() + "/postmaster.pid"); err == nil {
				t.Error("the server did not end in an orderly way")
			}
			if err := s.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			if got := one(t, s.AdminURL(), "select v::text from t"); got != "42" {
				t.Errorf("after the stop v = %s", got)
			}
		})
	}
}

// majors are the versions to test: HOLDFAST_TEST_PG ("13 14 15"), else the two
// that are always provisioned.
func majors() []string {
	if v := strings.Fields(os.Getenv("HOLDFAST_TEST_PG")); len(v) > 0 {
		return v
	}
	return []string{"15", "18"}
}
