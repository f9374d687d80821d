package engines

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// The source's clock runs a second a byte from here.
var epoch = time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)

func at(p repo.Position) time.Time { return epoch.Add(time.Duration(p) * time.Second) }

// house is a lineage in memory that a test fills.
type house struct {
	t    *testing.T
	l    *repo.Lineage
	ids  map[string]string // backup ids by the test's names
	fail map[string]bool   // parts of keys that cannot be read
	mark bool              // segments say where their first record begins
}

func newHouse(t *testing.T) *house {
	h := &house{t: t, ids: map[string]string{}, fail: map[string]bool{}}
	var st blob.Store = faulty.Wrap(file.New(crashfs.New(1, nil), "memory", file.Options{}), func(c faulty.Call) faulty.Fault {
		for part := range h.fail {
			if c.Op == faulty.Read && strings.Contains(c.Key, part) {
				return faulty.Fault{Kind: faulty.Before}
			}
		}
		return faulty.Fault{}
	})
	r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Unencrypted: true})
	h.must(err)
	h.l, err = r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "orders"})
	h.must(err)
	return h
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) branch(id, parent string, fork repo.Position, number uint64) {
	h.must(h.l.PutBranch(h.t.Context(), repo.Branch{ID: id, Parent: parent, Fork: fork, Number: number}))
}

// log stores [from, to) in segments of ten.
func (h *house) log(branch string, from, to repo.Position) {
	for p := from; p < to; p += 10 {
		end := min(p+10, to)
		m := &repo.SegmentMeta{Branch: branch, Start: p, End: end, FirstTime: at(p), LastTime: at(end), SourceTime: at(end)}
		if h.mark {
			m.Index = &repo.LogIndex{Complete: true, First: p + (5-p%5)%5}
		}
		h.must(h.l.PutSegment(h.t.Context(), m, bytes.Repeat([]byte{'x'}, int(end-p))))
	}
}

// base commits a backup that needs log from from and is consistent at stop.
func (h *house) base(name, branch string, from, stop repo.Position) {
	w, err := h.l.BeginBackup(h.t.Context(), "")
	h.must(err)
	m := &repo.Manifest{Engine: "fake", Database: "orders", Branch: branch, LogFrom: from, Start: from, Stop: stop, StartTime: at(from), StopTime: at(stop)}
	h.must(w.Commit(h.t.Context(), m, nil))
	h.ids[name] = w.ID()
}

// plain is one branch with two bases and log to 500.
func plain(h *house) {
	h.branch("b1", "", 0, 1)
	h.base("old", "b1", 100, 120)
	h.base("new", "b1", 300, 320)
	h.log("b1", 100, 500)
}

// promoted adds a branch that left at 400 and goes on to 700.
func promoted(h *house) {
	plain(h)
	h.branch("b2", "b1", 400, 2)
	h.log("b2", 400, 700)
}

// split adds a second heir of b1.
func split(h *house) {
	promoted(h)
	h.branch("b3", "b1", 420, 3)
	h.log("b3", 420, 600)
}

func holed(h *house) {
	h.branch("b1", "", 0, 1)
	h.base("old", "b1", 100, 120)
	h.log("b1", 100, 310)
	h.base("new", "b1", 300, 330)
	h.log("b1", 320, 500)
}

func TestPlanRestore(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*house)
		goal  Goal // BackupID by the test's name
		base  string
		end   string // branch:position
		note  string // in a note; "" = no notes at all
	}{
		{"latest", plain, Goal{}, "new", "b1:500", ""},
		{"a time after the newest base", plain, Goal{Time: at(400)}, "new", "b1:500", ""},
		{"a time before it", plain, Goal{Time: at(310)}, "old", "b1:500", ""},
		{"the moment a base was finished is before it", plain, Goal{Time: at(320)}, "old", "b1:500", ""},
		{"an older base on request", plain, Goal{BackupID: "old"}, "old", "b1:500", ""},
		{"a promotion is followed", promoted, Goal{}, "new", "b2:700", ""},
		{"the branch that was left, on request", promoted, Goal{Branch: "b1"}, "new", "b1:500", ""},
		{"by its number", promoted, Goal{Branch: "2"}, "new", "b2:700", ""},
		{"one of two heirs", split, Goal{Branch: "b3", Time: at(595)}, "new", "b3:600", ""},
		{"a base beyond the fork is not on the path", func(h *house) {
			promoted(h)
			h.base("stray", "b1", 430, 450)
		}, Goal{Branch: "b2"}, "new", "b2:700", ""},
		{"a newer branch that the newest base does not lead to", func(h *house) {
			promoted(h)
			h.base("b2's", "b2", 600, 650)
			h.branch("b3", "b1", 420, 3)
		}, Goal{}, "b2's", "b2:700", "branch b3"},
		{"a branch that left before the newest base was consistent", func(h *house) {
			plain(h)
			h.branch("b2", "b1", 310, 2)
		}, Goal{}, "new", "b1:500", "branch b2"},
		{"a newer base whose log has a hole", holed, Goal{}, "old", "b1:310", "passed over"},
		{"a time before the hole", holed, Goal{Time: at(305)}, "old", "b1:310", ""},
		{"a hole after a usable base", func(h *house) {
			plain(h)
			h.log("b1", 510, 600)
		}, Goal{}, "new", "b1:500", "ends at a gap"},
		{"a time before a hole in an earlier branch", func(h *house) {
			plain(h)
			h.branch("b2", "b1", 510, 2)
			h.log("b2", 510, 700)
		}, Goal{Time: at(450)}, "new", "b1:500", ""},
		{"an unreadable manifest", func(h *house) {
			plain(h)
			h.fail[h.ids["new"]] = true
		}, Goal{}, "old", "b1:500", "could be read"},
		{"the base before a fork inside its own log", func(h *house) {
			h.branch("b1", "", 0, 1)
			h.branch("b2", "b1", 210, 2)
			h.log("b1", 200, 230)
			h.log("b2", 210, 300)
			h.base("across", "b2", 200, 220)
		}, Goal{}, "across", "b2:300", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			c.setup(h)
			c.goal.BackupID = h.ids[c.goal.BackupID]
			p, err := PlanRestore(t.Context(), counting{}, h.l, c.goal)
			h.must(err)
			leg := p.Log.Legs[len(p.Log.Legs)-1]
			if end := fmt.Sprintf("%s:%d", leg.Branch.ID, leg.To); p.Base.ID != h.ids[c.base] || end != c.end {
				t.Errorf("from %s to %s; ids %v", p.Base.ID, end, h.ids)
			}
			if !p.EndTime.Equal(at(leg.To)) || p.Log.From() != p.Base.LogFrom || !p.Goal.Time.Equal(c.goal.Time) {
				t.Errorf("end time %s, log from %d, goal %+v", p.EndTime, p.Log.From(), p.Goal)
			}
			notes := strings.Join(p.Notes, "\n")
			if !strings.Contains(notes, c.note) || c.note == "" && notes != "" {
				t.Errorf("notes: %q", notes)
			}
			_, err = wal.NewReader(t.Context(), h.l, p.Log)
			h.must(err)
		})
	}
}

