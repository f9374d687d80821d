package walrecord_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/underrace"
)

// told is a record as the server's own tools tell it.
type told struct {
	start, prev uint64
	length, xid uint32
	rm, desc    string
}

// managers are the names of resource managers by number (access/rmgrlist.h).
var managers = strings.Fields("XLOG Transaction Storage CLOG Database Tablespace MultiXact RelMap Standby Heap2 Heap " +
	"Btree Hash Gin Gist Sequence SPGist BRIN CommitTs ReplicationOrigin Generic LogicalMessage")

var dumpLine = regexp.MustCompile(`^rmgr: (\S+) +len \(rec/tot\): +\d+/ *(\d+), tx: +(\d+), lsn: (\S+), prev (\S+), desc: (.*)$`)

// waldump asks pg_waldump of version 15.
func (s *server) waldump(from, to uint64) []told {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), "/usr/lib/postgresql/15/bin/pg_waldump", "-p", filepath.Join(s.srv.DataDir(), "pg_wal"), "-s", show(from), "-e", show(to))
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatal(err)
	}
	var list []told
	for line := range strings.Lines(string(out)) {
		m := dumpLine.FindStringSubmatch(strings.TrimRight(line, "\n"))
		if m == nil {
			s.t.Fatalf("pg_waldump says %q", line)
		}
		list = append(list, told{start: lsn(s.t, m[4]), prev: lsn(s.t, m[5]), length: number(s.t, m[2]), xid: number(s.t, m[3]), rm: m[1], desc: m[6]})
	}
	return list
}

// walinspect asks the running server, which knows how since 15.
func (s *server) walinspect(from, to uint64) []told {
	s.t.Helper()
	s.exec("create extension if not exists pg_walinspect")
	rows, err := s.sql.Query(s.t.Context(), `select start_lsn::text, prev_lsn::text, record_length::int8, xid::text, resource_manager,
		case when resource_manager in ('XLOG', 'Transaction') then record_type || ' ' || coalesce(description, '') else '' end
		from pg_get_wal_records_info($1, $2)`, show(from), show(to))
	if err != nil {
		s.t.Fatal(err)
	}
	defer rows.Close()
	var list []told
	for rows.Next() {
		var start, prev, xid, rm, desc string
		var length int64
		if err := rows.Scan(&start, &prev, &length, &xid, &rm, &desc); err != nil {
			s.t.Fatal(err)
		}
		list = append(list, told{start: lsn(s.t, start), prev: lsn(s.t, prev), length: uint32(length), xid: number(s.t, xid), rm: rm, desc: asDumped(desc)})
	}
	if err := rows.Err(); err != nil {
		s.t.Fatal(err)
	}
	return list
}

var serverTime = regexp.MustCompile(`(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(\.\d+)?\+00\b`)

// asDumped writes times as pg_waldump does.
func asDumped(desc string) string {
	return serverTime.ReplaceAllStringFunc(desc, func(at string) string {
		m := serverTime.FindStringSubmatch(at)
		return m[1] + (m[2] + ".000000"[len(m[2]):]) + " UTC"
	})
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}

