package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// userRestore is what a user gets: a directory configured by Configure and
// started by hand, with a feed at the end of its restore_command.
type userRestore struct {
	t   *testing.T
	box testcontainers.Sandbox
	dir string
	log *serverLog
	ins engines.Instructions
}

// configure prepares the rig's base in a directory whose name needs quoting.
func (r *rig) configure(p *engines.RestorePlan, prepare func(dir string)) *userRestore {
	r.t.Helper()
	u := &userRestore{t: r.t, box: newBox(r.t, r.major), log: newServerLog(nil)}
	u.dir = filepath.Join(u.box.Dir(), "it's 50%f data")
	copyTree(r.t, r.base, u.dir, nil)
	if prepare != nil {
		prepare(u.dir)
	}
	f, err := newFeed(p.Log, r.det.WALSegmentSize, r.log(p))
	if err != nil {
		r.t.Fatal(err)
	}
	socket := filepath.Join(u.box.Dir(), "f%p")
	ln, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := u.box.Own(r.t.Context(), socket); err != nil {
		r.t.Fatal(err)
	}
	go wal.ServeFeed(r.t.Context(), ln, f, slog.New(slog.DiscardHandler))
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	binary, err := u.box.Share(r.t.Context(), self)
	if err != nil {
		r.t.Fatal(err)
	}
	u.ins, err = newRestorer().Configure(r.t.Context(), engines.ConfigureRequest{
		Plan: p, Dir: u.dir,
		Fetch: []string{binary, "fetch-log", "--socket", socket},
		Done:  []string{"touch", filepath.Join(u.box.Dir(), "do'ne 100%")},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return u
}

// start starts the server as a user would, and waits for its promotion.
func (u *userRestore) start(args ...string) *pgx.Conn {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(u.t.Context(), time.Minute)
	defer cancel()
	args = append([]string{"-D", u.dir, "-c", "listen_addresses=", "-c", "port=5432", "-c", "unix_socket_directories=" + u.box.Dir()}, args...)
	proc, err := u.box.Start(ctx, testcontainers.Command{Path: "postgres", Args: args, Stdout: u.log, Stderr: u.log})
	if err != nil {
		u.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- proc.Wait(context.Background()) }()
	u.t.Cleanup(func() {
		if u.t.Failed() {
			u.t.Logf("log of the restored server:\n%s", strings.Join(u.log.tail, "\n"))
		}
	})
	for {
		_, open, next := u.log.state()
		if open {
			break
		}
		select {
		case <-next:
		case err := <-ended:
			u.t.Fatalf("the server ended: %v\n%s", err, strings.Join(u.log.why(), "\n"))
		case <-ctx.Done():
			u.t.Fatal("the server did not open")
		}
	}
	conn, err := pgx.Connect(ctx, "sslmode=disable user=postgres dbname=postgres port=5432 host="+u.box.Dir())
	if err != nil {
		u.t.Fatal(err)
	}
	u.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (u *userRestore) want(conn *pgx.Conn, query, answer string) {
	u.t.Helper()
	var got string
	if err := conn.QueryRow(u.t.Context(), query).Scan(&got); err != nil || got != answer {
		u.t.Errorf("%s: %q, %v; want %q", query, got, err, answer)
	}
}

func TestAUsersServerRecoversToATarget(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		// A source that was itself made by a point-in-time recovery, and that
		// was a standby once.
		r := newRig(t, major, accounts,
			"alter system set recovery_target_name = 'an old one'", "alter system set primary_conninfo = 'host=production password=topsecret'",
			"alter system set restore_command = 'false'", "alter system set work_mem = '7MB'")
		r.backup()
		r.exec("insert into accounts values (1, 'before')")
		target := r.flushed()
		r.exec("drop table accounts", "select pg_switch_wal()", "create table later (i int)")
		plan := r.planTo(r.flushed())
		plan.Goal.Point = &engines.Point{Kind: engines.PointPosition, Value: FormatLSN(target)}
		plan.Stop = &engines.Stop{At: target, Branch: rootBranch(1).ID}
		u := r.configure(plan, func(dir string) {
			for name, text := range map[string]string{"standby.signal": "", mainConf: "\nrecovery_target_xid = '3'\nrestore_command = 'false'\n"} {
				f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = f.WriteString(text)
				_ = f.Close()
			}
		})
		if _, err := os.Stat(filepath.Join(u.dir, "standby.signal")); err == nil {
			t.Error("standby.signal is still there: a restore to the end of the log would never end")
		}
		conn := u.start()
		u.want(conn, "select string_agg(note, ',') from accounts", "before")
		u.want(conn, "select count(*)::text from pg_class where relname = 'later'", "0")
		u.want(conn, "show work_mem", "7MB")
		u.want(conn, "show primary_conninfo", "")
		u.want(conn, "select timeline_id::text from pg_control_checkpoint()", "2")
		if _, err := os.Stat(filepath.Join(u.box.Dir(), "do'ne 100%")); err != nil {
			t.Errorf("recovery_end_command did not run: %v", err)
		}
		auto, _ := os.ReadFile(filepath.Join(u.dir, autoConf))
		if strings.Contains(string(auto), "topsecret") {
			t.Error("the source's primary_conninfo is still in effect")
		}
		if !strings.Contains(string(auto), "recovery_target_timeline = '1'") {
			t.Errorf("no numeric timeline in\n%s", auto)
		}
		notes := strings.Join(u.ins.Notes, "\n")
		if !strings.Contains(notes, "primary_conninfo") || !strings.Contains(notes, "PostgreSQL "+major) || strings.Contains(notes, "topsecret") {
			t.Errorf("notes:\n%s", notes)
		}
		if want := "pg_ctl -D '" + strings.ReplaceAll(u.dir, "'", `'\''`) + "' start"; u.ins.Start != want {
			t.Errorf("start with %s, want %s", u.ins.Start, want)
		}
	})
}

// Debian keeps the configuration in /etc: the data directory has none. The
// source ran with more connections than the default, which a hot standby may
// not go below.
func TestAUsersServerStartsWithoutTheSourcesConfiguration(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.det.Settings["max_connections"] = "123"
		r.det.ConfFiles = []ConfFile{{Name: mainConf, Path: "/etc/postgresql/main/postgresql.conf", Content: "data_directory = '/elsewhere'\n"}}
		r.man.Details, _ = json.Marshal(r.det)
		r.exec("insert into accounts values (1, 'only in the log')")
		plan := r.planTo(r.flushed())
		u := r.configure(plan, func(dir string) {
			for _, name := range []string{mainConf, hbaConf, "pg_ident.conf"} {
				if err := os.Remove(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(filepath.Join(dir, "pg_ident.conf"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		})
		// pg_hba.conf lets in whom the operating system knows as the role; the
		// test runs as another user.
		trust := filepath.Join(u.dir, "trust.conf")
		if err := os.WriteFile(trust, []byte("local all all trust\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := u.box.Own(t.Context(), trust); err != nil {
			t.Fatal(err)
		}
		conn := u.start("-c", "hba_file="+trust)
		u.want(conn, "select string_agg(note, ',') from accounts", "only in the log")
		u.want(conn, "show max_connections", "123")
		kept, err := os.ReadFile(filepath.Join(u.dir, sourceConfDir, mainConf))
		if err != nil || !strings.Contains(string(kept), "data_directory = '/elsewhere'") {
			t.Errorf("the source's postgresql.conf: %q, %v", kept, err)
		}
	})
}

func TestTablespacesComeBackInsideTheDataDirectory(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major)
		place := filepath.Join(r.srv.SocketDir(), "space")
		ownedLike(t, place, r.srv.DataDir())
		r.exec(fmt.Sprintf("create tablespace space location '%s'", place),
			"create table far (i int primary key, note text) tablespace space", "insert into far select i, 'x' from generate_series(1, 1000) i")
		r.backup()
		r.exec("insert into far values (1001, 'only in the log')", "create table farther (i int) tablespace space", "insert into farther values (7)")
		plan := r.planTo(r.flushed())
		before := listing(t, place)
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select count(*) from far", "1001")
		out.want(t, "select i from farther", "7")
		for _, res := range integrity(t, out.copy) {
			if res.Verdict == verdictFail {
				t.Errorf("%+v", res)
			}
		}
		if after := listing(t, place); after != before {
			t.Errorf("the source's tablespace changed:\n%s\nwas\n%s", after, before)
		}
		u := r.configure(plan, nil)
		conn := u.start()
		u.want(conn, "select count(*)::text from far", "1001")
		if notes := strings.Join(u.ins.Notes, "\n"); !strings.Contains(notes, place) {
			t.Errorf("no word of the tablespace in\n%s", notes)
		}
	})
}

func integrity(t *testing.T, c engines.Copy) []engines.CheckResult {
	t.Helper()
	results, err := c.Integrity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return results
}

// ownedLike makes a directory that belongs to whom another belongs to.
func ownedLike(t *testing.T, dir, like string) {
	t.Helper()
	info, err := os.Stat(like)
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, int(st.Uid), int(st.Gid)); err != nil {
		t.Fatal(err)
	}
}

func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
