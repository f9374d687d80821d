package postgres

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
)

func planFor(t *testing.T, change func(*engines.RestorePlan)) *engines.RestorePlan {
	t.Helper()
	details, err := json.Marshal(Details{VersionNum: 150018, WALSegmentSize: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	p := &engines.RestorePlan{Base: repo.Manifest{ID: "b1", Engine: "postgres", Bytes: 1000, Details: details, StopTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}}
	if change != nil {
		change(p)
	}
	return p
}

func TestPreflight(t *testing.T) {
	empty, full := t.TempDir(), t.TempDir()
	file := filepath.Join(full, "a file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		dir    string
		change func(*engines.RestorePlan)
		want   string // in the error; "" means none
	}{
		"an empty directory":    {dir: empty},
		"a missing directory":   {dir: filepath.Join(empty, "a", "b")},
		"a full directory":      {dir: full, want: "not empty"},
		"below a file":          {dir: filepath.Join(file, "x"), want: "a file"},
		"another engine's base": {dir: empty, change: func(p *engines.RestorePlan) { p.Base.Engine = "mysql" }, want: `"mysql"`},
		"too little space":      {dir: empty, change: func(p *engines.RestorePlan) { p.Base.Bytes = 1 << 60 }, want: "1152921504673955840 bytes"},
		"a target in the base": {dir: empty, want: "2026-01-02 03:04:04.500000+00",
			change: func(p *engines.RestorePlan) { p.Goal.Time = p.Base.StopTime.Add(-time.Second / 2) }},
		"a stop in the base": {dir: empty, want: "the target is 0/30", change: func(p *engines.RestorePlan) {
			p.Base.Stop, p.Stop = 0x40, &engines.Stop{At: 0x30}
		}},
		"no details": {dir: empty, change: func(p *engines.RestorePlan) { p.Base.Details = []byte("{}") }, want: "details"},
	} {
		err := newRestorer().Preflight(t.Context(), planFor(t, c.change), c.dir)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", what, err, c.want)
		}
	}
	if err := newRestorer().Preflight(t.Context(), planFor(t, nil), full); hferr.HintOf(err) == "" {
		t.Errorf("no hint in %v", err)
	}
}

func TestALabelThatIsNotTheBasesIsRefused(t *testing.T) {
	base := &repo.Manifest{Start: 0x2000028}
	for text, ok := range map[string]bool{
		"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\n": true,
		"START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n":                                 false,
		"":                    false,
		"START WAL LOCATION:": false,
	} {
		path := filepath.Join(t.TempDir(), "backup_label")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkLabel(path, base); (err == nil) != ok || !ok && !errors.Is(err, repo.ErrDamaged) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := checkLabel(filepath.Join(t.TempDir(), "backup_label"), base); err == nil {
		t.Error("a missing label was accepted")
	}
}

// recordingTarget notes what a clusterTarget asks for.
type recordingTarget struct{ calls *[]string }

func (r recordingTarget) Mkdir(i repo.Item) error {
	*r.calls = append(*r.calls, "dir "+i.Path)
	return nil
}
func (r recordingTarget) Symlink(i repo.Item) error {
	*r.calls = append(*r.calls, "link "+i.Path)
	return nil
}
func (r recordingTarget) Create(i repo.Item) (stream.File, error) {
	*r.calls = append(*r.calls, "file "+i.Path)
	return nopFile{}, nil
}

type nopFile struct{ io.WriterAt }

func (nopFile) Close() error { return nil }

func TestTheTargetOfABaseBackup(t *testing.T) {
	var calls []string
	target := &clusterTarget{recordingTarget{&calls}}
	for _, item := range []repo.Item{{Path: "pg_tblspc/16384"}, {Path: "pg_tblspc/16384x"}, {Path: "pg_wal"}} {
		if err := target.Symlink(item); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"global/pg_control", "base/1/2"} {
		if _, err := target.Create(repo.Item{Path: path}); err != nil {
			t.Fatal(err)
		}
	}
	want := "dir pg_tblspc/16384,link pg_tblspc/16384x,link pg_wal,file " + controlPending + ",file base/1/2"
	if got := strings.Join(calls, ","); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	for path, skip := range map[string]bool{"tablespace_map": true, "recovery.signal": true, "backup_label": false, "base/1/tablespace_map": false} {
		if skipItem(repo.Item{Path: path}) != skip {
			t.Errorf("%s: skipped %v", path, !skip)
		}
	}
}
