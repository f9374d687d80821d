package postgres

import (
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func codes(t *testing.T, s *site) map[string]repo.Finding {
	t.Helper()
	found, err := s.source().Check(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]repo.Finding{}
	for _, f := range found {
		if _, twice := out[f.Code]; twice {
			t.Errorf("%s twice", f.Code)
		}
		if strings.Contains(f.Message+f.Fix, s.server.Password()) {
			t.Errorf("%s holds the password", f.Code)
		}
		out[f.Code] = f
	}
	return out
}

// apply runs a finding's SQL as an administrator. What follows "  --" is for
// people.
func (s *site) apply(f repo.Finding) {
	s.t.Helper()
	s.t.Logf("%s: %s\n    %s\n    fix: %s", f.Severity, f.Code, f.Message, f.Fix)
	sql, _, _ := strings.Cut(f.Fix, "  --")
	for q := range strings.SplitSeq(sql, ";") {
		if strings.TrimSpace(q) != "" {
			s.exec(q)
		}
	}
}

// TestEachFindingsFixMakesItGoAway breaks a server in every way that SQL can
// mend, then applies what check prints.
func TestEachFindingsFixMakesItGoAway(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, map[string]string{
			"full_page_writes": "off", "wal_sender_timeout": "0",
			"max_replication_slots": "1", "max_wal_senders": "1",
		}, "alter role backup noreplication", "select pg_create_physical_replication_slot('taken')")
		found := codes(t, s)
		for code, gone := range map[string]string{
			"replication-attribute": "reload", "full-page-writes-off": "reload", "fsync-off": "reload",
			"slot-keep-unlimited": "reload", "heartbeat-database": "reload", "wal-sender-timeout": "reload", "monitor-role": "reload",
			"slots-full": "restart", "wal-senders-few": "restart",
		} {
			f, ok := found[code]
			if !ok {
				if code == "wal-senders-few" { // cannot be seen without REPLICATION
					continue
				}
				t.Errorf("no finding %s (%s)", code, gone)
				continue
			}
			s.apply(f)
		}
		if few, ok := codes(t, s)["wal-senders-few"]; ok {
			s.apply(few)
		}
		s.restart()
		found = codes(t, s)
		for code, f := range found {
			if code != "slot-missing" {
				t.Errorf("still there: %s: %s", code, f.Message)
			}
		}
		if f := found["slot-missing"]; f.Severity != severityInfo {
			t.Errorf("slot-missing: %+v", f)
		}
	})
}

func (s *site) restart() {
	s.t.Helper()
	if err := s.server.StopFast(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	if err := s.server.Restart(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	s.admin = connectTo(s.t, s.server.AdminURL())
}

func TestCheckSeesTheStateOfTheSlot(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, map[string]string{"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"})
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		if f := codes(t, s)["slot-inactive"]; f.Severity != severityWarning {
			t.Errorf("slot-inactive: %+v", f)
		}
		s.loseSlot()
		f, ok := codes(t, s)["slot-lost"]
		if !ok {
			t.Fatal("no finding slot-lost")
		}
		s.apply(f)
		if _, ok := codes(t, s)["slot-missing"]; !ok {
			t.Error("the slot is not gone")
		}
	})
}

// loseSlot writes so much that the server gives the slot's log up.
func (s *site) loseSlot() {
	s.t.Helper()
	waitFor(s.t, "the slot is lost", func() bool {
		s.exec("create table if not exists churn (x int)", "insert into churn values (1)", "select pg_switch_wal()", "checkpoint")
		return s.text("select wal_status from pg_replication_slots") == "lost"
	})
}

