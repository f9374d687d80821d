package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// unreachable targets are refused before a byte is written, with the nearest
// places that can be reached.
func (x *exact) unreachable() {
	x.t.Helper()
	commits := slices.DeleteFunc(slices.Clone(x.tr.ends), func(p place) bool { return p.kind != repo.MarkCommit })
	last := commits[len(commits)-1]
	first := since(x.tr.ends, &x.bases[0])[0]
	of := func(p place) string { return fmt.Sprintf("of transaction %d", p.xid) }
	beyond := postgres.FormatLSN(x.tr.records[len(x.tr.records)-1].end + 1<<30)
	for _, c := range []struct {
		args []string
		exit int
		says string // in the error or its hint
	}{
		{[]string{"--target-xid", "4000000"}, exitFailed, "4000000"},
		{[]string{"--before", "4000000"}, exitFailed, "4000000"},
		{[]string{"--target-lsn", beyond}, exitFailed, of(last)},
		{[]string{"--target-lsn", postgres.FormatLSN(x.bases[0].Start)}, exitFailed, of(first)},
		{[]string{"--target-xid", fmt.Sprint(x.early)}, exitFailed, fmt.Sprint(x.early)},
		{[]string{"--target-name", "first-O"}, exitFailed, "first-O"},
		{[]string{"--target-name", "too early"}, exitFailed, "too early"},
		{[]string{"--target-name", "twice"}, exitUsage, "twice"},
		{[]string{"--target-time", x.bases[0].StartTime.Add(-time.Hour).Format(time.RFC3339Nano)}, exitFailed, x.bases[0].ID},
		{[]string{"--target-time", last.at.Add(time.Hour).Format(time.RFC3339Nano)}, exitFailed, of(last)},
		{[]string{"--target-xid", "seven"}, exitUsage, "seven"},
		{[]string{"--target-lsn", "0/XYZ"}, exitUsage, "0/XYZ"},
		{[]string{"--before", "later"}, exitUsage, "later"},
		{[]string{"--target-xid", "7", "--target-lsn", "0/1"}, exitUsage, "--target-lsn and --target-xid contradict"},
		{[]string{"--target", "random"}, exitUsage, "drills"},
	} {
		o := x.run(append([]string{"restore", databaseName, "--to", x.path("never")}, c.args...)...)
		if o.code != c.exit || !strings.Contains(o.err, c.says) {
			x.t.Errorf("%v: exit %d, not %d, or no %q in\n%s", c.args, o.code, c.exit, c.says, o.all())
		} else {
			x.t.Logf("%v:\n%s", c.args, o.err)
		}
		if _, err := os.Lstat(x.path("never")); !errors.Is(err, fs.ErrNotExist) {
			x.t.Fatalf("%v: something was written: %v", c.args, err)
		}
	}
}

// listed: --points and --commits name exactly what there is, --dry-run says
// where a restore would end and writes nothing.
func (x *exact) listed() {
	x.t.Helper()
	want := map[string]int{}
	for _, p := range since(x.tr.points, &x.bases[0]) {
		want[p.name]++
	}
	var doc pointsDoc
	x.mustJSON(&doc, "list", databaseName, "--points")
	for _, p := range doc.Points {
		if want[p.Name]--; p.Kind != repo.MarkRestorePoint || want[p.Name] < 0 {
			x.t.Errorf("listed: %+v", p)
		}
		if at, err := postgres.ParseLSN(p.Start); err != nil || (at >= x.fork) != strings.HasPrefix(p.Branch, "00000002-") {
			x.t.Errorf("on branch %s: %+v", p.Branch, p)
		}
	}
	for name, n := range want {
		if n > 0 {
			x.t.Errorf("restore point %s is not listed", name)
		}
	}
	if len(doc.Windows) != 2 || doc.Windows[1].FromPos != postgres.FormatLSN(x.bases[1].Stop) {
		x.t.Errorf("windows %+v", doc.Windows)
	}
	x.listedCommits()
	x.dryRun()
	if text := x.must("list", databaseName, "--points").stdout; !strings.Contains(text, "third-3") || !strings.Contains(text, "ANY TIME AFTER") {
		x.t.Errorf("list --points says\n%s", text)
	}
}

func (x *exact) listedCommits() {
	x.t.Helper()
	ends := since(x.tr.ends, &x.bases[0])
	from, to := ends[len(ends)/3].at, ends[len(ends)/2].at
	var got, want []int64
	for _, p := range x.tr.ends {
		if p.start >= x.bases[0].Stop && !p.at.Before(from) && p.at.Before(to) {
			want = append(want, p.xid)
		}
	}
	var doc pointsDoc
	x.mustJSON(&doc, "list", databaseName, "--points", "--commits", "--since", from.Format(time.RFC3339Nano), "--until", to.Format(time.RFC3339Nano))
	for _, p := range doc.Points {
		if p.Kind == repo.MarkRestorePoint {
			continue
		}
		n, err := strconv.ParseInt(p.ID, 10, 64)
		if err != nil {
			x.t.Errorf("%+v: %v", p, err)
		}
		got = append(got, n)
	}
	if !slices.Equal(got, want) {
		x.t.Errorf("%d commits and aborts are listed, %d there are\n%v\n%v", len(got), len(want), got, want)
	}
}

func (x *exact) dryRun() {
	x.t.Helper()
	commits := slices.DeleteFunc(since(x.tr.ends, &x.bases[1]), func(p place) bool { return p.kind != repo.MarkCommit })
	p := commits[len(commits)/2]
	o := x.must("restore", databaseName, "--to", x.path("never"), "--dry-run", "--before", fmt.Sprint(p.xid))
	last, next := x.tr.neighbours(p.start)
	for _, part := range []string{"nothing was written", fmt.Sprintf("first one not applied:    commit of transaction %d at %s", next.xid, stampTime(next.at)),
		fmt.Sprintf("last commit applied:      commit of transaction %d at %s", last.xid, stampTime(last.at))} {
		if !strings.Contains(o.stdout, part) {
			x.t.Errorf("no %q in\n%s", part, o.stdout)
		}
	}
	if _, err := os.Lstat(x.path("never")); !errors.Is(err, fs.ErrNotExist) {
		x.t.Errorf("a dry run wrote something: %v", err)
	}
	x.must("restore", databaseName, "--dry-run", "--target-name", "third-1")
}
