package postgres

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// ApplyDemandedError: synchronous_commit = remote_apply would make commits
// wait until we have applied them, which a receiver of log never does.
type ApplyDemandedError struct{ Receiver, Where string }

func (e *ApplyDemandedError) Error() string {
	return fmt.Sprintf("synchronous_commit is remote_apply %s, and synchronous_standby_names may choose %s, which never reports log as applied: commits would hang", e.Where, e.Receiver)
}

// syncView is what a server shows of synchronous replication; guarantee_rules.go
// judges it without any I/O.
type syncView struct {
	receiver  string // our name
	recovery  bool
	names     standbyNames
	namesErr  error
	commit    string // synchronous_commit server-wide: on, remote_write, remote_apply, local, off
	overrides []commitOverride
	visible   bool // the role sees the states of senders
	role      string
	sender    *syncSender // our receiver's, nil: not connected
	answering int         // other receivers that commits may count on now; needs visible
	slotFound bool
	behind    int64 // bytes not acknowledged by the receiver, or held by the slot; -1 unknown
}

// commitOverride is a synchronous_commit that a role, a database or both have
// of their own; both empty: ALTER ROLE ALL.
type commitOverride struct {
	Role, Database, Value string
}

func (o commitOverride) where() string {
	switch {
	case o.Role != "" && o.Database != "":
		return "for role " + o.Role + " in database " + o.Database
	case o.Role != "":
		return "for role " + o.Role
	case o.Database != "":
		return "in database " + o.Database
	}
	return "for all roles"
}

func (o commitOverride) resetSQL() string {
	role, database := pgx.Identifier{o.Role}.Sanitize(), pgx.Identifier{o.Database}.Sanitize()
	switch {
	case o.Role != "" && o.Database != "":
		return "ALTER ROLE " + role + " IN DATABASE " + database + " RESET synchronous_commit;"
	case o.Role != "":
		return "ALTER ROLE " + role + " RESET synchronous_commit;"
	case o.Database != "":
		return "ALTER DATABASE " + database + " RESET synchronous_commit;"
	}
	return "ALTER ROLE ALL RESET synchronous_commit;"
}

// syncSender is one row of pg_stat_replication. State and Sync are empty
// where the role may not see them.
type syncSender struct {
	Name   string
	State  string // startup, catchup, streaming, backup, stopping
	Sync   string // async, potential, sync, quorum
	Behind int64  // -1 unknown
}

const (
	overridesSQL = `
select coalesce(r.rolname::text, ''), coalesce(d.datname::text, ''), lower(substr(c, strpos(c, '=') + 1))
  from pg_db_role_setting s cross join unnest(s.setconfig) c
  left join pg_roles r on r.oid = s.setrole left join pg_database d on d.oid = s.setdatabase
 where lower(split_part(c, '=', 1)) = 'synchronous_commit' order by 1, 2`

	sendersSQL = `
select coalesce(application_name, ''), coalesce(state, ''), coalesce(sync_state, ''),
       coalesce((case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_lsn() end) - flush_lsn, -1)::bigint
  from pg_stat_replication`
)

// readCommits reads who waits for synchronous receivers: everything that
// refuseApply needs.
func (s *source) readCommits(ctx context.Context, conn *pgx.Conn) (syncView, error) {
	v := syncView{receiver: receiverName(s.name), role: s.role(), behind: -1}
	var names, origin string
	err := conn.QueryRow(ctx, `select current_setting('synchronous_standby_names'), setting, source, pg_is_in_recovery(),
		pg_has_role('pg_read_all_stats', 'usage') from pg_settings where name = 'synchronous_commit'`).
		Scan(&names, &v.commit, &origin, &v.recovery, &v.visible)
	if err != nil {
		return v, err
	}
	v.names, v.namesErr = parseStandbyNames(names)
	rows, err := conn.Query(ctx, overridesSQL)
	if err != nil {
		return v, err
	}
	if v.overrides, err = pgx.CollectRows(rows, pgx.RowToStructByPos[commitOverride]); err != nil {
		return v, err
	}
	for i := range v.overrides {
		v.overrides[i].Value = plainCommit(v.overrides[i].Value)
	}
	switch origin {
	case "user", "database", "database user", "global", "client":
		// Our own session has a value of its own. A physical walsender has
		// none (InitPostgres in utils/init/postinit.c applies no role's
		// settings to it), so it shows the server's.
		v.commit, err = s.serverCommit(ctx)
	}
	return v, err
}

func (s *source) serverCommit(ctx context.Context) (string, error) {
	conn, err := s.replication(ctx, nil)
	if err != nil {
		return "", err
	}
	defer s.hangUp(conn)
	row, err := replicationRow(ctx, conn, "SHOW synchronous_commit", 1)
	if err != nil {
		return "", err
	}
	return plainCommit(row[0]), nil
}

// plainCommit names a value of synchronous_commit as the server shows it
// (synchronous_commit_options in utils/misc/guc_tables.c).
func plainCommit(value string) string {
	switch v := strings.ToLower(value); v {
	case "true", "yes", "1":
		return "on"
	case "false", "no", "0":
		return "off"
	default:
		return v
	}
}

// readSync reads the whole view.
func (s *source) readSync(ctx context.Context, conn *pgx.Conn) (syncView, error) {
	v, err := s.readCommits(ctx, conn)
	if err != nil {
		return v, err
	}
	st, found, err := readSlot(ctx, conn, slotName(s.name))
	if err != nil {
		return v, err
	}
	if v.slotFound = found; found && st.Restart != "" {
		v.behind = max(st.Bytes, 0)
	}
	rows, err := conn.Query(ctx, sendersSQL)
	if err != nil {
		return v, err
	}
	senders, err := pgx.CollectRows(rows, pgx.RowToStructByPos[syncSender])
	if err != nil {
		return v, err
	}
	for _, x := range senders {
		switch {
		case x.Name == v.receiver && x.State != "backup":
			v.sender = &x
			if x.Behind >= 0 {
				v.behind = x.Behind
			}
		case x.Sync == "sync" || x.Sync == "quorum" || x.Sync == "potential":
			if i, _ := v.names.find(x.Name); i >= 0 && x.State == "streaming" {
				v.answering++
			}
		}
	}
	return v, nil
}

// Guarantee implements engines.LogSource. It needs no privilege; without
// pg_read_all_stats (pg_monitor has it) the server hides what it thinks of
// its receivers, and the level is what the settings say.
func (l *logSource) Guarantee(ctx context.Context) (engines.Guarantee, error) {
	conn, err := l.sql(ctx, "")
	if err != nil {
		return engines.Guarantee{}, err
	}
	defer l.hangUp(conn)
	v, err := l.readSync(ctx, conn)
	if err != nil {
		return engines.Guarantee{}, l.explain("ask "+l.name+" what its commits wait for", err)
	}
	return v.judge(), nil
}

// refuseApply is a permanent error where commits could wait for us to apply
// what they wrote.
func (s *source) refuseApply(ctx context.Context, conn *pgx.Conn) error {
	v, err := s.readCommits(ctx, conn)
	if err != nil {
		return err
	}
	if f := v.applyFinding(); f != nil {
		return engines.Permanent(hferr.New("stream the log of "+s.name, &ApplyDemandedError{v.receiver, v.applyWhere()}, f.Fix))
	}
	return nil
}
