package postgres

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func codesOf(found []repo.Finding) string {
	var out []string
	for _, f := range found {
		out = append(out, f.Code)
	}
	return strings.Join(out, " ")
}

// TestWhatACommitIsWorth judges views without a server. The receiver is "us".
func TestWhatACommitIsWorth(t *testing.T) {
	streaming := func(sync string) *syncSender { return &syncSender{Name: "us", State: "streaming", Sync: sync} }
	for name, c := range map[string]struct {
		names string
		v     syncView
		level engines.GuaranteeLevel
		says  string
		codes string
	}{
		"nobody is named":      {"", syncView{visible: true, behind: 3 << 20, sender: streaming("async")}, engines.GuaranteeAsynchronous, "no commit waits for us; up to 3 MB of log", ""},
		"unknown loss":         {"", syncView{visible: true, behind: -1}, engines.GuaranteeAsynchronous, "is not known", ""},
		"others":               {"a, b", syncView{visible: true, sender: streaming("async")}, engines.GuaranteeAsynchronous, "wait for a, b, not for us", ""},
		"alone":                {"us", syncView{visible: true, sender: streaming("sync")}, engines.GuaranteeSynchronous, "every commit waits for our acknowledgement", "synchronous-receiver"},
		"case":                 {"US", syncView{visible: true, sender: streaming("sync")}, engines.GuaranteeSynchronous, "every commit", "synchronous-receiver"},
		"with a replica":       {"FIRST 2 (us, a)", syncView{visible: true, sender: streaming("sync")}, engines.GuaranteeSynchronous, "every commit", "synchronous-receiver"},
		"before a replica":     {"us, a", syncView{visible: true, sender: streaming("sync")}, engines.GuaranteeSynchronous, "every commit", "sync-first-1"},
		"behind a replica":     {"a, us", syncView{visible: true, sender: streaming("potential")}, engines.GuaranteeStandingBy, "once one of them is gone", "synchronous-receiver"},
		"any of two":           {"ANY 1 (us, a)", syncView{visible: true, sender: streaming("quorum")}, engines.GuaranteeShared, "1 of 2 standbys, of which we are one: our acknowledgement can stand in", "sync-any-1"},
		"two of three":         {"ANY 2 (us, a, b)", syncView{visible: true, sender: streaming("quorum")}, engines.GuaranteeShared, "2 of 3 standbys, of which we are one", "synchronous-receiver"},
		"any of all":           {"ANY 2 (us, a)", syncView{visible: true, sender: streaming("quorum")}, engines.GuaranteeSynchronous, "every commit", "synchronous-receiver"},
		"a star":               {"ANY 1 (*)", syncView{visible: true, sender: streaming("quorum")}, engines.GuaranteeShared, "1 of all connected receivers", "synchronous-receiver"},
		"not connected":        {"us", syncView{visible: true}, engines.GuaranteeAbsent, "not connected: commits hang", "synchronous-receiver sync-absent"},
		"covered":              {"ANY 1 (us, a)", syncView{visible: true, answering: 1}, engines.GuaranteeAbsent, "other standbys answer", "sync-any-1 sync-absent"},
		"not covered":          {"ANY 1 (us, a)", syncView{visible: true}, engines.GuaranteeAbsent, "commits hang", "sync-any-1 sync-absent"},
		"hidden, certain":      {"us", syncView{}, engines.GuaranteeAbsent, "commits hang", "synchronous-receiver sync-absent sync-hidden"},
		"hidden, unknown":      {"a, us", syncView{}, engines.GuaranteeAbsent, "commits hang or other standbys answer", "synchronous-receiver sync-absent sync-hidden"},
		"hidden, chosen":       {"us", syncView{sender: &syncSender{Name: "us"}}, engines.GuaranteeSynchronous, "every commit", "synchronous-receiver sync-hidden"},
		"hidden, behind":       {"a, us", syncView{sender: &syncSender{Name: "us"}}, engines.GuaranteeStandingBy, "", "synchronous-receiver sync-hidden"},
		"catching up":          {"us", syncView{visible: true, sender: &syncSender{State: "catchup", Sync: "sync"}}, engines.GuaranteeAbsent, "catching up", "synchronous-receiver"},
		"nothing flushed":      {"us", syncView{visible: true, sender: streaming("async")}, engines.GuaranteeAbsent, "not acknowledged anything yet: commits hang", "synchronous-receiver"},
		"a standby":            {"us", syncView{visible: true, recovery: true, commit: "remote_apply", sender: streaming("async")}, engines.GuaranteeAsynchronous, "is a standby", ""},
		"local":                {"us", syncView{visible: true, commit: "local", sender: streaming("sync")}, engines.GuaranteeAsynchronous, "synchronous_commit is local", "synchronous-receiver sync-nothing-waits"},
		"off and absent":       {"us", syncView{visible: true, commit: "off"}, engines.GuaranteeAsynchronous, "synchronous_commit is off", "synchronous-receiver sync-nothing-waits"},
		"remote_write":         {"us", syncView{visible: true, commit: "remote_write", sender: streaming("sync")}, engines.GuaranteeReceived, "not until it is durable", "synchronous-receiver sync-remote-write"},
		"remote_apply":         {"us", syncView{visible: true, commit: "remote_apply", sender: streaming("sync")}, engines.GuaranteeSynchronous, "", "sync-remote-apply synchronous-receiver"},
		"remote_apply, not us": {"a", syncView{visible: true, commit: "remote_apply", sender: streaming("async")}, engines.GuaranteeAsynchronous, "", ""},
		"remote_apply of a role": {"a, us", syncView{visible: true, sender: streaming("potential"), overrides: []commitOverride{{"app", "", "remote_apply"}}},
			engines.GuaranteeStandingBy, "", "sync-remote-apply synchronous-receiver"},
		"exceptions": {"us", syncView{visible: true, sender: streaming("sync"), overrides: []commitOverride{{"batch", "", "off"}, {"", "logs", "local"}, {"x", "", "on"}}},
			engines.GuaranteeSynchronous, "acknowledgement; except commits for role batch (synchronous_commit off), commits in database logs (synchronous_commit local)", "synchronous-receiver sync-exceptions"},
	} {
		v := c.v
		v.receiver, v.role = "us", `"r"`
		if v.commit == "" {
			v.commit = "on"
		}
		if v.names, v.namesErr = parseStandbyNames(c.names); v.namesErr != nil {
			t.Fatal(v.namesErr)
		}
		g := v.judge()
		if g.Level != c.level || !strings.Contains(g.Sentence, c.says) || codesOf(g.Findings) != c.codes || g.Receiver != "us" || g.Connected != (v.sender != nil) {
			t.Errorf("%s: %s, %q, findings %q", name, g.Level, g.Sentence, codesOf(g.Findings))
		}
		if hidden := strings.Contains(c.codes, "sync-hidden"); hidden != (g.Hidden != "") {
			t.Errorf("%s: hidden: %q", name, g.Hidden)
		}
	}
	if g := (syncView{receiver: "us", commit: "on", namesErr: errStandbyNames}).judge(); g.Level != engines.GuaranteeAsynchronous || codesOf(g.Findings) != "sync-names" {
		t.Errorf("%+v", g)
	}
	for in, want := range map[string]string{"true": "on", "1": "on", "OFF": "off", "no": "off", "Remote_Apply": "remote_apply"} {
		if got := plainCommit(in); got != want {
			t.Errorf("%s is %s", in, got)
		}
	}
}

