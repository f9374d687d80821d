package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestCheckKeep(t *testing.T) {
	const gb = 1 << 30
	for name, c := range map[string]struct {
		limit, keep string
		perHour     int64
		code, fix   string
		says        []string
	}{
		"unlimited and idle":       {"-1", "0", 0, "slot-keep-unlimited", "'4GB'", []string{"holds back 5 MiB", "0 bytes of log an hour (0.0 MB/h watched)"}},
		"unlimited and busy":       {"-1", "0", 10 * gb, "slot-keep-unlimited", "'30GB'", []string{"10 GB of log an hour (10240.0 MB/h watched)"}},
		"enough":                   {"1024", "0", gb, "", "", nil},
		"a byte less than an hour": {"1024", "0", gb + 1, "slot-keep-small", "'4GB'", []string{"is 1 GB,", "would last 1h while"}},
		"a sixth of an hour":       {"1024", "0", 6 * gb, "slot-keep-small", "'18GB'", []string{"6 GB of log an hour", "would last 10m while", "slot holdfast_x is lost"}},
		"seconds":                  {"64", "0", 180 * gb, "slot-keep-small", "'540GB'", []string{"is 64 MB,", "would last 1.3s while"}},
		"wal_keep_size helps":      {"64", "4096", 4 * gb, "", "", nil},
		"less than two segments":   {"31", "0", 0, "slot-keep-small", "'4GB'", []string{"less than two WAL segments of 16 MB"}},
		"none at all":              {"0", "0", 0, "slot-keep-small", "'4GB'", []string{"is 0 bytes,"}},
	} {
		i := inspection{slotName: "holdfast_x", slot: slotState{Bytes: 5 << 20},
			settings: map[string]string{"max_slot_wal_keep_size": c.limit, "wal_keep_size": c.keep},
			wal: walMeasure{Segment: 16 << 20, Views: []walView{
				{How: "slower", Bytes: c.perHour / 2, Over: time.Hour}, {How: "watched", Bytes: c.perHour / 60, Over: time.Minute}, {How: "none"}}}}
		if c.perHour%60 != 0 {
			i.wal.Views[1] = walView{How: "watched", Bytes: c.perHour, Over: time.Hour}
		}
		if c.perHour == 0 {
			i.wal.Views = i.wal.Views[1:2]
		}
		found := checkKeep(i)
		if c.code == "" {
			if len(found) != 0 {
				t.Errorf("%s: %+v", name, found)
			}
			continue
		}
		if len(found) != 1 || found[0].Code != c.code || found[0].Severity != severityError || !strings.Contains(found[0].Fix, c.fix) {
			t.Errorf("%s: %+v", name, found)
			continue
		}
		for _, s := range c.says {
			if !strings.Contains(found[0].Message, s) {
				t.Errorf("%s: %q is not in %q", name, s, found[0].Message)
			}
		}
	}
}

func TestViewsOfTheLog(t *testing.T) {
	v := slowerHalf([2]walView{{Bytes: 16 << 20, Over: 2 * time.Second}, {Bytes: 100, Over: 2 * time.Second}})
	if v.Bytes != 100 || v.Over != 2*time.Second || !strings.Contains(v.How, "for 4s") {
		t.Errorf("%+v", v)
	}
	if v = slowerHalf([2]walView{{Bytes: 1, Over: time.Second}, {Bytes: 3, Over: time.Second}}); v.Bytes != 1 {
		t.Errorf("%+v", v)
	}
	if r := (walView{Bytes: 5}).perHour() + (walView{Bytes: -5, Over: time.Second}).perHour(); r != 0 {
		t.Errorf("a rate of %v from nothing", r)
	}
	const segment = 16 << 20
	now := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	name := func(n uint64) string { return walName{1, n}.format(segment) }
	files := []walFile{
		{name(3), ago(2 * time.Hour)}, {name(4), ago(30 * time.Minute)}, {name(5), ago(20 * time.Minute)},
		{name(6), ago(time.Second)},      // being written
		{name(7), ago(50 * time.Minute)}, // recycled
		{"00000002.history", ago(40 * time.Minute)}, {"archive_status", ago(40 * time.Minute)},
	}
	end := repo.Position(6*segment + 1000)
	got := walByFiles(files, segment, end, now)
	if len(got) != 1 || got[0].Bytes != segment+1000 || got[0].Over != 30*time.Minute || got[0].How != "over the last 30m by the files in pg_wal" {
		t.Errorf("%+v", got)
	}
	if got := walByFiles(files[:1], segment, end, now); got != nil {
		t.Errorf("from a file of old: %+v", got)
	}
	if got := walByFiles([]walFile{{name(5), ago(59 * time.Second)}}, segment, end, now); got != nil {
		t.Errorf("from too short a past: %+v", got)
	}
	if got := walByFiles([]walFile{{name(5), now.Add(time.Hour)}}, segment, end, now); got != nil {
		t.Errorf("from the future: %+v", got)
	}
	for d, want := range map[time.Duration]string{90 * time.Minute: "1h30m", 2 * time.Hour: "2h", 61 * time.Second: "1m1s", 1300 * time.Millisecond: "1.3s", time.Minute: "1m", 0: "0s"} {
		if got := timeText(d); got != want {
			t.Errorf("%v is written %q", d, got)
		}
	}
	for n, want := range map[int64]string{0: "0 bytes", 1023: "1023 bytes", 1536: "1.5 kB", 64 << 20: "64 MB", 5 << 40: "5 TB", 1 << 60: "1048576 TB"} {
		if got := sizeText(n); got != want {
			t.Errorf("%d is written %q", n, got)
		}
	}
}

