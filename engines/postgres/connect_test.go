package postgres

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// TestARefusedConnectionSaysWhatToDo goes through every way to be refused.
func TestARefusedConnectionSaysWhatToDo(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create database closed", "revoke connect on database closed from public")
		const wrong = "Wr0ng-S3cret/%&"
		for name, c := range map[string]struct {
			change     func(*engines.ConnectOptions)
			says, hint string
			condition  engines.Condition
		}{
			"wrong password": {func(o *engines.ConnectOptions) { o.Password = secret.New(wrong) },
				"password authentication failed", "right password for role backup", engines.ConditionAuthentication},
			"wrong password in the URL": {func(o *engines.ConnectOptions) {
				o.Password = secret.Text{}
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.User = url.UserPassword(siteRole, wrong) })
			}, "password authentication failed", "right password for role backup", engines.ConditionAuthentication},
			"broken URL": {func(o *engines.ConnectOptions) { o.URL = "postgres://backup:" + wrong + "@127.0.0.1:x/" },
				"not a valid postgres:// URL", "percent-encoded", ""},
			"unknown setting": {func(o *engines.ConnectOptions) {
				o.URL = "postgres://backup:" + url.QueryEscape(wrong) + "@127.0.0.1/?sslmode=nonsense"
			}, "is not valid", "sslmode", ""},
			"no such database": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.Path = "/nowhere" })
			}, `database "nowhere" does not exist`, "/postgres", ""},
			"no right to the database": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.Path = "/closed" })
			}, `permission denied for database "closed"`, `GRANT CONNECT ON DATABASE "closed" TO "backup";`, engines.ConditionAuthentication},
			"no such role": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) {
					u.User = url.User("nobody")
					u.Host = "x"
					u.RawQuery = "host=" + url.QueryEscape(s.server.SocketDir()) + "&port=" + fmt.Sprint(s.server.Port())
				})
			}, "nobody", "", engines.ConditionAuthentication},
			"TLS required of a server without": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.RawQuery = "sslmode=require" })
			}, "refused TLS", "sslmode=disable", ""},
			"nobody there": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.Host = "127.0.0.1:1" })
			}, "refused", "no server answers at 127.0.0.1", engines.ConditionUnreachable},
			"no such host": {func(o *engines.ConnectOptions) {
				o.URL = replaceURL(t, o.URL, func(u *url.URL) { u.Host = "nowhere.invalid:5432" })
			}, "nowhere.invalid", "cannot be resolved", engines.ConditionUnreachable},
		} {
			o := s.options()
			c.change(&o)
			_, err := New().Connect(t.Context(), o)
			if err == nil {
				t.Errorf("%s: no error", name)
				continue
			}
			text, hint := fmt.Sprintf("%v %+v %#v", err, err, err.Error()), hferr.HintOf(err)
			t.Logf("%s: %v\n    hint: %s", name, err, hint)
			if got := engines.ConditionOf(err); got != c.condition {
				t.Errorf("%s: condition %q, want %q", name, got, c.condition)
			}
			if !strings.Contains(text, c.says) || !strings.Contains(hint, c.hint) {
				t.Errorf("%s: want %q with hint %q", name, c.says, c.hint)
			}
			for _, p := range []string{wrong, url.QueryEscape(wrong), url.PathEscape(wrong), s.server.Password()} {
				if strings.Contains(text+hint, p) {
					t.Errorf("%s: the password is in it", name)
				}
			}
		}
	})
}

func TestAServerThatIsFullSaysSo(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, map[string]string{"max_connections": "4", "superuser_reserved_connections": "1", "max_wal_senders": "1"})
		src := s.source()
		var open []interface{ Close(context.Context) error }
		var err error
		for range 5 {
			c, cerr := src.(*source).sql(t.Context(), "")
			if cerr != nil {
				err = cerr
				break
			}
			open = append(open, c)
		}
		t.Logf("full: %v\n    hint: %s", err, hferr.HintOf(err))
		if engines.ConditionOf(err) != engines.ConditionRefused || !strings.Contains(hferr.HintOf(err), "max_connections") {
			t.Errorf("full: %v", err)
		}
		for _, c := range open {
			_ = c.Close(t.Context())
		}
	})
}

func TestIdentify(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "create extension amcheck")
		id, err := s.source().Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		system := s.text("select system_identifier::text from pg_control_system()")
		if id.Lineage.ID != "pg-"+system || id.Lineage.Engine != "postgres" || id.Branch.ID != "00000001-root" || id.Branch.Number != 1 ||
			id.Major != major || id.Position == 0 || id.Size < 1<<20 || !strings.Contains(id.Facts["extensions"], "amcheck") {
			t.Errorf("%+v", id)
		}
	})
}

func TestARoleWithoutReplicationIsToldTheSQL(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "alter role backup noreplication")
		_, err := s.source().Identify(t.Context())
		t.Logf("%v\n    hint: %s", err, hferr.HintOf(err))
		if err == nil || hferr.HintOf(err) != `ALTER ROLE "backup" REPLICATION;` {
			t.Fatalf("%v, hint %q", err, hferr.HintOf(err))
		}
		s.exec(hferr.HintOf(err))
		if _, err := s.source().Identify(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
