package walrecord_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
)

const segmentSize = 16 << 20

// majors are the versions to test: HOLDFAST_TEST_PG ("13 14 15"), else the two
// that are always provisioned.
func majors() []string {
	if v := strings.Fields(os.Getenv("HOLDFAST_TEST_PG")); len(v) > 0 {
		return v
	}
	return []string{"15", "18"}
}

// server is a real one with a nasty log.
type server struct {
	t      *testing.T
	srv    *pgserver.Server
	sql    *pgx.Conn
	number int // of the major version
	xids   []truth
	points map[string]uint64 // restore points, and the ends of their records
}

// truth is what the workload knows of a transaction of its own.
type truth struct {
	xid    uint32
	commit bool
	subs   []uint32
}

func startServer(t *testing.T, major string) *server {
	t.Helper()
	n, err := strconv.Atoi(major)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, number: n, points: map[string]uint64{}}
	s.srv = pgtest.Start(t, major, pgserver.Options{Conf: map[string]string{
		"wal_level": "logical", "max_prepared_transactions": "10", "wal_keep_size": "4GB", "autovacuum": "off",
		"timezone": "UTC", "log_timezone": "UTC", "checkpoint_timeout": "1h", "max_wal_size": "8GB",
	}})
	s.connect()
	return s
}

func (s *server) connect() {
	s.t.Helper()
	var err error
	if s.sql, err = pgx.Connect(s.t.Context(), s.srv.AdminURL()); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = s.sql.Close(context.Background()) })
}

func (s *server) exec(queries ...string) {
	s.t.Helper()
	for _, q := range queries {
		if _, err := s.sql.Exec(s.t.Context(), q); err != nil {
			s.t.Fatalf("%s: %v", q, err)
		}
	}
}

func (s *server) text(query string) (v string) {
	s.t.Helper()
	if err := s.sql.QueryRow(s.t.Context(), query).Scan(&v); err != nil {
		s.t.Fatalf("%s: %v", query, err)
	}
	return v
}

