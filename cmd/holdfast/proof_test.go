package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A backup under write load, the log streaming beside it: the restored copy
// equals the source, table by table, and holds rows that exist only in the log.
func TestBackupUnderLoadRestoresExactly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream("--flush-every", "1s")
		w := s.workload(2)
		s.must(append([]string{"backup"}, s.source()...)...)
		s.exec(`create table only_in_log (x int)`, `insert into only_in_log select generate_series(1, 1234)`)
		time.Sleep(time.Second)
		w.stop()
		s.archived()
		st.signal(syscall.SIGTERM)
		if code := st.wait(); code != 0 {
			t.Fatalf("stream ended with %d:\n%s", code, st.out)
		}
		want := s.fingerprint(s.server.AdminURL())
		if err := s.server.Kill9(s.ctx); err != nil {
			t.Fatal(err)
		}

		s.must("restore", databaseName, "--to", s.path("copy"))
		c := s.boot(s.path("copy"))
		defer c.stop()
		rows := s.invariants(c.url())
		s.holdsAll(c.url(), w)
		if got := s.fingerprint(c.url()); got != want {
			t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", want, got)
		}
		if !strings.Contains(want, "public.only_in_log 1234") {
			t.Errorf("the table that exists only in the log is not in the comparison:\n%s", want)
		}
		t.Logf("%d numbered commits", rows)
	})
}

// A dropped table comes back by time, with exactly the commits before it.
func TestDroppedTableComesBackByTime(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		s := newSite(t, major)
		s.exec(schema...)
		st := s.stream("--flush-every", "500ms")
		s.must(append([]string{"backup"}, s.source()...)...)
		w := s.workload(2)
		time.Sleep(time.Second)
		var before time.Time
		s.query(s.server.AdminURL(), `select clock_timestamp()`, &before)
		time.Sleep(20 * time.Millisecond)
		s.exec(`drop table filler`)
		time.Sleep(time.Second)
		w.stop()
		var wantRows int64
		s.query(s.server.AdminURL(), fmt.Sprintf(`select count(*) from ledger where at < '%s'`, before.Format(time.RFC3339Nano)), &wantRows)
		s.archived()
		st.signal(syscall.SIGINT)
		st.wait()

		s.must("restore", databaseName, "--to", s.path("copy"), "--target-time", before.Format(time.RFC3339Nano))
		c := s.boot(s.path("copy"))
		defer c.stop()
		s.invariants(c.url())
		var filler, after, rows int64
		s.query(c.url(), `select count(*) from filler`, &filler)
		s.query(c.url(), fmt.Sprintf(`select count(*) filter (where at >= '%s'), count(*) from ledger`, before.Format(time.RFC3339Nano)), &after, &rows)
		if filler != 20000 || after != 0 {
			t.Errorf("filler has %d rows (want 20000), %d ledger rows are from after the target", filler, after)
		}
		// A row's own clock is read a moment before its commit: the last one
		// or two may have committed after the target.
		if rows > wantRows || rows < wantRows-2 {
			t.Errorf("the copy has %d ledger rows, the source had %d by then", rows, wantRows)
		}
	})
}
