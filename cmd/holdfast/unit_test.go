package main

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

func TestParseTime(t *testing.T) {
	want := time.Date(2026, 11, 22, 14, 59, 30, 250_000_000, time.UTC)
	for _, s := range []string{"2026-11-22T14:59:30.25Z", "2026-11-22 14:59:30.25+00", "2026-11-22 15:59:30.25+01", "2026-11-22T15:59:30.25+01:00", "2026-11-22 15:59:30.25+01:00", "2026-11-22 14:59:30.25Z"} {
		if got, err := parseTime(s); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"2026-11-22 14:59:30", "yesterday", "14:59"} {
		if _, err := parseTime(s); err == nil || hferr.KindOf(err) != hferr.Usage {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestGoalOfFlags(t *testing.T) {
	moment := time.Date(2026, 11, 22, 14, 59, 30, 0, time.UTC)
	for _, c := range []struct {
		fl   targetFlags
		want engines.Goal
	}{
		{targetFlags{target: "latest"}, engines.Goal{}},
		{targetFlags{target: "random", branch: "2"}, engines.Goal{Branch: "2"}},
		{targetFlags{target: "2026-11-22T14:59:30Z", backup: "b"}, engines.Goal{Time: moment, BackupID: "b"}},
		{targetFlags{target: "latest", time: "2026-11-22T14:59:30Z"}, engines.Goal{Time: moment}},
		{targetFlags{target: "immediate"}, engines.Goal{Point: &engines.Point{Kind: engines.PointConsistent}}},
		{targetFlags{target: "latest", lsn: "0/1"}, engines.Goal{Point: &engines.Point{Kind: engines.PointPosition, Value: "0/1"}}},
		{targetFlags{target: "latest", xid: "7"}, engines.Goal{Point: &engines.Point{Kind: engines.PointTransaction, Value: "7"}}},
		{targetFlags{target: "latest", name: "n"}, engines.Goal{Point: &engines.Point{Kind: engines.PointName, Value: "n"}}},
		{targetFlags{target: "latest", before: "7"}, engines.Goal{Point: &engines.Point{Kind: engines.PointBefore, Value: "7"}}},
	} {
		if got, err := c.fl.goal(); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %+v, %v", c.fl, got, err)
		}
	}
	for _, fl := range []targetFlags{
		{target: "tomorrow"},
		{target: "latest", time: "2026-11-22 14:59:30"},
		{target: "immediate", xid: "7"},
		{target: "random", time: "2026-11-22T14:59:30Z"},
		{target: "latest", lsn: "0/1", before: "7"},
	} {
		if _, err := fl.goal(); hferr.KindOf(err) != hferr.Usage {
			t.Errorf("%+v: %v", fl, err)
		}
	}
}

func TestNameFromURL(t *testing.T) {
	for in, want := range map[string]string{
		"postgres://u@db1/postgres":           "db1",
		"postgres://u@db1:5432/postgres":      "db1",
		"postgres://u@db1:6543/postgres":      "db1-6543",
		"postgres://u@/postgres?host=/tmp/x":  "local",
		"postgres://u@[::1]:5432/postgres":    "--1",
		"postgres://u@db1.example.com/orders": "db1.example.com",
	} {
		if got := nameFromURL(in); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

// Every command is in the README's table, and the table names nothing else.
func TestReadmeNamesEveryCommand(t *testing.T) {
	raw, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(raw), "## Commands")
	var documented []string
	for _, row := range regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllStringSubmatch(table, -1) {
		for _, m := range regexp.MustCompile("`([a-z-]+)`").FindAllStringSubmatch(row[1], -1) {
			documented = append(documented, m[1])
		}
	}
	a := newApp(os.Stdin, os.Stdout, os.Stderr, os.LookupEnv)
	root := a.root()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "help" {
			continue
		}
		if !slices.Contains(documented, c.Name()) {
			t.Errorf("the README does not name %s", c.Name())
		}
		if c.Short == "" {
			t.Errorf("%s has no help", c.Name())
		}
		documented = slices.DeleteFunc(documented, func(s string) bool { return s == c.Name() })
	}
	if len(documented) > 0 {
		t.Errorf("the README names commands that do not exist: %v", documented)
	}
}

func TestUsageErrorsOfCobraAreRecognised(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, args := range [][]string{{"nosuch"}, {"backup"}, {"backup", "a", "b"}, {"backup", "x", "--nope"}, {"restore", "x"}, {"list", "--output", "xml"}, {"list", "--memory", "lots"}, {"drill", "x", "--provider"}} {
		a := newApp(null, null, null, func(string) (string, bool) { return "", false })
		if code := a.run(t.Context(), args); code != exitUsage {
			t.Errorf("%v: exit %d, want %d", args, code, exitUsage)
		}
	}
}

// Nothing that goes wrong before or inside fetch-log may look like "not in the
// archive": PostgreSQL would end recovery and promote.
func TestFetchLogNeverAnswersOneByAccident(t *testing.T) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, args := range [][]string{{}, {"--nope"}, {"a", "b"}, {"--plan", "/nonexistent/plan.json", "a", "b"}, {"--plan", "x"}, {"--socket", "/nonexistent", "a", t.TempDir() + "/b"}, {"--plan", "a", "--socket", "b"}, {"--output", "xml", "--plan", "p", "a", "b"}, {"--plan", "p", "--done"}} {
		a := newApp(null, null, null, func(string) (string, bool) { return "", false })
		if code := a.run(t.Context(), append([]string{"fetch-log"}, args...)); code <= 125 {
			t.Errorf("fetch-log %v: exit %d ends a recovery early", args, code)
		}
	}
}
