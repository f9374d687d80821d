package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
)

const (
	autoConf = "postgresql.auto.conf"
	mainConf = "postgresql.conf"
	hbaConf  = "pg_hba.conf"

	// targetTimeFormat is unambiguous whatever the server's TimeZone and
	// DateStyle: always printed in UTC, down to the server's microsecond.
	targetTimeFormat = "2006-01-02 15:04:05.000000-07"
)

// hotStandbySettings are compared with the source's: a server that recovers
// with a lower value stops (manual, "Hot Standby", Administrator's Overview).
var hotStandbySettings = []string{
	"max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction",
}

// replacedSettings are dropped from the backup's postgresql.auto.conf: what
// would make this recovery another one, or tie the copy to the source.
var replacedSettings = []string{
	"recovery_target", "recovery_target_name", "recovery_target_xid", "recovery_target_lsn", "recovery_target_time",
	"recovery_target_inclusive", "recovery_target_action", "recovery_target_timeline",
	"restore_command", "recovery_end_command", "archive_cleanup_command", "recovery_min_apply_delay",
	"primary_conninfo", "primary_slot_name", "promote_trigger_file",
}

// Configure makes a loaded directory recover by the user's own server to the
// plan's goal: recovery.signal, and settings appended to the backup's
// postgresql.auto.conf, which override postgresql.conf. As root it gives the
// whole directory, with what the caller has put there before, to the owner of
// the directory above it, for no server runs as root.
func (restorer) Configure(ctx context.Context, r engines.ConfigureRequest) (engines.Instructions, error) {
	c := &configurator{dir: r.Dir, plan: r.Plan}
	if err := c.run(ctx, r); err != nil {
		return engines.Instructions{}, fmt.Errorf("configure %s: %w", r.Dir, err)
	}
	return c.instructions()
}

type configurator struct {
	dir     string
	plan    *engines.RestorePlan
	details *Details
	notes   []string
}

func (c *configurator) note(format string, args ...any) {
	c.notes = append(c.notes, fmt.Sprintf(format, args...))
}

func (c *configurator) run(ctx context.Context, r engines.ConfigureRequest) (err error) {
	if err := checkComplete(c.dir); err != nil {
		return err
	}
	if c.details, err = ParseDetails(c.plan.Base.Details); err != nil {
		return err
	}
	kept, err := c.keptSettings()
	if err != nil {
		return err
	}
	if err := c.keepSourceConf(); err != nil {
		return err
	}
	if err := c.ensureConf(); err != nil {
		return err
	}
	settings, err := recoverySettings(c.plan, r.Fetch, r.Done)
	if err != nil {
		return err
	}
	extra, err := c.copySettings(kept)
	if err != nil {
		return err
	}
	text := kept + "\n# Written by holdfast restore; recovery ends with a promotion, after which these do nothing.\n" + settings + extra
	if err := writeDurably(filepath.Join(c.dir, autoConf), []byte(text), 0o600); err != nil {
		return err
	}
	if err := removeIfThere(filepath.Join(c.dir, "standby.signal")); err != nil {
		return err
	}
	// Last: without it a server takes none of the above for a recovery.
	if err := writeDurably(filepath.Join(c.dir, "recovery.signal"), nil, 0o600); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	note, err := handOver(c.dir, os.Geteuid())
	if note != "" {
		c.notes = append(c.notes, note)
	}
	return err
}

// recoverySettings are the lines that make the server recover to the goal.
//
// Only one recovery_target* may be set, whichever file sets it, so the others
// are emptied first: each assignment resets the choice made so far
// (assign_recovery_target_xid and its kin), and the last one must win.
func recoverySettings(p *engines.RestorePlan, fetch, done []string) (string, error) {
	restore, err := shellCommand(fetch, fetchTail)
	if err != nil {
		return "", err
	}
	end, err := shellCommand(done, "")
	if err != nil {
		return "", err
	}
	if p.Log == nil || len(p.Log.Legs) == 0 {
		return "", errors.New("the plan has no log")
	}
	var b strings.Builder
	target, err := targetSettings(p)
	if err != nil {
		return "", err
	}
	for _, name := range []string{"recovery_target", "recovery_target_name", "recovery_target_xid", "recovery_target_lsn", "recovery_target_time"} {
		b.WriteString(confLine(name, ""))
	}
	b.WriteString(target)
	// Never "latest": a history file that appears later must not lead away. A
	// plan with a stop ends on the stop's branch.
	b.WriteString(confLine("recovery_target_timeline", fmt.Sprint(lastTimeline(p))))
	b.WriteString(confLine("recovery_target_action", "promote"))
	b.WriteString(confLine("restore_command", restore))
	b.WriteString(confLine("recovery_end_command", end))
	b.WriteString(confLine("archive_cleanup_command", ""))
	b.WriteString(confLine("primary_conninfo", ""))
	b.WriteString(confLine("primary_slot_name", ""))
	return b.String(), nil
}