func TestUnreachable(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*house)
		goal  Goal
		says  string // in the error
		hint  string
		is    error
	}{
		{"no backup", func(h *house) { h.branch("b1", "", 0, 1) }, Goal{}, "no base backup", "holdfast backup orders", nil},
		{"before the first backup", plain, Goal{Time: at(50)}, "first backup", "03:02:00", nil},
		{"when the first backup was finished", plain, Goal{Time: at(120)}, "first backup", "03:02:00", nil},
		{"after the archive's end", plain, Goal{Time: at(501)}, "last moment archived, 2026-01-02T03:08:20Z", "before 2026-01-02T03:08:20Z", nil},
		{"at the archive's end", plain, Goal{Time: at(500)}, "last moment archived", "after 2026-01-02T03:02:00Z", nil},
		{"behind a gap", func(h *house) { plain(h); h.log("b1", 510, 600) }, Goal{Time: at(550)}, "missing from 1f4 to 1fe", "before 2026-01-02T03:08:20Z", nil},
		{"the next branch behind a gap", func(h *house) {
			plain(h)
			h.branch("b2", "b1", 510, 2)
			h.log("b2", 510, 700)
		}, Goal{}, "missing from 1f4 to 1fe", "--target-time", nil},
		{"two heirs", split, Goal{}, "2 branches descend", "b3 (number 3), left b1 at 1a4", nil},
		{"an unknown backup", plain, Goal{BackupID: "none"}, "not found", "holdfast list orders", repo.ErrNotFound},
		{"an unknown branch", promoted, Goal{Branch: "7"}, "not found", "b2 (number 2)", repo.ErrNotFound},
		{"a base that is not on the path", func(h *house) {
			promoted(h)
			h.base("stray", "b1", 430, 450)
		}, Goal{Branch: "b2", BackupID: "stray"}, "no backup lies on the path", "--branch", nil},
		{"a base without its log", func(h *house) {
			h.branch("b1", "", 0, 1)
			h.base("only", "b1", 100, 120)
			h.log("b1", 110, 500)
		}, Goal{}, "missing from 64 to 6e", "holdfast backup orders", nil},
		{"log that ends before the consistent point", func(h *house) {
			h.branch("b1", "", 0, 1)
			h.base("only", "b1", 100, 120)
			h.log("b1", 100, 119)
		}, Goal{}, "missing from 77 to 78", "holdfast backup orders", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			c.setup(h)
			if id := h.ids[c.goal.BackupID]; id != "" {
				c.goal.BackupID = id
			}
			p, err := PlanRestore(t.Context(), counting{}, h.l, c.goal)
			if err == nil {
				t.Fatalf("planned: %+v", p.Log)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.Contains(hferr.HintOf(err), c.hint) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("error: %v\nhint: %s", err, hferr.HintOf(err))
			}
		})
	}
}

func TestWindows(t *testing.T) {
	h := newHouse(t)
	split(h)
	h.base("broken", "b2", 690, 720)
	got, err := Windows(context.Background(), h.l)
	h.must(err)
	want := []Window{
		{h.ids["old"], "b2", at(120), at(700), 120, 700, ""},
		{h.ids["old"], "b3", at(120), at(600), 120, 600, ""},
		{h.ids["new"], "b2", at(320), at(700), 320, 700, ""},
		{h.ids["new"], "b3", at(320), at(600), 320, 600, ""},
		{h.ids["broken"], "b2", at(720), time.Time{}, 720, 0, "it needs log through 2d0: log of branch b2 is missing from 2bc to 2d0"},
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !got[i].From.Equal(want[i].From) || !got[i].To.Equal(want[i].To) {
			t.Fatalf("%d:\n%+v\nwant\n%+v", i, got, want)
		}
		got[i].From, got[i].To = want[i].From, want[i].To
		if got[i] != want[i] {
			t.Errorf("%+v, want %+v", got[i], want[i])
		}
	}
	h.fail[h.ids["new"]] = true
	got, err = Windows(context.Background(), h.l)
	if err == nil || len(got) != 3 {
		t.Errorf("with an unreadable manifest: %d windows, %v", len(got), err)
	}
}
