package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/wal"
)

// Whatever the goal was, one recovery_target* is set or none.
func TestTargetSettings(t *testing.T) {
	path := []wal.Leg{{Branch: rootBranch(1), To: 100}, {Branch: rootBranch(2), From: 100, To: 200}}
	for _, c := range []struct {
		name string
		goal engines.Goal
		stop *engines.Stop
		legs []wal.Leg
		want string // of recovery_target*, those that are not empty
		err  bool
	}{
		{"no target", engines.Goal{}, nil, path, "action=promote timeline=2", false},
		{"a place", engines.Goal{Time: time.Unix(1, 0)}, &engines.Stop{At: 0x2_0000_00A0}, path, "lsn=2/A0 inclusive=off timeline=2 action=promote", false},
		{"on an earlier branch", engines.Goal{}, &engines.Stop{At: 0x40}, path[:1], "lsn=0/40 inclusive=off timeline=1 action=promote", false},
		{"the end", engines.Goal{Point: &engines.Point{}}, &engines.Stop{At: 200, AtEnd: true}, path, "action=promote timeline=2", false},
		{"immediate", engines.Goal{Point: &engines.Point{}}, &engines.Stop{At: 50, Consistent: true, AtEnd: true}, path[:1], "=immediate timeline=1 action=promote", false},
		{"a time that was not looked up", engines.Goal{Time: time.Unix(1, 0)}, nil, path, "", true},
		{"a point that was not looked up", engines.Goal{Point: &engines.Point{}}, nil, path, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			text, err := recoverySettings(&engines.RestorePlan{Goal: c.goal, Stop: c.stop, Log: &wal.Plan{Legs: c.legs}}, []string{"fetch"}, nil)
			if (err != nil) != c.err {
				t.Fatal(err)
			}
			got := map[string]string{}
			for line := range strings.Lines(text) {
				if s, ok := parseConfLine(strings.TrimSpace(line)); ok && strings.HasPrefix(s.Name, "recovery_target") {
					if _, twice := got[s.Name]; twice && got[s.Name] != "" {
						t.Errorf("%s is set twice", s.Name)
					}
					got[s.Name] = s.Value
				}
			}
			for _, want := range strings.Fields(c.want) {
				name, value, _ := strings.Cut(want, "=")
				full := strings.TrimSuffix("recovery_target_"+name, "_")
				if got[full] != value {
					t.Errorf("%s is %q, want %q", full, got[full], value)
				}
				delete(got, full)
			}
			for name, value := range got {
				if value != "" {
					t.Errorf("%s is %q", name, value)
				}
			}
		})
	}
}