func TestCheckOfHeartbeatRights(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create database holdfast", "revoke all on database holdfast from public")
		f, ok := codes(t, s)["heartbeat-rights"]
		if !ok {
			t.Fatal("no finding heartbeat-rights")
		}
		s.apply(f)
		if f, ok := codes(t, s)["heartbeat-rights"]; ok {
			t.Errorf("still there: %+v", f)
		}
		pulse, err := s.source().Heartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer pulse.Close()
		if err := pulse.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// TestCheckPrintsTheMissingLine of pg_hba.conf, which then works.
func TestCheckPrintsTheMissingLine(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		hba := filepath.Join(s.server.DataDir(), "pg_hba.conf")
		const rest = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
		if err := os.WriteFile(hba, []byte(rest), 0o600); err != nil {
			t.Fatal(err)
		}
		s.exec("select pg_reload_conf()")
		var f repo.Finding
		waitFor(t, "replication is refused", func() (ok bool) { f, ok = codes(t, s)["replication-hba"]; return ok })
		t.Logf("%s\n%s", f.Message, f.Fix)
		lines := strings.Split(f.Fix, "\n")
		line := lines[len(lines)-1]
		if line != "host   replication   backup   127.0.0.1/32   scram-sha-256" {
			t.Errorf("line %q", line)
		}
		if err := os.WriteFile(hba, []byte(line+"\n"+rest), 0o600); err != nil {
			t.Fatal(err)
		}
		s.exec("select pg_reload_conf()")
		waitFor(t, "replication is allowed", func() bool { _, bad := codes(t, s)["replication-hba"]; return !bad })
	})
}

// TestRulesThatNeedNoServer covers what a test server cannot be made to show.
func TestRulesThatNeedNoServer(t *testing.T) {
	well := inspection{role: `"r"`, roleName: "r", replicate: true, monitor: true, checksums: true, beatExists: true, beatConnect: true, beatReady: true,
		slotName: "holdfast_x", slotFound: true, slot: slotState{Type: "physical", Active: true, Restart: "0/1", State: "reserved"},
		settings: map[string]string{"wal_level": "replica", "max_wal_senders": "10", "max_replication_slots": "10", "max_slot_wal_keep_size": "1024", "wal_keep_size": "0",
			"full_page_writes": "on", "fsync": "on", "archive_mode": "off", "wal_sender_timeout": "60000"},
		wal:  walMeasure{Segment: 16 << 20, Views: []walView{{How: "for a while", Bytes: 512 << 20, Over: time.Hour}}},
		sync: syncView{receiver: "holdfast_x", commit: "on", visible: true, role: `"r"`, behind: -1}}
	for code, change := range map[string]func(*inspection){
		"":                 func(*inspection) {},
		"checksums-off":    func(i *inspection) { i.checksums = false },
		"wal-level":        func(i *inspection) { i.settings["wal_level"] = "minimal" },
		"wal-senders-none": func(i *inspection) { i.settings["max_wal_senders"] = "0" },
		"archive-mode":     func(i *inspection) { i.settings["archive_mode"] = "on" },
		"clock-skew":       func(i *inspection) { i.skew = -time.Hour },
		"synchronous-receiver": func(i *inspection) {
			i.sync.names, i.sync.sender = standbyNames{Num: 1, Members: []string{"holdfast_x"}}, &syncSender{State: "streaming", Sync: "sync"}
		},
		"slot-keep-unlimited": func(i *inspection) { i.settings["max_slot_wal_keep_size"] = "-1" },
		"slot-keep-small":     func(i *inspection) { i.wal.Views[0].Bytes = 2 << 30 },
		"slot-idle-timeout":   func(i *inspection) { i.settings["idle_replication_slot_timeout"] = "60" },
		"slot-unreserved":     func(i *inspection) { i.slot.State = "unreserved" },
		"slot-kind":           func(i *inspection) { i.slot.Type = "logical" },
		"unlogged-tables":     func(i *inspection) { i.unlogged = 3 },
	} {
		i := well
		i.settings = map[string]string{}
		for k, v := range well.settings {
			i.settings[k] = v
		}
		i.wal.Views = slices.Clone(well.wal.Views)
		change(&i)
		var got []string
		for _, rule := range []func(inspection) []repo.Finding{checkReplication, checkRoom, checkSlot, checkKeep, checkDurability, checkSync, checkHeartbeat, checkNotes} {
			for _, f := range rule(i) {
				got = append(got, f.Code)
			}
		}
		if strings.Join(got, " ") != code {
			t.Errorf("%q: findings %v", code, got)
		}
	}
}

// replaceURL changes the URL in use.
func replaceURL(t *testing.T, raw string, change func(*url.URL)) string {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	change(u)
	return u.String()
}
