package postgres

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/jackc/pgx/v5"
)

// readExtensions lists the extensions of the database conn is in.
func readExtensions(ctx context.Context, conn *pgx.Conn) ([]Extension, error) {
	rows, err := conn.Query(ctx, `select current_database()::text, extname::text, extversion from pg_extension order by extname`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Extension])
}

// readSettings reads the settings named by copySettings that this version has.
func readSettings(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, `select name, current_setting(name) from pg_settings where name = any($1)`, copySettings)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	var name, value string
	_, err = pgx.ForEachRow(rows, []any{&name, &value}, func() error {
		out[name] = value
		return nil
	})
	return out, err
}

// readDatabases lists databases with what a copy's libraries must match.
func readDatabases(ctx context.Context, conn *pgx.Conn, versionNum int) ([]DatabaseInfo, error) {
	provider, version := `''`, `''`
	if versionNum >= 150000 { // columns added by 15
		provider, version = `datlocprovider::text`, `coalesce(datcollversion, '')`
	}
	rows, err := conn.Query(ctx, fmt.Sprintf(`
		select datname::text, oid, pg_encoding_to_char(encoding)::text, datcollate::text, coalesce(datctype::text, ''), %s, %s,
		       coalesce(case when has_database_privilege(oid, 'connect') or pg_has_role('pg_read_all_stats', 'usage')
		                     then pg_database_size(oid) end, 0)
		  from pg_database order by datname`, provider, version))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[DatabaseInfo])
}

// readConfFiles fetches the configuration files. Debian and others keep them
// outside PGDATA, where a base backup does not reach. A role without
// pg_read_server_files gets what the views show, or nothing; that is no error.
func readConfFiles(ctx context.Context, conn *pgx.Conn, dataDirectory string) []ConfFile {
	var out []ConfFile
	for _, f := range []struct{ setting, name, view string }{
		// Settings set for one role or database live in the catalogue, and
		// postgresql.auto.conf is always in PGDATA; sourcefile is null without
		// pg_read_all_settings, so this view then is empty.
		{"config_file", "postgresql.conf", `
			select coalesce(string_agg(name || ' = ' || quote_literal(setting) , E'\n' order by sourcefile, seqno), '')
			  from pg_file_settings where applied and sourcefile not like '%postgresql.auto.conf'`},
		{"hba_file", "pg_hba.conf", `
			select coalesce(string_agg(concat_ws(' ', type, array_to_string(database, ','), array_to_string(user_name, ','),
			         address, netmask, auth_method, array_to_string(options, ' ')), E'\n' order by line_number), '')
			  from pg_hba_file_rules where error is null`},
		{"ident_file", "pg_ident.conf", ``},
	} {
		file := ConfFile{Name: f.name, From: "file"}
		err := conn.QueryRow(ctx, `select coalesce((select setting from pg_settings where name = $1), '')`, f.setting).Scan(&file.Path)
		if err != nil {
			return out
		}
		file.Inside = dataDirectory != "" && strings.HasPrefix(file.Path, path.Clean(dataDirectory)+"/")
		if file.Path == "" || conn.QueryRow(ctx, `select pg_read_file($1)`, file.Path).Scan(&file.Content) != nil {
			file.From = "view"
			if f.view == "" || conn.QueryRow(ctx, f.view).Scan(&file.Content) != nil {
				continue
			}
		}
		out = append(out, file)
	}
	return out
}