func TestOverridesAreUndone(t *testing.T) {
	for want, o := range map[string]commitOverride{
		`for role a"b: ALTER ROLE "a""b" RESET synchronous_commit;`:                          {Role: `a"b`},
		`in database d: ALTER DATABASE "d" RESET synchronous_commit;`:                        {Database: "d"},
		`for role r in database d: ALTER ROLE "r" IN DATABASE "d" RESET synchronous_commit;`: {Role: "r", Database: "d"},
		`for all roles: ALTER ROLE ALL RESET synchronous_commit;`:                            {},
	} {
		if got := o.where() + ": " + o.resetSQL(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// guarantee polls until the server shows a level.
func (s *site) guarantee(l engines.LogSource, want engines.GuaranteeLevel) (g engines.Guarantee) {
	s.t.Helper()
	var err error
	for range 500 {
		if g, err = l.Guarantee(s.t.Context()); err != nil {
			s.t.Fatal(err)
		}
		if g.Level == want {
			s.t.Logf("%s: %s (%s, %d behind) %s", g.Level, g.Sentence, g.State, g.Behind, codesOf(g.Findings))
			return g
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("not %s: %+v", want, g)
	return g
}

func (s *site) set(name, value string) {
	s.t.Helper()
	s.exec("set synchronous_commit = local", "alter system set "+name+" = '"+value+"'", "select pg_reload_conf()")
	waitFor(s.t, name+" is "+value, func() bool { return s.text("select reset_val from pg_settings where name = '"+name+"'") == value })
}

// TestTheGuaranteeIsTheServersOwnView streams, is named, is dropped, and is
// seen each time; a commit really waits for us and goes on when we answer.
func TestTheGuaranteeIsTheServersOwnView(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "grant pg_monitor to backup", "create table t (x int)")
		l := s.source().Log()
		if err := l.Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		stop, ready := background(t, l, engines.TailOptions{Held: in.held}, in)
		<-ready
		g := s.guarantee(l, engines.GuaranteeAsynchronous)
		if g.Receiver != "holdfast_orders_1" || !g.Connected || len(g.Findings) != 0 {
			t.Errorf("%+v", g)
		}
		s.set("synchronous_standby_names", g.Receiver)
		if g = s.guarantee(l, engines.GuaranteeSynchronous); g.State != "streaming, sync" || g.Hidden != "" {
			t.Errorf("%+v", g)
		}
		in.set(func(m *memoryIntake) { m.lag = true })
		other := connectTo(t, s.server.AdminURL())
		done := make(chan error, 1)
		go func() { _, err := other.Exec(context.Background(), "insert into t values (1)"); done <- err }()
		waitFor(t, "a commit waits for us", func() bool {
			return s.text("select coalesce(string_agg(wait_event, ','), '') from pg_stat_activity where wait_event_type = 'IPC'") == "SyncRep"
		})
		if g = s.guarantee(l, engines.GuaranteeSynchronous); g.Behind <= 0 {
			t.Errorf("nothing is behind: %+v", g)
		}
		select {
		case err := <-done:
			t.Errorf("the commit returned before it was durable: %v", err)
		default:
		}
		in.set(func(m *memoryIntake) { m.lag = false; m.durable = m.runs[0].end() })
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		s.set("synchronous_standby_names", "ANY 1 (holdfast_orders_1, replica)")
		if g = s.guarantee(l, engines.GuaranteeShared); g.State != "streaming, quorum" || codesOf(g.Findings) != "sync-any-1" {
			t.Errorf("%+v", g)
		}
		fix, _, _ := strings.Cut(g.Findings[0].Fix, "  --")
		s.exec(strings.Split(fix, ";")[:2]...)
		waitFor(t, "the fix is in force", func() bool {
			return s.text("select reset_val from pg_settings where name = 'synchronous_standby_names'") == "FIRST 2 (holdfast_orders_1, replica)"
		})
		if g = s.guarantee(l, engines.GuaranteeSynchronous); codesOf(g.Findings) != "synchronous-receiver" {
			t.Errorf("%+v", g)
		}
		s.set("synchronous_standby_names", "replica, holdfast_orders_1")
		s.guarantee(l, engines.GuaranteeSynchronous) // the server fell back to us
		s.exec("revoke pg_monitor from backup")
		if g = s.guarantee(l, engines.GuaranteeStandingBy); g.State != "" || !strings.Contains(g.Hidden, "pg_monitor") || !g.Connected {
			t.Errorf("%+v", g)
		}
		s.exec("grant pg_monitor to backup")
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		g = s.guarantee(l, engines.GuaranteeAbsent)
		if g.Connected || !strings.Contains(g.Sentence, "commits hang") || codesOf(g.Findings) != "synchronous-receiver sync-absent" || g.Findings[1].Severity != severityError {
			t.Errorf("%+v", g)
		}
		fix, _, _ = strings.Cut(g.Findings[1].Fix, "  --")
		s.exec(strings.Split(fix, ";")[:2]...)
		if g = s.guarantee(l, engines.GuaranteeAsynchronous); !strings.Contains(g.Sentence, "wait for replica, not for us") {
			t.Errorf("%+v", g)
		}
	})
}

// TestRemoteApplyIsRefused server-wide, for a role, and by a value of our own
// that hides the server's.
func TestRemoteApplyIsRefused(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create role app", "alter role backup set synchronous_commit = local")
		l := s.source().Log()
		s.set("synchronous_standby_names", "replica, holdfast_orders_1")
		s.set("synchronous_commit", "remote_apply")
		s.exec("alter role app in database postgres set synchronous_commit = remote_apply")
		err := l.Prepare(t.Context())
		var apply *ApplyDemandedError
		if !errors.As(err, &apply) || !engines.IsPermanent(err) || engines.ConditionOf(err) != engines.ConditionApplyDemanded ||
			apply.Where != "server-wide, for role app in database postgres" {
			t.Fatalf("%v", err)
		}
		if n := s.text("select count(*)::text from pg_replication_slots"); n != "0" {
			t.Errorf("%s slots were made", n)
		}
		f := codes(t, s)["sync-remote-apply"]
		if f.Severity != severityError || f.Fix != hferr.HintOf(err) {
			t.Errorf("%+v, hint %q", f, hferr.HintOf(err))
		}
		s.apply(f)
		waitFor(t, "it is not refused any more", func() bool { return l.Prepare(t.Context()) == nil })
		s.exec("alter role all set synchronous_commit = remote_apply")
		in := newMemoryIntake()
		until := make(chan repo.Position, 1)
		until <- 1 // a Tail that does not refuse must end all the same
		if err := l.Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in); engines.ConditionOf(err) != engines.ConditionApplyDemanded || len(in.order) != 0 {
			t.Errorf("Tail: %v", err)
		}
		s.set("synchronous_standby_names", "replica")
		if err := l.Prepare(t.Context()); err != nil {
			t.Errorf("though we are not named: %v", err)
		}
	})
}