// describe says of a record what the server's tools say, in their words; ""
// for what the walker does not decode.
func describe(s *seen) (op string, parts []string) {
	e := &s.event
	switch e.Kind {
	case walrecord.Commit, walrecord.Abort:
		op = "COMMIT"
		if e.Kind == walrecord.Abort {
			op = "ABORT"
		}
		parts = []string{stamp(e.Time)}
		if e.Prepared {
			op += "_PREPARED"
			parts[0] = fmt.Sprintf("%d: %s", e.XID, stamp(e.Time))
		}
		if len(e.Subs) > 0 {
			text := "; subxacts:"
			for i := 0; i < len(e.Subs); i += 4 {
				text += fmt.Sprintf(" %d", uint32(e.Subs[i])|uint32(e.Subs[i+1])<<8|uint32(e.Subs[i+2])<<16|uint32(e.Subs[i+3])<<24)
			}
			parts = append(parts, text)
		}
		if e.Origin != 0 {
			parts = append(parts, fmt.Sprintf("lsn %s, at %s", show(e.Origin), stamp(e.OriginTime)))
		}
	case walrecord.Prepare:
		op, parts = "PREPARE", []string{stamp(e.Time)}
		if e.GID != "" { // unknown where no block header was seen
			parts[0] = fmt.Sprintf("gid %s: %s", e.GID, stamp(e.Time))
		}
	case walrecord.RestorePoint:
		op, parts = "RESTORE_POINT", []string{e.Name}
	case walrecord.CheckpointOnline, walrecord.CheckpointShutdown:
		op = "CHECKPOINT_ONLINE"
		if e.Kind == walrecord.CheckpointShutdown {
			op = "CHECKPOINT_SHUTDOWN"
		}
		parts = []string{fmt.Sprintf("redo %s; tli %d; prev tli %d;", show(e.Redo), e.Timeline, e.PrevTLI), fmt.Sprintf("; xid %d:%d;", e.NextXID>>32, uint32(e.NextXID))}
	case walrecord.Switch:
		op = "SWITCH"
	case walrecord.EndOfRecovery:
		op, parts = "END_OF_RECOVERY", []string{fmt.Sprintf("tli %d; prev tli %d; time %s", e.Timeline, e.PrevTLI, stamp(e.Time))}
	case walrecord.BackupEnd:
		op, parts = "BACKUP_END", []string{show(e.Redo)}
	}
	return op, parts
}

// decoded are the operations that no record of another kind may have.
var decoded = []string{"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED", "PREPARE", "RESTORE_POINT", "CHECKPOINT_ONLINE",
	"CHECKPOINT_SHUTDOWN", "SWITCH", "END_OF_RECOVERY", "BACKUP_END", "OVERWRITE_CONTRECORD"}

// compare fails where walker and server disagree.
func compare(t *testing.T, what string, got []seen, want []told) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		g, w := &got[i], &want[i]
		if g.err != nil {
			t.Fatalf("%s: record at %s: %v", what, show(g.Start), g.err)
		}
		if g.Start != w.start || g.Length != w.length || g.Prev != w.prev || g.XID != w.xid || managers[g.RM] != w.rm {
			t.Fatalf("%s: record %d: the walker says %s, %d bytes, prev %s, xid %d, %s; the server %s, %d, %s, %d, %s", what, i,
				show(g.Start), g.Length, show(g.Prev), g.XID, managers[g.RM], show(w.start), w.length, show(w.prev), w.xid, w.rm)
		}
		if i > 0 && got[i-1].Next != g.Start {
			t.Fatalf("%s: record %d begins at %s, not at %s, where the one before said", what, i, show(g.Start), show(got[i-1].Next))
		}
		if w.rm != "XLOG" && w.rm != "Transaction" {
			continue
		}
		op, parts := describe(g)
		if said, _, _ := strings.Cut(w.desc, " "); op != said && (op != "" || slices.Contains(decoded, said)) {
			t.Fatalf("%s: record at %s: the walker says %q, the server %q", what, show(g.Start), op, w.desc)
		}
		for _, p := range parts {
			if !strings.Contains(w.desc, p) {
				t.Fatalf("%s: record at %s: the walker says %q, the server %q", what, show(g.Start), p, w.desc)
			}
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%s: the walker sees %d records, the server %d", what, len(got), len(want))
	}
}

