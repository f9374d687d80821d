package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/internal/repo"
)

const (
	severityError   = "error"
	severityWarning = "warning"
	severityInfo    = "info"
)

// inspection is what one look at a server showed; the rules below turn it
// into findings without any I/O.
type inspection struct {
	role       string // quoted
	roleName   string
	super      bool
	replicate  bool
	createDB   bool
	monitor    bool // may read all settings and statistics
	settings   map[string]string
	versionNum int
	recovery   bool
	checksums  bool
	dataDir    string

	wal  walMeasure
	sync syncView

	senders     int // WAL senders in use
	slots       int // slots in use
	slotName    string
	slot        slotState
	slotFound   bool
	unlogged    int
	beatExists  bool
	beatConnect bool
	beatCreate  bool
	beatReady   bool // the schema exists, so CREATE is not needed

	skew time.Duration // server's clock minus ours
	trip time.Duration // uncertainty of skew

	replicationErr error // of opening a replication connection
	replicationFix string
}

// Check looks for what backup, stream and drill need, and for what is risky.
// It takes walSample longer than its queries do, to measure how fast the
// server writes log.
// A server that cannot be asked at all is an error with a hint, not a finding.
func (s *source) Check(ctx context.Context) ([]repo.Finding, error) {
	conn, err := s.sql(ctx, "")
	if err != nil {
		return nil, err
	}
	defer s.hangUp(conn)
	i, err := s.inspect(ctx, conn)
	if err != nil {
		return nil, s.explain("check "+s.name, err)
	}
	repl, err := s.replication(ctx, nil)
	if err == nil {
		_, err = locate(ctx, repl)
		s.hangUp(repl)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		i.replicationErr, i.replicationFix = err, s.hint(err)
	}
	var out []repo.Finding
	for _, rule := range []func(inspection) []repo.Finding{
		checkReplication, checkRoom, checkSlot, checkKeep, checkDurability, checkSync, checkHeartbeat, checkNotes,
	} {
		out = append(out, rule(i)...)
	}
	return out, nil
}

// inspectSQL needs no privilege. What a plain role may not see of others'
// senders it still may count.
const inspectSQL = `
select r.rolname::text, r.rolsuper, r.rolreplication, r.rolcreatedb, pg_has_role('pg_read_all_settings', 'usage'),
       (select count(*) from pg_stat_replication)::int,
       (select count(*) from pg_replication_slots)::int,
       (select count(*) from pg_class where relpersistence = 'u' and relkind = 'r')::int,
       exists (select from pg_database where datname = $1),
       coalesce((select has_database_privilege(oid, 'connect') from pg_database where datname = $1), false),
       coalesce((select has_database_privilege(oid, 'create') from pg_database where datname = $1), false)
  from pg_roles r where r.rolname = current_user`

func (s *source) inspect(ctx context.Context, conn *pgx.Conn) (inspection, error) {
	i := inspection{slotName: slotName(s.name)}
	facts, err := readFacts(ctx, conn)
	if err != nil {
		return i, err
	}
	i.versionNum, i.recovery, i.checksums, i.dataDir = facts.VersionNum, facts.InRecovery, facts.Checksums, facts.DataDirectory
	err = conn.QueryRow(ctx, inspectSQL, beatDatabase).Scan(&i.roleName, &i.super, &i.replicate, &i.createDB, &i.monitor,
		&i.senders, &i.slots, &i.unlogged, &i.beatExists, &i.beatConnect, &i.beatCreate)
	if err != nil {
		return i, err
	}
	i.role = pgx.Identifier{i.roleName}.Sanitize()
	if i.settings, err = checkedSettings(ctx, conn); err != nil {
		return i, err
	}
	if i.slot, i.slotFound, err = readSlot(ctx, conn, i.slotName); err != nil {
		return i, err
	}
	if i.sync, err = s.readSync(ctx, conn); err != nil {
		return i, err
	}
	if i.wal, err = s.measureWAL(ctx, conn, facts); err != nil {
		return i, err
	}
	before := s.clock()
	var now time.Time
	if err := conn.QueryRow(ctx, "select clock_timestamp()").Scan(&now); err != nil {
		return i, err
	}
	i.trip = s.clock().Sub(before)
	i.skew = now.Sub(before.Add(i.trip / 2))
	i.beatReady = i.beatExists && i.beatConnect && s.beatReady(ctx)
	return i, nil
}

// beatReady reports whether the heartbeat table is there and ours to write.
func (s *source) beatReady(ctx context.Context) bool {
	conn, err := s.sql(ctx, beatDatabase)
	if err != nil {
		return false
	}
	defer s.hangUp(conn)
	var ready bool
	err = conn.QueryRow(ctx, `select coalesce((select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select')
		and has_table_privilege(c.oid, 'insert') and has_table_privilege(c.oid, 'update')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		where n.nspname = $1 and c.relname = 'beat'), false)`, beatSchema).Scan(&ready)
	return err == nil && ready
}

