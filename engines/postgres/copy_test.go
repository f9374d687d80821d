package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
)

// spoil flips one byte in the middle of a relation's first page in the base.
func (r *rig) spoil(relation string) {
	r.t.Helper()
	path := filepath.Join(r.base, r.text("select pg_relation_filepath('"+relation+"')"))
	b, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	b[5000] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// settle makes the base the place where the relations' pages are: no log
// after it repairs them.
func (r *rig) settle() {
	r.exec("vacuum freeze", "checkpoint")
}

func TestAReadAndTheChecksFindADamagedTable(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, "create schema money", `create table money."Accounts" (id int, note text)`,
			`insert into money."Accounts" select i, repeat('x', 500) from generate_series(1, 100) i`)
		r.settle()
		r.backup()
		r.spoil(`money."Accounts"`)
		plan := r.planTo(r.flushed())
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.copy.ReadAll(t.Context()); err == nil || !strings.Contains(err.Error(), "postgres.money.Accounts") {
			t.Errorf("reading a damaged table: %v", err)
		}
		wantVerdicts(t, integrity(t, out.copy), map[string]string{
			"heap:postgres": verdictFail, "btree:postgres": verdictPass, "heap:template1": verdictPass, "btree:template1": verdictPass, "checksums": verdictFail,
		})
	})
}

func TestTheChecksFindADamagedIndex(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, "create table accounts (id int, note text)", "insert into accounts select i, 'x' from generate_series(1, 100) i",
			"create index by_id on accounts (id)")
		r.settle()
		r.backup()
		// A row that the index does not know: the table's page is newer.
		heap := filepath.Join(r.base, r.text("select pg_relation_filepath('accounts')"))
		r.exec("create table other (id int, note text)", "insert into other select i + 1000, 'x' from generate_series(1, 100) i", "vacuum freeze other", "checkpoint")
		b, err := os.ReadFile(filepath.Join(r.srv.DataDir(), r.text("select pg_relation_filepath('other')")))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(heap, b, 0o600); err != nil {
			t.Fatal(err)
		}
		plan := r.planTo(r.man.Stop)
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		results := integrity(t, out.copy)
		wantVerdicts(t, results, map[string]string{
			"heap:postgres": verdictPass, "btree:postgres": verdictFail, "heap:template1": verdictPass, "btree:template1": verdictPass, "checksums": verdictPass,
		})
		for _, res := range results {
			if res.Verdict == verdictFail && !strings.Contains(res.Detail, "postgres.public.by_id") {
				t.Errorf("no index named in %+v", res)
			}
		}
	})
}

func wantVerdicts(t *testing.T, results []engines.CheckResult, want map[string]string) {
	t.Helper()
	if len(results) != len(want) {
		t.Errorf("%d results, want %d", len(results), len(want))
	}
	for _, res := range results {
		if res.Verdict != want[res.ID] || res.Tier != tierIntegrity {
			t.Errorf("%+v, want %s", res, want[res.ID])
		}
	}
}

// A source set up to act, and to trip whoever reads it.
func TestACopyDoesNotAct(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		setup := []string{
			accounts, "insert into accounts values (1, 'one')",
			"create materialized view never as select * from accounts with no data",
			`create table "odd "" name" (id int generated always as identity, twice int generated always as (7 * 2) stored)`,
			`insert into "odd "" name" default values`,
			"create table parent (id int)", "create table child () inherits (parent)", "insert into child values (1)",
			"create database closed allow_connections false",
			"create function trip() returns event_trigger language plpgsql as $$ begin raise 'an event trigger ran'; end $$",
			"alter role postgres set session_preload_libraries = 'no_such_library'",
			"alter role postgres set statement_timeout = '1ms'",
			"alter role postgres set search_path = 'nowhere'",
			"alter system set archive_command = 'touch /nowhere/archived'",
		}
		if major >= "17" {
			setup = append(setup, "create event trigger trip on login execute function trip()", "alter event trigger trip enable always")
		}
		r := &rig{t: t, major: major}
		r.start(setup, map[string]string{"archive_mode": "on"})
		r.backup()
		r.exec("insert into public.accounts values (2, 'two')")
		plan := r.planTo(r.flushed())
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{
			"archive_mode": "off", "archive_command": "(disabled)", "listen_addresses": "", "shared_preload_libraries": "",
			"max_logical_replication_workers": "0", "primary_conninfo": "", "fsync": "on",
		} {
			out.want(t, "select setting from pg_settings where name = '"+name+"'", want)
		}
		stats, err := out.copy.ReadAll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if stats.Databases != 2 {
			t.Errorf("read %d databases, want postgres and template1", stats.Databases)
		}
		wantVerdicts(t, integrity(t, out.copy), map[string]string{
			"heap:postgres": verdictPass, "btree:postgres": verdictPass, "heap:template1": verdictPass, "btree:template1": verdictPass, "checksums": verdictPass,
		})
		out.want(t, "select sum(id) from public.accounts", "3")
		out.want(t, "select null", "")
		out.want(t, "select 1 where false", "")
		for _, q := range []string{"delete from public.accounts", "select 1; delete from public.accounts", "create table x (i int)", "select pg_sleep(0) from nowhere"} {
			if got, err := out.copy.Query(t.Context(), "", q); err == nil {
				t.Errorf("%s: %q, want an error", q, got)
			}
		}
		if beats, err := out.copy.Beats(t.Context()); err != nil || beats != nil {
			t.Errorf("beats without a heartbeat: %v, %v", beats, err)
		}
		if err := out.copy.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(out.dir, "postmaster.pid")); err == nil {
			t.Error("the server was not shut down cleanly")
		}
	})
}
