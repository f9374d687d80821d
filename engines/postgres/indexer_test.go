package postgres

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
	"github.com/holdfastdb/holdfast/testcontainers/pgtest"
)

const testSegment = 16 << 20

// marked is a record of a log that somebody may look for.
type marked struct {
	mark  repo.Mark
	last  repo.Position
	ids   []uint64
	named bool
}

// readMarks walks a log at once, without the indexer.
func readMarks(t *testing.T, log []byte, from repo.Position) (out []marked) {
	t.Helper()
	w, err := walrecord.New(testSegment, uint64(from), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Walk(log, func(r *walrecord.Record) error {
		e, err := r.Decode(0)
		if err != nil {
			return err
		}
		m := marked{last: repo.Position(r.Last), ids: []uint64{uint64(e.XID)}}
		if m.mark, m.named = markOf(r, &e); !m.named {
			m.mark.Start = repo.Position(r.Start)
		}
		for s := e.Subs; len(s) >= 4; s = s[4:] {
			m.ids = append(m.ids, uint64(s[0])|uint64(s[1])<<8|uint64(s[2])<<16|uint64(s[3])<<24)
		}
		out = append(out, m)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// indexOf is what the index of [from, to) must say.
func indexOf(all []marked, from, to repo.Position) (x repo.LogIndex) {
	x.Complete = true
	i, _ := slices.BinarySearchFunc(all, from, func(m marked, p repo.Position) int { return cmp.Compare(m.last, p) })
	for _, m := range all[i:] {
		if m.mark.Start >= to {
			break
		}
		if x.First == 0 && m.mark.Start >= from && m.mark.Start < to {
			x.First = m.mark.Start
		}
		if m.last < from || m.last >= to || !m.named {
			continue
		}
		mark := m.mark
		if !endsTransaction(&mark) {
			x.Marks = append(x.Marks, mark)
			continue
		}
		x.Aborts++
		if mark.Kind == repo.MarkCommit {
			x.Aborts--
			x.Commits++
			x.LastCommit = &mark
			if x.FirstCommit == nil {
				x.FirstCommit = &mark
			}
		}
		if x.MinTime.IsZero() || mark.Time.Before(x.MinTime) {
			x.MinTime = mark.Time
		}
		if mark.Time.After(x.MaxTime) {
			x.MaxTime = mark.Time
		}
		if lo := slices.Min(m.ids); x.MinID == 0 || lo < x.MinID {
			x.MinID = lo
		}
		x.MaxID = max(x.MaxID, slices.Max(m.ids))
	}
	return x
}

// variedLog is real log with everything an index counts, from a segment's
// start on.
func variedLog(t *testing.T) (log []byte, from repo.Position) {
	t.Helper()
	s := newSite(t, "15", map[string]string{"wal_keep_size": "1GB", "max_prepared_transactions": "5"}, "create table t (x int)")
	from = segmentStart(s.flushLog(), testSegment)
	for n := range 40 {
		s.exec("begin", "insert into t values (1)", "savepoint s", "insert into t values (2)", "commit",
			"begin", "insert into t values (3)", "rollback",
			fmt.Sprintf("insert into t select generate_series(1, %d)", n*50), fmt.Sprintf("select pg_create_restore_point('point %d')", n),
			"begin", "insert into t values (4)", "prepare transaction 'p'", "insert into t values (5)", "commit prepared 'p'")
		if n%10 == 9 {
			s.exec("checkpoint", fmt.Sprintf("select pg_logical_emit_message(true, 'm', repeat('y', %d))", n*150_000), "select pg_switch_wal()")
		}
	}
	s.exec("select pg_create_restore_point(i::text) from generate_series(1, 300) i", "insert into t values (6)")
	to := s.position("select pg_current_wal_flush_lsn()::text")
	return s.serverLog(1, from, to), from
}

// TestTheIndexOfEveryPiece of a real log, cut anywhere.
func TestTheIndexOfEveryPiece(t *testing.T) {
	log, from := variedLog(t)
	all, to := readMarks(t, log, from), from+repo.Position(len(log))
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 9 {
		begin := from + repo.Position(rnd.IntN(len(log)/4))
		at, piece := from, begin
		ix := newIndexer(rootBranch(1), testSegment, begin)
		if round%3 == 1 { // led up to from a block in the midst
			i, _ := slices.BinarySearchFunc(all, begin, func(m marked, p repo.Position) int { return cmp.Compare(m.mark.Start, p) })
			at = all[max(0, i-1)].mark.Start / walrecord.BlockSize * walrecord.BlockSize
		}
		full := 0
		for at < to {
			n := min(repo.Position(1+rnd.IntN([]int{2000, 60_000, 4 << 20}[round%3])), to-at)
			ix.Add(at, log[at-from:at-from+n])
			if at += n; at <= begin || rnd.IntN(3) == 0 && at < to {
				continue
			}
			got, want := ix.Cut(), indexOf(all, piece, at)
			if len(want.Marks) > maxMarks {
				full++
				want.Marks, got.Marks = nil, nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d, [%s, %s):\n%+v\nwant\n%+v", round, FormatLSN(piece), FormatLSN(at), got, want)
			}
			piece = at
		}
		if piece != to {
			t.Fatalf("cut up to %s of %s", FormatLSN(piece), FormatLSN(to))
		}
	}
}

// TestAnIndexThatIsNotComplete says so, until it is again.
func TestAnIndexThatIsNotComplete(t *testing.T) {
	log, from := variedLog(t)
	all := readMarks(t, log, from)
	at := all[len(all)/3].mark.Start // in the midst of a block
	if at%walrecord.BlockSize == 0 {
		at += 8
	}
	wants := func(what string, got []bool, want ...bool) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: complete %v, want %v", what, got, want)
		}
	}
	// run gives pieces of a log that begins at p to an indexer.
	run := func(b repo.Branch, begin, p repo.Position, pieces ...[]byte) (out []bool) {
		ix := newIndexer(b, testSegment, begin)
		for _, piece := range pieces {
			ix.Add(p, piece)
			p += repo.Position(len(piece))
			got, want := ix.Cut(), indexOf(all, p-repo.Position(len(piece)), p)
			out = append(out, got.Complete)
			if want.Marks = nil; got.Complete && (got.Commits != want.Commits || got.Aborts != want.Aborts || got.First != want.First) {
				t.Errorf("complete, but %+v; want %+v", got, want)
			}
		}
		return out
	}
	rest := log[at-from:]
	block := walrecord.BlockSize - int(at%walrecord.BlockSize)
	wants("no lead-up", run(rootBranch(1), at, at, rest[:10], rest[10:block-1], rest[block-1:block+9000], rest[block+9000:]), false, false, false, true)
	wants("at a fork", run(repo.Branch{ID: "x", Parent: "y", Fork: at}, at, at, rest[:10], rest[10:]), true, true)
	wants("wrong segment size", func() []bool {
		ix := newIndexer(rootBranch(1), 3, from)
		ix.Add(from, log)
		return []bool{ix.Cut().Complete}
	}(), false)

	broken := slices.Clone(log)
	broken[at-from+40] ^= 1 // in a record, or its successor
	q := int(at-from) / walrecord.BlockSize * walrecord.BlockSize
	wants("invalid bytes", run(rootBranch(1), from, from, broken[:q], broken[q:q+20000], broken[q+20000:q+90000], broken[q+90000:]), true, false, true, true)

	ix := newIndexer(rootBranch(1), testSegment, from)
	ix.Add(from, log[:100_000])
	first := ix.Cut()
	ix.Add(from+200_000, log[200_000:300_000])
	second := ix.Cut()
	wants("a hole", []bool{first.Complete, second.Complete}, true, false)
}

// TestRestorePointsComeFirst where there are too many marks.
func TestRestorePointsComeFirst(t *testing.T) {
	ix := newIndexer(rootBranch(1), testSegment, 0).(*indexer)
	for n := range 600 {
		kind := repo.MarkCheckpoint
		if n%2 == 1 {
			kind = repo.MarkRestorePoint
		}
		ix.mark(repo.Mark{Kind: kind, Start: repo.Position(n)})
	}
	var points int
	for i, m := range ix.index.Marks {
		if m.Kind == repo.MarkRestorePoint {
			points++
		}
		if i > 0 && m.Start <= ix.index.Marks[i-1].Start {
			t.Error("not in order")
		}
	}
	if points != maxMarks || len(ix.index.Marks) != maxMarks {
		t.Errorf("%d restore points in %d marks", points, len(ix.index.Marks))
	}
}

// TestAPromotionEndsABranch in the index of the next.
func TestAPromotionEndsABranch(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, keepLog, "create table t (x int)")
		s.becomeStandby()
		s.promote()
		s.exec("insert into t values (1)")
		end := s.position("select pg_current_wal_flush_lsn()::text")
		id, err := s.source().Identify(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		fork := id.Branch.Fork
		ix := newIndexer(id.Branch, testSegment, fork)
		ix.Add(fork, s.serverLog(2, fork, end))
		x := ix.Cut()
		if !x.Complete || x.First != nextRecord(fork) || x.Commits != 1 || len(x.Marks) == 0 || x.Marks[0].Kind != repo.MarkBranchEnd || x.Marks[0].Start != x.First || x.Marks[0].Time.IsZero() {
			t.Errorf("%+v", x)
		}
	})
}

// nextRecord is where a record begins that does not begin before p.
func nextRecord(p repo.Position) repo.Position {
	switch {
	case p%testSegment == 0:
		return p + 40
	case p%walrecord.BlockSize == 0:
		return p + 24
	}
	return p
}

// BenchmarkIndexer over a real log of small transactions.
func BenchmarkIndexer(b *testing.B) {
	srv := pgtest.Start(b, "15", pgserver.Options{Conf: keepLog, SQL: []string{"create table t (x int, y text)", "select pg_switch_wal()",
		"do $$ begin for n in 1..100000 loop insert into t values (n, repeat('y', n % 200)); commit; end loop; end $$", "select pg_switch_wal()"}})
	file, err := os.ReadFile(filepath.Join(srv.DataDir(), "pg_wal", "000000010000000000000002"))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	var commits int64
	for b.Loop() {
		ix := newIndexer(rootBranch(1), testSegment, 2*testSegment)
		for at := 0; at < len(file); at += 128 << 10 {
			ix.Add(repo.Position(2*testSegment+at), file[at:at+128<<10])
		}
		x := ix.Cut()
		commits = x.Commits
	}
	b.ReportMetric(float64(commits), "commits/op")
}