func checkedSettings(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := conn.Query(ctx, `select name, setting from pg_settings where name = any($1)`, []string{
		"wal_level", "max_wal_senders", "max_replication_slots", "max_slot_wal_keep_size", "full_page_writes", "fsync",
		"archive_mode", "wal_sender_timeout", "idle_replication_slot_timeout", "wal_keep_size"})
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

func (i inspection) number(setting string) int64 {
	n, err := strconv.ParseInt(i.settings[setting], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func finding(severity, code, message, fix string) []repo.Finding {
	return []repo.Finding{{Severity: severity, Code: code, Message: message, Fix: fix}}
}

// checkReplication: can the role open a replication connection?
func checkReplication(i inspection) []repo.Finding {
	if i.number("max_wal_senders") == 0 || i.settings["wal_level"] == "minimal" {
		return nil // checkRoom says it better
	}
	var out []repo.Finding
	if !i.replicate && !i.super {
		out = finding(severityError, "replication-attribute",
			fmt.Sprintf("role %s may not replicate: neither a base backup nor the log can be fetched", i.roleName),
			fmt.Sprintf("ALTER ROLE %s REPLICATION;", i.role))
	}
	if i.replicationErr == nil {
		return out
	}
	var pgErr *pgconn.PgError
	if !errors.As(i.replicationErr, &pgErr) {
		return append(out, finding(severityError, "replication-connection", i.replicationErr.Error(), i.replicationFix)...)
	}
	switch pgErr.Code {
	case stateNoPrivilege:
		return out // the attribute, reported above
	case stateBadAuth:
		return append(out, finding(severityError, "replication-hba", "the server refuses replication connections: "+pgErr.Message, i.replicationFix)...)
	case stateTooMany:
		return append(out, finding(severityError, "wal-senders-full", pgErr.Message, i.replicationFix)...)
	}
	return append(out, finding(severityError, "replication-connection", pgErr.Message, i.replicationFix)...)
}

// checkRoom: does the server write enough log, and has it room for us?
func checkRoom(i inspection) []repo.Finding {
	var out []repo.Finding
	if i.settings["wal_level"] == "minimal" {
		out = append(out, finding(severityError, "wal-level", "wal_level is minimal: the log does not hold what a restore needs",
			"ALTER SYSTEM SET wal_level = 'replica';  -- then restart the server")...)
	}
	if senders := i.number("max_wal_senders"); senders == 0 {
		out = append(out, finding(severityError, "wal-senders-none", "max_wal_senders is 0: nobody can fetch a base backup or the log",
			"ALTER SYSTEM SET max_wal_senders = 10;  -- then restart the server")...)
	} else if free := senders - int64(i.senders); free < 2 && i.replicationErr == nil && !i.slot.Active {
		out = append(out, finding(severityWarning, "wal-senders-few",
			fmt.Sprintf("%d of %d WAL senders are free; a stream and a backup at once need 2", max(free, 0), senders),
			fmt.Sprintf("ALTER SYSTEM SET max_wal_senders = %d;  -- then restart the server", senders+4))...)
	}
	if slots := i.number("max_replication_slots"); !i.slotFound && int64(i.slots) >= slots {
		out = append(out, finding(severityError, "slots-full",
			fmt.Sprintf("all %d replication slots are taken, and slot %s is not among them", slots, i.slotName),
			fmt.Sprintf("ALTER SYSTEM SET max_replication_slots = %d;  -- then restart the server; or drop one that nobody uses: SELECT * FROM pg_replication_slots WHERE NOT active", slots+4))...)
	}
	return out
}

// checkSlot: is our slot well, and what may it cost?
func checkSlot(i inspection) []repo.Finding {
	var out []repo.Finding
	drop := fmt.Sprintf("SELECT pg_drop_replication_slot('%s');", i.slotName)
	switch {
	case !i.slotFound:
		out = finding(severityInfo, "slot-missing", "replication slot "+i.slotName+" does not exist yet; holdfast stream makes it", "")
	case i.slot.Type != "physical":
		out = finding(severityError, "slot-kind", "replication slot "+i.slotName+" is "+i.slot.Type+", not physical", drop)
	case i.slot.lost() && i.slot.Cause != "" && i.slot.Cause != causeRemoved:
		out = finding(severityError, "slot-invalidated", (&SlotLostError{i.slotName, i.slot.State, i.slot.Cause}).Error(),
			drop+"  -- then start holdfast stream at once: it fetches what the server still has")
	case i.slot.lost():
		out = finding(severityError, "slot-lost", "replication slot "+i.slotName+" has lost log that it was to keep: there is a hole in the archive unless the stream was ahead",
			drop+"  -- then start holdfast stream and take a new base backup")
	case !i.slot.Active:
		out = finding(severityWarning, "slot-inactive", fmt.Sprintf("nobody streams replication slot %s, which holds back %s of log", i.slotName, inMiB(i.slot.Bytes)),
			"start holdfast stream (or run); if it is not wanted any more: "+drop)
	}
	if i.slotFound && i.slot.State == "unreserved" {
		out = append(out, finding(severityError, "slot-unreserved", "replication slot "+i.slotName+" may lose log at the next checkpoint", "start holdfast stream now; raise max_slot_wal_keep_size")...)
	}
	if i.number("idle_replication_slot_timeout") > 0 {
		out = append(out, finding(severityWarning, "slot-idle-timeout",
			fmt.Sprintf("idle_replication_slot_timeout is %v: the server gives the slot up once holdfast has been down for longer than that", time.Duration(i.number("idle_replication_slot_timeout"))*time.Second),
			"ALTER SYSTEM SET idle_replication_slot_timeout = 0; SELECT pg_reload_conf();")...)
	}
	return out
}

// checkSync: what do commits wait for, if they wait for us?
func checkSync(i inspection) []repo.Finding { return i.sync.findings() }

func inMiB(bytes int64) string { return fmt.Sprintf("%d MiB", max(bytes, 0)>>20) }

// checkDurability: can the server itself be trusted with the data?
func checkDurability(i inspection) []repo.Finding {
	var out []repo.Finding
	if i.settings["fsync"] == "off" {
		out = append(out, finding(severityError, "fsync-off", "fsync is off: a crash of the host can destroy the cluster, and what a backup reads may never have been on disk",
			"ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf();")...)
	}
	if i.settings["full_page_writes"] == "off" {
		out = append(out, finding(severityError, "full-page-writes-off", "full_page_writes is off: torn pages cannot be repaired after a crash; a standby of this server cannot be backed up",
			"ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf();")...)
	}
	if !i.checksums {
		out = append(out, finding(severityWarning, "checksums-off", "data checksums are off: damage on disk goes unnoticed, also by backups",
			"pg_checksums --enable -D "+orWord(i.dataDir, "DATADIR")+"  # with the server stopped")...)
	}
	return out
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// checkHeartbeat: without heartbeats a drill cannot say what was lost.
func checkHeartbeat(i inspection) []repo.Finding {
	create := fmt.Sprintf("CREATE DATABASE %s OWNER %s;", beatDatabase, i.role)
	grant := fmt.Sprintf("GRANT CONNECT, CREATE ON DATABASE %s TO %s;", beatDatabase, i.role)
	switch {
	case i.recovery:
		return finding(severityInfo, "heartbeat-standby", "a standby takes no heartbeats: let them be written to the primary", "")
	case i.beatExists && (!i.beatConnect || !i.beatCreate && !i.beatReady):
		return finding(severityWarning, "heartbeat-rights", fmt.Sprintf("role %s may not use database %s: no heartbeats, so a drill cannot say what was lost", i.roleName, beatDatabase), grant)
	case i.beatExists, i.super:
		return nil
	case i.createDB:
		return finding(severityInfo, "heartbeat-database", "database "+beatDatabase+" does not exist yet; holdfast stream makes it", "")
	}
	return finding(severityWarning, "heartbeat-database",
		fmt.Sprintf("there is no database %s and role %s may not make it: no heartbeats, so a drill cannot say what was lost", beatDatabase, i.roleName), create)
}

// skewLimit is where two clocks count as different, beyond the round trip.
const skewLimit = 2 * time.Second

// checkNotes: what a user should know, though little of it is wrong.
func checkNotes(i inspection) []repo.Finding {
	var out []repo.Finding
	if i.recovery {
		out = append(out, finding(severityInfo, "in-recovery", "the server is a standby: its log arrives later than the primary's, and slots here do not move with a failover", "")...)
	}
	if mode := i.settings["archive_mode"]; mode != "off" && mode != "" {
		out = append(out, finding(severityInfo, "archive-mode", "archive_mode is "+mode+": somebody else archives this server's log too; holdfast does not touch that", "")...)
	}
	if i.unlogged > 0 {
		out = append(out, finding(severityInfo, "unlogged-tables",
			fmt.Sprintf("%d unlogged tables in this database: a restored copy has them empty", i.unlogged),
			"SELECT oid::regclass FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r';  -- ALTER TABLE … SET LOGGED for those that matter")...)
	}
	if timeout := i.number("wal_sender_timeout"); timeout == 0 {
		out = append(out, finding(severityWarning, "wal-sender-timeout", "wal_sender_timeout is 0: after a network failure the server keeps a dead stream's slot busy",
			"ALTER SYSTEM SET wal_sender_timeout = '60s'; SELECT pg_reload_conf();")...)
	}
	if !i.monitor && !i.super {
		out = append(out, finding(severityInfo, "monitor-role", fmt.Sprintf("role %s does not see all settings: configuration files outside the data directory cannot be kept with the backups", i.roleName),
			fmt.Sprintf("GRANT pg_monitor, pg_read_server_files TO %s; GRANT EXECUTE ON FUNCTION pg_read_file(text) TO %s;  -- optional: it may then read every file the server can", i.role, i.role))...)
	}
	if i.skew.Abs() > skewLimit+i.trip {
		out = append(out, finding(severityWarning, "clock-skew", fmt.Sprintf("the server's clock is %v off this host's: times in reports are the server's", i.skew.Round(time.Millisecond)),
			"synchronise both clocks (chronyc tracking, timedatectl)")...)
	}
	return out
}