func (s *server) xid() uint32 {
	s.t.Helper()
	n, err := strconv.ParseUint(s.text("select txid_current()::text"), 10, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return uint32(n)
}

func (s *server) point(name string) {
	s.t.Helper()
	s.points[name] = lsn(s.t, s.text(fmt.Sprintf("select pg_create_restore_point('%s')::text", name)))
}

// end is where a record ends that is flushed. The flush position itself may
// lie inside a record, for the WAL writer flushes whole blocks; a restore
// point is not flushed, but the commit behind it is.
func (s *server) end() uint64 {
	s.t.Helper()
	end := lsn(s.t, s.text("select pg_create_restore_point('end')::text"))
	s.exec("insert into t values (9, 'flushed')")
	return end
}

func lsn(t *testing.T, text string) uint64 {
	t.Helper()
	var hi, lo uint64
	if _, err := fmt.Sscanf(text, "%X/%X", &hi, &lo); err != nil {
		t.Fatalf("position %q: %v", text, err)
	}
	return hi<<32 | lo
}

func show(p uint64) string { return fmt.Sprintf("%X/%X", p>>32, uint32(p)) }

// workload writes every kind of record that the walker decodes, records over
// many segments, and rounds×1,000 small ones.
func (s *server) workload(rounds int) {
	s.t.Helper()
	s.exec("create table if not exists t (id int, note text)", "create index if not exists t_id on t (id)",
		"do $$ begin perform pg_replication_origin_create('elsewhere'); exception when others then null; end $$")
	for n := range rounds {
		s.subtransactions()
		s.prepared(n)
		s.exec(fmt.Sprintf("insert into t select i, repeat('x', i %% 100) from generate_series(1, %d) i", 1000))
		s.exec("begin", "delete from t where id % 7 = 0")
		gone := s.xid()
		s.exec("rollback")
		s.xids = append(s.xids, truth{xid: gone})
		s.point(fmt.Sprintf("point %d", n))
		s.exec("create table many (i int primary key, a text, b text)", "create table many2 (i int primary key, a text)", "drop table many, many2", "checkpoint")
		s.exec(fmt.Sprintf("select pg_logical_emit_message(false, 'm', repeat('y', %d))", []int{10, 9000, 17 << 20, 40 << 20}[n%4]))
		if n%2 == 1 {
			s.exec("select pg_switch_wal()")
		}
		s.origin()
	}
	s.exec("vacuum t", "select pg_switch_wal()", "insert into t values (0, 'the end')")
}

func (s *server) subtransactions() {
	s.exec("begin", "insert into t values (1, 'top')")
	tr := truth{xid: s.xid(), commit: true}
	for range 70 { // more than an assignment record gathers
		s.exec("savepoint s", "insert into t values (2, 'sub')")
		n, err := strconv.ParseUint(s.text("select max(xmin::text::int8)::text from t where id = 2"), 10, 32)
		if err != nil {
			s.t.Fatal(err)
		}
		tr.subs = append(tr.subs, uint32(n))
	}
	s.exec("savepoint gone", "insert into t values (3, 'sub')", "rollback to gone", "commit", "delete from t where id = 2")
	s.xids = append(s.xids, tr)
}

func (s *server) prepared(n int) {
	for i, end := range []string{"commit prepared", "rollback prepared"} {
		s.exec("begin", "insert into t values (4, 'prepared')", "savepoint s", "insert into t values (5, 'sub')")
		s.xids = append(s.xids, truth{xid: s.xid(), commit: i == 0})
		gid := fmt.Sprintf("'gid %d-%d'", n, i)
		s.exec("prepare transaction "+gid, "insert into t values (6, 'between')", end+" "+gid)
	}
}

func (s *server) origin() {
	s.exec("select pg_replication_origin_session_setup('elsewhere')", "begin",
		"select pg_replication_origin_xact_setup('0/1234', '2020-02-03 04:05:06.789+00')", "insert into t values (7, 'from elsewhere')")
	s.xids = append(s.xids, truth{xid: s.xid(), commit: true})
	s.exec("commit", "select pg_replication_origin_session_reset()")
}

// log reads [from, to) of timeline 1 from the server's files; to 0 means
// everything the files have, beyond what was written too.
func (s *server) log(from, to uint64) []byte {
	s.t.Helper()
	var out []byte
	for seg := from / segmentSize; to == 0 || seg*segmentSize < to; seg++ {
		b, err := os.ReadFile(filepath.Join(s.srv.DataDir(), "pg_wal", fmt.Sprintf("%08X%08X%08X", 1, seg/256, seg%256)))
		if os.IsNotExist(err) && to == 0 {
			break
		}
		if err != nil {
			s.t.Fatal(err)
		}
		out = append(out, b...)
	}
	out = out[from%segmentSize:]
	if to != 0 {
		out = out[:to-from]
	}
	return out
}

// seen is a record as the walker saw it.
type seen struct {
	walrecord.Record
	event walrecord.Event
	err   error
}

// walk feeds log to a walker, in pieces of up to piece bytes (0: whole).
func walk(w *walrecord.Walker, log []byte, piece int, rnd *rand.Rand) ([]seen, error) {
	var out []seen
	for len(log) > 0 {
		n := len(log)
		if piece > 0 {
			n = min(n, 1+rnd.IntN(piece))
		}
		err := w.Walk(log[:n], func(r *walrecord.Record) error {
			s := seen{Record: *r}
			s.event, s.err = r.Decode(0)
			s.event.Subs = slices.Clone(s.event.Subs)
			s.Body = nil
			out = append(out, s)
			return nil
		})
		if err != nil {
			return out, err
		}
		log = log[n:]
	}
	return out, nil
}

func newWalker(t *testing.T, at uint64, atRecord bool) *walrecord.Walker {
	t.Helper()
	w, err := walrecord.New(segmentSize, at, atRecord)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func stamp(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05.000000 UTC") }