// TestCheckMeasuresTheLog lets the server write an exact amount in each half
// of the watch, whose length the test's clock decides: 8 MB in 2 s are 14.4 GB
// an hour.
func TestCheckMeasuresTheLog(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		now := time.Now()
		o := s.options()
		o.Clock = func() time.Time { return now }
		e, err := New().Connect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		src := e.(*source)
		src.pause = func(_ context.Context, d time.Duration) error {
			now = now.Add(d)
			for range 8 {
				s.exec("select pg_logical_emit_message(false, 'holdfast', repeat('x', 1000 * 1000))")
			}
			return nil
		}
		check := func() map[string]repo.Finding {
			t.Helper()
			found, err := src.Check(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]repo.Finding{}
			for _, f := range found {
				out[f.Code] = f
			}
			return out
		}
		f := check()["slot-keep-unlimited"]
		if f.Severity != severityError {
			t.Errorf("unlimited: %+v", f)
		}
		s.apply(f)
		s.exec("alter system set max_slot_wal_keep_size = '64MB'", "select pg_reload_conf()")
		var small repo.Finding
		waitFor(t, "a limit that is too small is found", func() (ok bool) { small, ok = check()["slot-keep-small"]; return ok })
		var perHour, mb, seconds float64
		if n, err := fmt.Sscanf(small.Message, "max_slot_wal_keep_size is 64 MB, and this server writes %f GB of log an hour (%f MB/h watched for 4s now, the slower half counted): it would last %fs while",
			&perHour, &mb, &seconds); n != 3 {
			t.Fatalf("%q: %v", small.Message, err)
		}
		// Page headers and the server's own records come on top.
		if mb < 8e6/(1<<20)*1800 || mb > 9e6/(1<<20)*1800 || perHour*1024 < mb*.98 || perHour*1024 > mb*1.02 || seconds*mb < 64*3600*.98 || seconds*mb > 64*3600*1.02 {
			t.Errorf("%q", small.Message)
		}
		if small.Severity != severityError || !strings.Contains(small.Fix, "'41GB'") && !strings.Contains(small.Fix, "'42GB'") {
			t.Errorf("%+v", small)
		}
		s.apply(small)
		waitFor(t, "the limit suffices", func() bool {
			found := check()
			_, still := found["slot-keep-small"]
			_, unlimited := found["slot-keep-unlimited"]
			return !still && !unlimited
		})
	})
}

// TestTheServersOwnCountsAreAsked: what takes a minute's past to be believed.
func TestTheServersOwnCountsAreAsked(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil, "grant pg_monitor to backup")
		s.flushLog()
		conn, err := s.source().(*source).sql(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if v, err := walSinceReset(t.Context(), conn); err != nil || v != nil {
			t.Errorf("of a server that has just been made: %+v %v", v, err)
		}
		files, now, err := listWAL(t.Context(), conn)
		if err != nil || len(files) == 0 || now.IsZero() {
			t.Fatalf("%v %v %v", files, now, err)
		}
		end := s.position("select pg_current_wal_insert_lsn()::text")
		v := walByFiles(files, 16<<20, end, now.Add(2*time.Minute))
		if len(v) != 1 || v[0].Bytes <= 0 || v[0].Bytes > int64(end) || v[0].Over < 2*time.Minute {
			t.Errorf("%+v", v)
		}
		s.exec("revoke pg_monitor from backup")
		if files, _, err := listWAL(t.Context(), conn); err != nil || files != nil {
			t.Errorf("without the right: %v %v", files, err)
		}
	})
}
