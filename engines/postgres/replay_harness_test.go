package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
	"github.com/holdfastdb/holdfast/wal"
)

// majors are the versions every replay test runs on.
var majors = []string{"15", "18"}

func onMajors(t *testing.T, f func(t *testing.T, major string)) {
	for _, major := range majors {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			f(t, major)
		})
	}
}

// rig is a source with a base backup made by hand, through the low-level API,
// so that these tests do not depend on how we take backups.
type rig struct {
	t     *testing.T
	major string
	srv   *pgserver.Server
	sql   *pgx.Conn
	base  string // pristine files
	man   repo.Manifest
	det   Details
}

func newRig(t *testing.T, major string, setup ...string) *rig {
	t.Helper()
	r := &rig{t: t, major: major}
	r.start(setup, nil)
	return r
}

// start starts the source. Its connection is made before what setup does to
// new ones.
func (r *rig) start(setup []string, conf map[string]string) {
	r.t.Helper()
	all := map[string]string{"wal_keep_size": "1GB"}
	maps.Copy(all, conf)
	r.srv = pgtest.Start(r.t, r.major, pgserver.Options{Conf: all})
	r.sql = connectTo(r.t, r.srv.AdminURL())
	r.exec(setup...)
}

func connectTo(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (r *rig) exec(queries ...string) {
	r.t.Helper()
	for _, q := range queries {
		if _, err := r.sql.Exec(r.t.Context(), q); err != nil {
			r.t.Fatalf("%s: %v", q, err)
		}
	}
}

func (r *rig) text(query string) (s string) {
	r.t.Helper()
	if err := r.sql.QueryRow(r.t.Context(), query).Scan(&s); err != nil {
		r.t.Fatalf("%s: %v", query, err)
	}
	return s
}

func (r *rig) lsn(query string) repo.Position {
	r.t.Helper()
	p, err := ParseLSN(r.text(query))
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// now is the source's clock.
func (r *rig) now() (at time.Time) {
	r.t.Helper()
	if err := r.sql.QueryRow(r.t.Context(), "select clock_timestamp()").Scan(&at); err != nil {
		r.t.Fatal(err)
	}
	return at
}

// backup copies the data directory between backup start and stop.
func (r *rig) backup() {
	r.t.Helper()
	ctx := r.t.Context()
	var err error
	if r.det.Settings, err = readSettings(ctx, r.sql); err != nil {
		r.t.Fatal(err)
	}
	if err := r.sql.QueryRow(ctx, "select current_setting('server_version'), current_setting('server_version_num')::int").Scan(&r.det.Version, &r.det.VersionNum); err != nil {
		r.t.Fatal(err)
	}
	r.det.BootstrapUser, r.det.WALSegmentSize = "postgres", 16<<20
	rows, err := r.sql.Query(ctx, "select oid, pg_tablespace_location(oid), 0::int8 from pg_tablespace where spcname !~ '^pg_'")
	if err != nil {
		r.t.Fatal(err)
	}
	if r.det.Tablespaces, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Tablespace]); err != nil {
		r.t.Fatal(err)
	}
	r.man = repo.Manifest{ID: "hand-made", Engine: "postgres", Branch: rootBranch(1).ID, StartTime: r.now()}
	r.man.Start = r.lsn("select pg_backup_start('test', true)::text")
	r.base = filepath.Join(r.t.TempDir(), "base")
	copyTree(r.t, r.srv.DataDir(), r.base, func(rel string) bool {
		return strings.HasPrefix(rel, "pg_wal/") || strings.HasPrefix(rel, "postmaster.") || strings.HasPrefix(rel, "pg_dynshmem/")
	})
	var stop, label string
	if err := r.sql.QueryRow(ctx, "select lsn::text, labelfile from pg_backup_stop(false)").Scan(&stop, &label); err != nil {
		r.t.Fatal(err)
	}
	if r.man.Stop, err = ParseLSN(stop); err != nil {
		r.t.Fatal(err)
	}
	r.man.StopTime = r.now()
	r.man.LogFrom = segmentStart(r.man.Start, r.det.WALSegmentSize)
	if err := os.WriteFile(filepath.Join(r.base, "backup_label"), []byte(label), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if r.man.Details, err = json.Marshal(r.det); err != nil {
		r.t.Fatal(err)
	}
}

// copyTree copies files and directories; a tablespace's link is followed, as
// our backups do.
func copyTree(t *testing.T, from, to string, skip func(rel string) bool) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(from, path)
		if skip != nil && skip(rel) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		dst := filepath.Join(to, rel)
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		switch {
		case d.Type()&fs.ModeSymlink != 0:
			real, err := filepath.EvalSymlinks(path)
			if err != nil {
				return err
			}
			copyTree(t, real, dst, nil)
			return nil
		case info.IsDir():
			return os.MkdirAll(dst, 0o700)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(dst, b, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// planTo is a plan on timeline 1 from the base to a position.
func (r *rig) planTo(to repo.Position) *engines.RestorePlan {
	return &engines.RestorePlan{Base: r.man, Log: &wal.Plan{Legs: []wal.Leg{{Branch: rootBranch(1), From: r.man.LogFrom, To: to}}}}
}

// flushed is the end of the source's log on disk.
func (r *rig) flushed() repo.Position { return r.lsn("select pg_current_wal_flush_lsn()::text") }

// walDirs is a log read from servers' pg_wal directories.
type walDirs struct {
	legs  []wal.Leg
	dirs  map[string]string // branch id → pg_wal
	spoil func(branch string, at repo.Position, b []byte) error
}

func (w *walDirs) Copy(_ context.Context, _ string, from, to wal.Position, out io.Writer) error {
	const size = 16 << 20
	for from < to {
		leg := w.legs[len(w.legs)-1]
		for _, l := range w.legs {
			if from < l.To {
				leg = l
				break
			}
		}
		end := min(to, leg.To, segmentStart(from, size)+size)
		name := walNameAt(uint32(leg.Branch.Number), from, size)
		b, err := os.ReadFile(filepath.Join(w.dirs[leg.Branch.ID], name.format(size)))
		if err != nil {
			return err
		}
		b = b[from-name.start(size) : end-name.start(size)]
		if w.spoil != nil {
			if err := w.spoil(leg.Branch.ID, from, b); err != nil {
				return err
			}
		}
		if _, err := out.Write(b); err != nil {
			return err
		}
		from = end
	}
	return nil
}

func (r *rig) log(p *engines.RestorePlan) *walDirs {
	return &walDirs{legs: p.Log.Legs, dirs: map[string]string{rootBranch(1).ID: filepath.Join(r.srv.DataDir(), "pg_wal")}}
}

// run is one replay and what it told.
type run struct {
	copy   *pgCopy
	phases []string
	log    bytes.Buffer
	dir    string
}

// replay copies the base into a fresh sandbox and replays there.
func (r *rig) replay(p *engines.RestorePlan, log logCopier) (*run, error) {
	r.t.Helper()
	box := newBox(r.t, r.major)
	out := &run{dir: filepath.Join(box.Dir(), "data")}
	copyTree(r.t, r.base, out.dir, nil)
	f, err := newFeed(p.Log, r.det.WALSegmentSize, log)
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Minute)
	defer cancel()
	c, err := newRestorer().Replay(ctx, engines.ReplayRequest{
		Plan: p, Dir: out.dir, Sandbox: box, Feed: f, Binary: self, Output: &out.log,
		Log: slog.New(slog.DiscardHandler), Phase: func(name string) { out.phases = append(out.phases, name) },
	})
	r.t.Cleanup(func() {
		if r.t.Failed() {
			r.t.Logf("log of the copy:\n%s", out.log.String())
		}
	})
	if err != nil {
		return out, err
	}
	out.copy = c.(*pgCopy)
	r.t.Cleanup(func() {
		if err := c.Close(context.Background()); err != nil {
			r.t.Errorf("close the copy: %v", err)
		}
	})
	return out, nil
}

func newBox(t *testing.T, major string) testcontainers.Sandbox {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	box, err := testcontainers.NewProcess(log, testcontainers.Finder{Getenv: os.Getenv}).
		Provision(t.Context(), testcontainers.Spec{Engine: "postgres", Version: major, Dir: os.TempDir(), Label: "postgres-test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := box.Remove(context.Background(), 10*time.Second); err != nil {
			t.Errorf("remove the sandbox: %v", err)
		}
	})
	return box
}

// want fails the test unless a query on the copy has this answer.
func (o *run) want(t *testing.T, query, answer string) {
	t.Helper()
	got, err := o.copy.Query(t.Context(), "", query)
	if err != nil || got != answer {
		t.Errorf("%s: %q, %v; want %q", query, got, err, answer)
	}
}

// neverPromoted fails the test if the copy in dir began a timeline.
func (o *run) neverPromoted(t *testing.T) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(o.dir, "pg_wal", "*"+historySuffix))
	if err != nil || len(found) > 0 {
		t.Errorf("the copy promoted itself: %v %v", found, err)
	}
	if strings.Contains(o.log.String(), logOpen) {
		t.Error("the copy opened")
	}
}

func leg(b repo.Branch, from, to repo.Position) wal.Leg {
	return wal.Leg{Branch: b, From: from, To: to}
}

// branchesOf reads a promoted server's history file.
func branchesOf(t *testing.T, file string) []repo.Branch {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	path, err := branchPath(2, b)
	if err != nil {
		t.Fatal(err)
	}
	return path
}