// TestTheWalkerSeesWhatPgWaldumpSees of the log of a real 15.
func TestTheWalkerSeesWhatPgWaldumpSees(t *testing.T) {
	s := startServer(t, "15")
	from := s.nextSegment()
	s.workload(4)
	if err := s.srv.Kill9(t.Context()); err != nil { // a crash, and a shutdown after it
		t.Fatal(err)
	}
	if err := s.srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.connect()
	s.exec("insert into t values (8, 'after a crash')")
	if err := s.srv.StopFast(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.srv.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.connect()
	to := s.end()
	want := s.waldump(from, to)
	t.Logf("%d records in %d MiB", len(want), (to-from)>>20)
	log := s.log(from, to)
	agree(t, log, from, want)

	// The files go on with zeros, or with what they were used for before.
	got, err := walk(newWalker(t, from, false), s.log(from, 0), 0, nil)
	if len(got) < len(want) {
		t.Fatal(len(got), err)
	}
	compare(t, "in the files", got[:len(want)], want)
	var end *walrecord.EndError
	if last := got[len(got)-1]; !errors.As(err, &end) || end.At != last.Next || len(s.waldump(last.Start, end.At)) != 1 {
		t.Errorf("the log ends with %v, its last record at %s", err, show(last.Start))
	}
	t.Log(err)
}

// nextSegment starts a new segment and says where it begins.
func (s *server) nextSegment() uint64 {
	s.t.Helper()
	s.exec("select pg_switch_wal()", "create table if not exists t (id int, note text)")
	return s.end() / segmentSize * segmentSize
}

// agree walks in every manner.
func agree(t *testing.T, log []byte, from uint64, want []told) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	to := from + uint64(len(log))
	for _, piece := range []int{0, 100, 10_000, 1 << 20} {
		got, err := walk(newWalker(t, from, false), log, piece, rnd)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, fmt.Sprintf("in pieces of up to %d", piece), got, want)
	}
	after := func(p uint64) []told {
		i, _ := slices.BinarySearchFunc(want, p, func(r told, p uint64) int { return int(int64(r.start) - int64(p)) })
		return want[i:]
	}
	for range underrace.Fewer(30) {
		at := from + rnd.Uint64N(to-from)
		if rnd.IntN(2) == 0 {
			at -= at % walrecord.BlockSize
		}
		block := (at + walrecord.BlockSize - 1) / walrecord.BlockSize * walrecord.BlockSize
		got, err := walk(newWalker(t, at, false), log[at-from:], 1<<20, rnd)
		if err != nil {
			t.Fatalf("from %s: %v", show(at), err)
		}
		compare(t, "from "+show(at), got, after(block))
		r := want[rnd.IntN(len(want))]
		got, err = walk(newWalker(t, r.start, true), log[r.start-from:], 1<<20, rnd)
		if err != nil {
			t.Fatalf("from the record at %s: %v", show(r.start), err)
		}
		compare(t, "from the record at "+show(r.start), got, after(r.start))
	}
}

// TestTheWalkerOnEveryMajor: what the workload knows on all, what the server
// tells where it can.
func TestTheWalkerOnEveryMajor(t *testing.T) {
	for _, major := range majors() {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, major)
			from := s.nextSegment()
			s.workload(4)
			to := s.end()
			log := s.log(from, to)
			w := newWalker(t, from, false)
			got, err := walk(w, log, 1<<20, rand.New(rand.NewPCG(3, 4)))
			if err != nil {
				t.Fatal(err)
			}
			if w.Major() != s.number || !w.InStep() {
				t.Errorf("the log is of version %d, in step %t", w.Major(), w.InStep())
			}
			s.known(got)
			if s.number >= 15 {
				agree(t, log, from, s.walinspect(from, to))
			}
		})
	}
}

// known compares with what the workload did.
func (s *server) known(got []seen) {
	s.t.Helper()
	ends, points, prepares := map[uint32]walrecord.Event{}, map[string]uint64{}, 0
	for _, g := range got {
		if g.err != nil {
			s.t.Fatal(g.err)
		}
		switch e := g.event; e.Kind {
		case walrecord.Commit, walrecord.Abort:
			if _, twice := ends[e.XID]; twice {
				s.t.Errorf("transaction %d ended twice", e.XID)
			}
			ends[e.XID] = e
		case walrecord.RestorePoint:
			points[e.Name] = g.End
		case walrecord.Prepare:
			if e.GID != fmt.Sprintf("gid %d-%d", prepares/2, prepares%2) {
				s.t.Errorf("prepare %d of %q", prepares, e.GID)
			}
			prepares++
		}
	}
	for _, tr := range s.xids {
		e, ok := ends[tr.xid]
		if !ok || (e.Kind == walrecord.Commit) != tr.commit {
			s.t.Errorf("transaction %+v ended as %+v", tr, e)
		}
		for _, sub := range tr.subs {
			if !e.HasSub(sub) {
				s.t.Errorf("subtransaction %d is none of %d", sub, tr.xid)
			}
		}
		if e.HasSub(tr.xid) {
			s.t.Errorf("transaction %d is its own subtransaction", tr.xid)
		}
	}
	for name, end := range s.points {
		if points[name] != end {
			s.t.Errorf("restore point %q ends at %s, not %s", name, show(points[name]), show(end))
		}
	}
}