// targetSettings say where to stop: at a place in the log that was looked up
// beforehand, whatever the goal was. Not inclusive, the server stops before
// the first record that begins at or behind recovery_target_lsn
// (recoveryStopsBefore in xlogrecovery.c); inclusive, it would apply one
// record more where a record begins exactly there. A target by time or xid
// would make the server decide a second time, and from less: it knows neither
// which of two transactions with one time was meant nor that the log ends.
//
// At the end of the archive there is no target: no record follows by which
// the server could know that it has arrived, so it replays all the plan has.
func targetSettings(p *engines.RestorePlan) (string, error) {
	switch s := p.Stop; {
	case s == nil && (!p.Goal.Time.IsZero() || p.Goal.Point != nil):
		return "", errors.New("the plan has a target and does not say where in the log it is")
	case s == nil:
		return "", nil
	case s.Consistent:
		return confLine("recovery_target", "immediate"), nil
	case s.AtEnd:
		return "", nil
	default:
		return confLine("recovery_target_lsn", FormatLSN(s.At)) + confLine("recovery_target_inclusive", "off"), nil
	}
}

// keptSettings is the backup's postgresql.auto.conf without what is replaced.
func (c *configurator) keptSettings() (string, error) {
	b, err := os.ReadFile(filepath.Join(c.dir, autoConf))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	kept, dropped := dropSettings(string(b), replacedSettings)
	if len(dropped) > 0 {
		c.note("Left out of %s: %s. The source's file is in %s.", autoConf, strings.Join(dropped, ", "), sourceConfDir)
	}
	return kept, nil
}

// dropSettings removes every line that sets one of names, and tells which.
func dropSettings(text string, names []string) (kept string, dropped []string) {
	var b strings.Builder
	for line := range strings.Lines(text) {
		s, ok := parseConfLine(strings.TrimRight(line, "\n"))
		if ok && slices.Contains(names, s.Name) {
			if s.Value != "" && !slices.Contains(dropped, s.Name) {
				dropped = append(dropped, s.Name)
			}
			continue
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	return b.String(), dropped
}

// copySettings are further lines that recovery of this very base needs, where
// the directory's own files do not have them (a source started with -c
// options, or configured outside its data directory).
func (c *configurator) copySettings(kept string) (string, error) {
	main, err := os.ReadFile(filepath.Join(c.dir, mainConf))
	if err != nil {
		return "", err
	}
	have, included := confSettings(string(main))
	auto, _ := confSettings(kept)
	maps.Copy(have, auto)
	var b strings.Builder
	var raised []string
	for _, name := range hotStandbySettings {
		want, ok := c.details.Settings[name]
		if ok && (have[name] == "" || lower(have[name], want)) {
			b.WriteString(confLine(name, want))
			if have[name] != "" {
				raised = append(raised, name+" = "+want)
			}
		}
	}
	if len(raised) > 0 {
		c.note("Raised to the source's values, which recovery requires: %s.", strings.Join(raised, ", "))
	}
	if len(c.details.Tablespaces) > 0 {
		// Without it 15 and 18 stop with "unexpected directory entry found in
		// pg_tblspc" once they are consistent. After recovery it is not needed.
		b.WriteString(confLine("allow_in_place_tablespaces", "on"))
	}
	if have["archive_mode"] == "on" || have["archive_mode"] == "always" {
		c.note("archive_mode is on, as at the source: once promoted, this server archives its new timeline to the same place. Change archive_command first if the source may still run.")
	}
	if included {
		c.note("%s includes further files; the server will not start if one is missing here.", mainConf)
	}
	return b.String(), nil
}
