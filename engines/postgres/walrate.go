package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// walMeasure is how fast a server writes log, as seen in several ways.
type walMeasure struct {
	Segment int64 // bytes of a WAL segment
	Views   []walView
}

// walView is one way of looking: so many bytes over so long.
type walView struct {
	How   string // for people: "over 4s …"
	Bytes int64
	Over  time.Duration
}

// perHour is the rate in bytes an hour.
func (v walView) perHour() float64 {
	if v.Over <= 0 || v.Bytes <= 0 {
		return 0
	}
	return float64(v.Bytes) / v.Over.Hours()
}

// fastest is the view with the highest rate: what the server has written in
// some hour it may write in the next.
func (m walMeasure) fastest() walView {
	var best walView
	for _, v := range m.Views {
		if best.How == "" || v.perHour() > best.perHour() {
			best = v
		}
	}
	return best
}

const (
	// walSample is how long check watches the log grow.
	walSample = 4 * time.Second
	// walViewLeast is the shortest past that counts as a view: a server just
	// made has written its catalogue in a few seconds.
	walViewLeast = time.Minute
	// walLookBack is how far the files' times are trusted to speak of now.
	walLookBack = time.Hour
)

// measureWAL looks at the log in every way that the server and our rights
// offer. It waits for walSample.
func (s *source) measureWAL(ctx context.Context, conn *pgx.Conn, f serverFacts) (walMeasure, error) {
	m := walMeasure{Segment: f.SegmentSize}
	end, halves, err := s.watchWAL(ctx, conn)
	if err != nil {
		return m, err
	}
	m.Views = append(m.Views, slowerHalf(halves))
	if !f.InRecovery {
		v, err := walSinceReset(ctx, conn)
		if err != nil {
			return m, err
		}
		m.Views = append(m.Views, v...)
	}
	files, now, err := listWAL(ctx, conn)
	if err != nil {
		return m, err
	}
	m.Views = append(m.Views, walByFiles(files, f.SegmentSize, end, now)...)
	return m, nil
}

// walEndSQL: a standby's end is what it received, or replayed from an archive.
const walEndSQL = `select (case when pg_is_in_recovery()
	then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) else pg_current_wal_insert_lsn() end)::text`

// watchWAL samples the end of the log three times, walSample/2 apart.
func (s *source) watchWAL(ctx context.Context, conn *pgx.Conn) (end repo.Position, halves [2]walView, err error) {
	var at time.Time
	for i := range 3 {
		if i > 0 {
			if err := s.pause(ctx, walSample/2); err != nil {
				return 0, halves, err
			}
		}
		var text string
		if err := conn.QueryRow(ctx, walEndSQL).Scan(&text); err != nil {
			return 0, halves, err
		}
		now := s.clock()
		pos, err := ParseLSN(text)
		if err != nil {
			return 0, halves, err
		}
		if i > 0 {
			halves[i-1] = walView{Bytes: int64(pos - end), Over: now.Sub(at)}
		}
		end, at = pos, now
	}
	return end, halves, nil
}

// slowerHalf counts the slower of two halves, so that one jump (a switch of
// segments, a checkpoint's burst) is not taken for a rate.
func slowerHalf(halves [2]walView) walView {
	v := halves[0]
	if halves[1].perHour() < v.perHour() {
		v = halves[1]
	}
	whole := halves[0].Over + halves[1].Over
	v.How = fmt.Sprintf("watched for %v now, the slower half counted", whole.Round(100*time.Millisecond))
	return v
}

// walSinceReset is the server's own count, from 14 on.
func walSinceReset(ctx context.Context, conn *pgx.Conn) ([]walView, error) {
	var known bool
	if err := conn.QueryRow(ctx, `select to_regclass('pg_catalog.pg_stat_wal') is not null`).Scan(&known); err != nil || !known {
		return nil, err
	}
	var bytes, seconds float64
	err := conn.QueryRow(ctx, `select wal_bytes::float8, coalesce(extract(epoch from clock_timestamp() - stats_reset), 0)::float8 from pg_stat_wal`).Scan(&bytes, &seconds)
	over := time.Duration(seconds * float64(time.Second))
	if err != nil || over < walViewLeast {
		return nil, err
	}
	return []walView{{How: fmt.Sprintf("on average over %s by pg_stat_wal", timeText(over)), Bytes: int64(bytes), Over: over}}, nil
}

// walFile is one file in pg_wal.
type walFile struct {
	Name     string
	Modified time.Time
}

// listWAL needs pg_monitor; without it there is no such view.
func listWAL(ctx context.Context, conn *pgx.Conn) (files []walFile, now time.Time, err error) {
	rows, err := conn.Query(ctx, `select name, modification, clock_timestamp() from pg_ls_waldir()`)
	if err != nil {
		return nil, now, err
	}
	var f walFile
	_, err = pgx.ForEachRow(rows, []any{&f.Name, &f.Modified, &now}, func() error {
		files = append(files, f)
		return nil
	})
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == stateNoPrivilege {
		return nil, now, nil
	}
	return files, now, err
}

// walByFiles takes the earliest segment finished within walLookBack: since its
// last write the server has written everything from its end on. Files whose
// names lie ahead of the log's end are recycled ones, with the times of what
// they held before.
func walByFiles(files []walFile, segment int64, end repo.Position, now time.Time) []walView {
	if segment <= 0 {
		return nil
	}
	var first time.Time
	var from repo.Position
	for _, f := range files {
		name, err := parseWALName(f.Name, segment)
		if err != nil {
			continue
		}
		after := name.start(segment) + repo.Position(segment)
		if after > end || f.Modified.Before(now.Add(-walLookBack)) {
			continue
		}
		if first.IsZero() || f.Modified.Before(first) {
			first, from = f.Modified, after
		}
	}
	over := now.Sub(first)
	if first.IsZero() || over < walViewLeast {
		return nil
	}
	return []walView{{How: fmt.Sprintf("over the last %s by the files in pg_wal", timeText(over)), Bytes: int64(end - from), Over: over}}
}

func roundTime(d time.Duration) time.Duration {
	switch {
	case d >= 10*time.Minute:
		return d.Round(time.Minute)
	case d >= 10*time.Second:
		return d.Round(time.Second)
	}
	return d.Round(100 * time.Millisecond)
}

// timeText writes "1h4m" rather than "1h4m0s".
func timeText(d time.Duration) string {
	s := roundTime(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// sizeText writes a size in the server's units (1 kB = 1024 bytes).
func sizeText(bytes int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	v, i := float64(bytes), 0
	for v >= 1024 && i+1 < len(units) {
		v, i = v/1024, i+1
	}
	if i == 0 || v >= 100 || v == float64(int64(v)) {
		return fmt.Sprintf("%.0f %s", v, units[i])
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
