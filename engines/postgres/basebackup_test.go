package postgres

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// TestBackupHoldsTheServersFiles stops the server right after a backup of an
// idle cluster, whose files must then be those of the backup.
func TestBackupHoldsTheServersFiles(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil,
			"create table t as select g, repeat('x', 100) as pad from generate_series(1, 20000) g",
			"create unlogged table u as select 1 as one", "checkpoint")
		sink := newMemorySink()
		res, err := s.source().Backup(t.Context(), engines.BackupOptions{Label: "o'clock", Fast: true}, sink)
		if err != nil {
			t.Fatal(err)
		}
		path := s.text("select pg_relation_filepath('t')")
		unlogged := s.text("select pg_relation_filepath('u')")
		want, err := os.ReadFile(filepath.Join(s.server.DataDir(), path))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sink.data[path], want) {
			t.Errorf("%s differs from the server's", path)
		}
		if got := sink.items[path].Extent; got != 8192 {
			t.Errorf("%s is cut at %d bytes", path, got)
		}
		if got := sink.items["PG_VERSION"]; got.Extent != 0 || string(sink.data["PG_VERSION"]) != major+"\n" {
			t.Errorf("PG_VERSION: %+v %q", got, sink.data["PG_VERSION"])
		}
		if _, ok := sink.items[unlogged]; ok {
			t.Errorf("the unlogged table's %s is in the backup", unlogged)
		}
		if !strings.Contains(string(sink.data["backup_label"]), "LABEL: o'clock\n") {
			t.Errorf("backup_label: %s", sink.data["backup_label"])
		}
		if sink.items["pg_wal"].Kind != repo.KindDir {
			t.Error("pg_wal is no directory of the backup")
		}
		if !strings.Contains(string(sink.data["backup_label"]), "START WAL LOCATION: "+FormatLSN(res.Start)+" ") {
			t.Errorf("start %s is not that of backup_label: %s", FormatLSN(res.Start), sink.data["backup_label"])
		}
		checkResult(t, s, res)
		left := ""
		for range 50 { // a backend outlives its client's goodbye by a moment
			left = s.text("select count(*)::text from pg_stat_activity where application_name like 'holdfast%'")
			if left == "0" {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if left != "0" {
			t.Errorf("%s connections are left", left)
		}
	})
}

func checkResult(t *testing.T, s *site, res engines.BackupResult) {
	t.Helper()
	if res.LogFrom%(16<<20) != 0 || res.LogFrom > res.Start || res.Start-res.LogFrom >= 16<<20 {
		t.Errorf("log from %s for a start at %s", FormatLSN(res.LogFrom), FormatLSN(res.Start))
	}
	if res.Stop <= res.Start || !res.StopTime.After(res.StartTime) {
		t.Errorf("stop %s %v, start %s %v", FormatLSN(res.Stop), res.StopTime, FormatLSN(res.Start), res.StartTime)
	}
	if res.Branch != "00000001-root" || len(res.Findings) != 0 {
		t.Errorf("branch %q, findings %v", res.Branch, res.Findings)
	}
	d, err := ParseDetails(res.Details)
	if err != nil {
		t.Fatal(err)
	}
	if d.Major() != strings.Split(s.text("show server_version"), ".")[0] || d.BootstrapUser != "postgres" ||
		d.SystemID != s.text("select system_identifier::text from pg_control_system()") ||
		d.WALSegmentSize != 16<<20 || d.BlockSize != 8192 || !d.Checksums || !d.ChecksumsVerified ||
		d.Settings["max_connections"] != s.text("show max_connections") || len(d.Databases) != 3 ||
		len(d.Extensions) != 1 || d.ManifestFiles < 900 {
		t.Errorf("details: %s", res.Details)
	}
}

func TestBackupOfATablespace(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		dir := filepath.Join(s.server.SocketDir(), "space")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(s.server.DataDir())
		if err != nil {
			t.Fatal(err)
		}
		chownLike(t, dir, info)
		s.exec("create tablespace space location '"+dir+"'",
			"create table t tablespace space as select g from generate_series(1, 1000) g", "checkpoint")
		sink := newMemorySink()
		res, err := s.source().Backup(t.Context(), engines.BackupOptions{Fast: true}, sink)
		if err != nil {
			t.Fatal(err)
		}
		path := s.text("select pg_relation_filepath('t')")
		oid := s.text("select oid::text from pg_tablespace where spcname = 'space'")
		if !strings.HasPrefix(path, "pg_tblspc/"+oid+"/") || len(sink.data[path]) == 0 || sink.items[path].Extent != 8192 {
			t.Errorf("%s: %+v", path, sink.items[path])
		}
		d, err := ParseDetails(res.Details)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Tablespaces) != 1 || d.Tablespaces[0].Location != dir || d.Tablespaces[0].Items == 0 {
			t.Errorf("tablespaces: %+v", d.Tablespaces)
		}
		if !strings.Contains(string(sink.data["tablespace_map"]), oid+" "+dir) {
			t.Errorf("tablespace_map: %q", sink.data["tablespace_map"])
		}
	})
}

// TestBackupOfDamagedPagesIsCompleteWithFindings flips a byte in a page on
// disk while the server is down.
func TestBackupOfDamagedPagesIsCompleteWithFindings(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create table t as select g from generate_series(1, 10000) g", "checkpoint")
		path := s.text("select pg_relation_filepath('t')")
		if err := s.server.StopFast(t.Context()); err != nil {
			t.Fatal(err)
		}
		flipByte(t, filepath.Join(s.server.DataDir(), path), 3*8192+5000)
		if err := s.server.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		sink := newMemorySink()
		res, err := s.source().Backup(t.Context(), engines.BackupOptions{Fast: true}, sink)
		if err != nil {
			t.Fatal(err)
		}
		if len(res.Findings) != 1 || res.Findings[0].Code != "damaged-pages" || !strings.Contains(res.Findings[0].Message, path) {
			t.Errorf("findings: %+v", res.Findings)
		}
		if len(sink.data["global/pg_control"]) == 0 || len(sink.data["backup_manifest"]) == 0 || res.Stop == 0 {
			t.Error("the backup is not complete")
		}
	})
}

func TestABackupCancelledOrRefusedLeavesNothing(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create table t as select g from generate_series(1, 100000) g")
		ctx, cancel := context.WithCancel(t.Context())
		sink := newMemorySink()
		sink.fail = func(path string) error {
			if strings.HasPrefix(path, "base/") {
				cancel()
			}
			return nil
		}
		if _, err := s.source().Backup(ctx, engines.BackupOptions{Fast: true}, sink); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		sink = newMemorySink()
		sink.fail = func(path string) error {
			if strings.HasPrefix(path, "base/") {
				return errTest
			}
			return nil
		}
		if _, err := s.source().Backup(t.Context(), engines.BackupOptions{Fast: true}, sink); !errors.Is(err, errTest) {
			t.Errorf("refused: %v", err)
		}
		waitFor(t, "the server ends the backups", func() bool {
			return s.text("select count(*)::text from pg_stat_replication") == "0"
		})
	})
}
