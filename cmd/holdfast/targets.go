package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/spf13/pflag"
)

// targetFlags say where a restore or a drill ends. What a position or a
// transaction looks like is the engine's to know.
type targetFlags struct {
	target string // latest, immediate, a time; random where a drill asks
	time   string
	lsn    string
	xid    string
	name   string
	before string
	branch string
	backup string
}

const (
	targetLatest    = "latest"
	targetRandom    = "random"
	targetImmediate = string(engines.PointConsistent)
)

func (fl *targetFlags) add(f *pflag.FlagSet, random bool) {
	words := "latest, immediate (as soon as the base is consistent), or a time"
	if random {
		words = "latest, random, immediate (as soon as the base is consistent), or a time like 2026-11-22T14:59:30Z"
	}
	f.StringVar(&fl.target, "target", targetLatest, words)
	f.StringVar(&fl.time, "target-time", "", "stop before the first commit at or after this time (RFC 3339, or '2006-01-02 15:04:05.999999+00')")
	f.StringVar(&fl.lsn, "target-lsn", "", "stop before the first record that begins at or after this position")
	f.StringVar(&fl.xid, "target-xid", "", "stop right after this transaction's commit")
	f.StringVar(&fl.name, "target-name", "", "stop right after this restore point")
	f.StringVar(&fl.before, "before", "", "stop right before this transaction's commit, named by its id or a position inside its commit record")
	f.StringVar(&fl.branch, "branch", "", "branch to end on, where several descend from the base (see list)")
	f.StringVar(&fl.backup, "backup", "", "base backup to start from (default: the newest that serves)")
}

// goal is what the flags ask for; at most one of them may name a place.
func (fl targetFlags) goal() (engines.Goal, error) {
	g := engines.Goal{Branch: fl.branch, BackupID: fl.backup}
	var given []string
	for _, f := range []struct {
		flag, value string
		kind        engines.PointKind // "": a time
	}{
		{"--target", fl.target, ""},
		{"--target-time", fl.time, ""},
		{"--target-lsn", fl.lsn, engines.PointPosition},
		{"--target-xid", fl.xid, engines.PointTransaction},
		{"--target-name", fl.name, engines.PointName},
		{"--before", fl.before, engines.PointBefore},
	} {
		switch {
		case f.value == "" || f.flag == "--target" && (f.value == targetLatest || f.value == targetRandom):
			continue
		case f.flag == "--target" && f.value == targetImmediate:
			g.Point = &engines.Point{Kind: engines.PointConsistent}
		case f.kind == "":
			t, err := parseTime(f.value)
			if err != nil {
				return g, err
			}
			g.Time = t
		default:
			g.Point = &engines.Point{Kind: f.kind, Value: f.value}
		}
		given = append(given, f.flag)
	}
	if fl.target == targetRandom && len(given) > 0 {
		given = append([]string{"--target random"}, given...)
	}
	if len(given) > 1 {
		return g, hferr.NewUsage("read the target", fmt.Errorf("%s contradict each other", strings.Join(given, " and ")), "name one place")
	}
	return g, nil
}

// timeForms are what a person writes; a time without a zone is refused, since
// a guess here restores the wrong data.
var errTimeForm = errors.New("want a time with a zone, like 2026-11-22T14:59:30Z or '2026-11-22 14:59:30.25+00'")

func parseTime(s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999Z07", "2006-01-02 15:04:05.999999999Z07:00", "2006-01-02 15:04:05.999999999-07", "2006-01-02 15:04Z07:00", "2006-01-02 15:04-07"} {
		if t, err := time.Parse(form, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, hferr.NewUsage(fmt.Sprintf("time %q", s), errTimeForm, "")
}

// stopDoc is the JSON of a plan's stop, positions as the engine prints them.
type stopDoc struct {
	At         string   `json:"at"`
	Branch     string   `json:"branch"`
	AtEnd      bool     `json:"at_end,omitempty"`
	Consistent bool     `json:"consistent,omitempty"`
	Last       *markDoc `json:"last_applied,omitempty"`
	Next       *markDoc `json:"first_not_applied,omitempty"`
}

// markDoc is one record that can be named.
type markDoc struct {
	Kind   repo.MarkKind `json:"kind"`
	Name   string        `json:"name,omitempty"`
	ID     string        `json:"id,omitempty"`
	Time   time.Time     `json:"time,omitzero"`
	Start  string        `json:"start"`
	End    string        `json:"end"`
	Branch string        `json:"branch,omitempty"`
	Backup string        `json:"backup,omitempty"`
}

func newMarkDoc(m *repo.Mark, pos func(repo.Position) string) *markDoc {
	if m == nil {
		return nil
	}
	return &markDoc{Kind: m.Kind, Name: m.Name, ID: m.ID, Time: m.Time.UTC(), Start: pos(m.Start), End: pos(m.End)}
}

func newStopDoc(s *engines.Stop, pos func(repo.Position) string) *stopDoc {
	if s == nil {
		return nil
	}
	return &stopDoc{At: pos(s.At), Branch: s.Branch, AtEnd: s.AtEnd, Consistent: s.Consistent, Last: newMarkDoc(s.Last, pos), Next: newMarkDoc(s.Next, pos)}
}

// stopText says exactly where a plan ends, a line each.
func stopText(pl *engines.RestorePlan, pos func(repo.Position) string) []string {
	branch := pl.Log.Legs[len(pl.Log.Legs)-1].Branch.ID
	s := pl.Stop
	if s == nil {
		return []string{fmt.Sprintf("to the end of the log held, %s on branch %s, %s by the source's clock", pos(pl.Log.To()), branch, stampTime(pl.EndTime))}
	}
	where := fmt.Sprintf("to %s on branch %s", pos(s.At), branch)
	switch {
	case s.Consistent:
		where = fmt.Sprintf("until the backup is consistent, at %s on branch %s", pos(s.At), branch)
	case s.AtEnd:
		where += ", the end of the log held"
	}
	lines := []string{where}
	if s.Last != nil {
		lines = append(lines, "  last commit applied:      "+markText(s.Last, pos))
	}
	if s.Next != nil {
		lines = append(lines, "  first one not applied:    "+markText(s.Next, pos))
	}
	return lines
}

func markText(m *repo.Mark, pos func(repo.Position) string) string {
	text := string(m.Kind)
	if m.Name != "" {
		text += fmt.Sprintf(" %q", m.Name)
	}
	if m.ID != "" {
		text += " of transaction " + m.ID
	}
	if !m.Time.IsZero() {
		text += " at " + stampTime(m.Time)
	}
	return text + " (" + pos(m.Start) + " to " + pos(m.End) + ")"
}

func stampTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
