package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// copyPlace is where a copy's parts are, as the host sees them. All are
// below the sandbox's directory; sockets have short names, for a socket's
// path may have 107 bytes only.
type copyPlace struct {
	data   string
	conf   string // its whole configuration, outside the data directory
	run    string // sockets
	socket string // the server's
	feed   string // the log feed's
}

const copyPort = 5432 // names the socket; nothing listens on TCP

func placeCopy(dir string, sb testcontainers.Sandbox) copyPlace {
	run := filepath.Join(sb.Dir(), "run")
	return copyPlace{
		data: dir, conf: filepath.Join(sb.Dir(), "conf"), run: run,
		socket: filepath.Join(run, fmt.Sprintf(".s.PGSQL.%d", copyPort)),
		feed:   filepath.Join(run, "feed"),
	}
}

// isolate writes the copy's configuration and takes the source's out of its
// reach. What the server reads is conf/ and one file of the data directory,
// postgresql.auto.conf, which it always reads: that one is emptied, its
// content put aside.
func (p copyPlace) isolate(ctx context.Context, r engines.ReplayRequest, d *Details, restoreCommand []string) error {
	for _, dir := range []string{p.conf, p.run} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	auto := filepath.Join(p.data, autoConf)
	if err := os.Rename(auto, auto+".source"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	recovery, err := recoverySettings(r.Plan, restoreCommand, nil)
	if err != nil {
		return err
	}
	guest := r.Sandbox.GuestPath
	files := []struct{ path, text string }{
		{auto, ""},
		{filepath.Join(p.conf, mainConf), copyConf(d, guest(p.conf), guest(p.run)) + recovery},
		{filepath.Join(p.conf, hbaConf), "local all all trust\n"},
		{filepath.Join(p.conf, "pg_ident.conf"), ""},
		{filepath.Join(p.data, "recovery.signal"), ""},
	}
	for _, f := range files {
		if err := writeDurably(f.path, []byte(f.text), 0o600); err != nil {
			return err
		}
	}
	if err := removeIfThere(filepath.Join(p.data, "standby.signal")); err != nil {
		return err
	}
	for _, path := range []string{p.data, p.conf} {
		if err := r.Sandbox.Own(ctx, path); err != nil {
			return err
		}
	}
	return nil
}

// copyConf is the configuration of a copy that can do nothing to anybody: no
// listening address, no archiving, no replication in or out, no libraries
// that run by themselves, no event triggers.
//
// hot_standby is off: nobody reads before the promotion, and only a hot
// standby compares its settings with the source's and pauses for ever when
// the source has raised one since the base ("insufficient parameter
// settings"). fsync stays on: the time a drill measures is the time a
// restore takes.
func copyConf(d *Details, confDir, runDir string) string {
	type kv = struct{ name, value string }
	lines := []kv{
		{"listen_addresses", ""},
		{"port", strconv.Itoa(copyPort)},
		{"unix_socket_directories", runDir},
		{"unix_socket_permissions", "0700"},
		{"hba_file", confDir + "/" + hbaConf},
		{"ident_file", confDir + "/pg_ident.conf"},
		{"external_pid_file", ""},
		{"hot_standby", "off"},
		{"archive_mode", "off"},
		{"archive_command", ""},
		{"max_logical_replication_workers", "0"},
		{"shared_preload_libraries", ""},
		{"session_preload_libraries", ""},
		{"local_preload_libraries", ""},
		{"autovacuum", "off"},
		{"restart_after_crash", "off"},
		{"huge_pages", "off"},
		{"max_connections", "50"},
		{"max_prepared_transactions", atLeast(d.Settings["max_prepared_transactions"], 64)},
		{"max_locks_per_transaction", atLeast(d.Settings["max_locks_per_transaction"], 64)},
		{"max_parallel_workers_per_gather", "0"}, // a container has 64 MiB of shared memory
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
		{"log_line_prefix", "%m [%p] "},
		{"lc_messages", "C"}, // serverLog reads it
		{"log_checkpoints", "off"},
	}
	for _, name := range []string{"TimeZone", "track_commit_timestamp"} {
		if v := d.Settings[name]; v != "" {
			lines = append(lines, kv{name, v})
		}
	}
	if d.VersionNum >= 150000 {
		lines = append(lines, kv{"archive_library", ""})
	}
	if d.VersionNum >= 170000 {
		lines = append(lines, kv{"event_triggers", "off"}) // login triggers
	}
	if len(d.Tablespaces) > 0 {
		lines = append(lines, kv{"allow_in_place_tablespaces", "on"})
	}
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(confLine(l.name, l.value))
	}
	return b.String()
}

// atLeast is the source's value or the floor, whichever is higher.
func atLeast(value string, floor int) string {
	if n, err := strconv.Atoi(value); err == nil && n > floor {
		return value
	}
	return strconv.Itoa(floor)
}
