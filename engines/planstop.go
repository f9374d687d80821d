package engines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// missError: a replay from this base, over all the log held on the path, does
// not reach the goal.
type missError struct {
	base repo.Manifest
	log  *wal.Plan
	end  time.Time     // source's clock at the log's last byte
	gap  *wal.GapError // what ends the log, if more is held behind it
	err  *UnreachableError
}

func (e *missError) Error() string { return fmt.Sprintf("backup %s: %v", e.base.ID, e.err) }
func (e *missError) Unwrap() error { return e.err }

// findStop looks the goal up in the plan's log, which reaches as far as log is
// held, and cuts the log behind it. *missError if it is not in there.
func (p *planner) findStop(ctx context.Context, r *RestorePlan, gap *wal.GapError) error {
	rd, err := wal.NewReader(ctx, p.lineage, r.Log)
	if err != nil {
		return err
	}
	defer rd.Close()
	stop, err := p.resolver.Resolve(ctx, &r.Base, r.Goal, rd)
	if err == nil && stop.At < r.Base.Stop {
		err = &UnreachableError{Target: describe(r.Goal), Why: fmt.Sprintf("at %s it lies before the base backup is consistent", p.format(stop.At))}
	}
	var miss *UnreachableError
	if errors.As(err, &miss) {
		end, terr := p.index.EndTime(ctx, r.Log)
		if terr != nil {
			return terr
		}
		return &missError{base: r.Base, log: r.Log, end: end, gap: gap, err: miss}
	}
	if err != nil {
		return err
	}
	r.Stop = stop
	r.Log, err = cutLog(ctx, rd, stop)
	return err
}

// errEnough ends a walk over headers.
var errEnough = errors.New("enough")

// cutLog is the log that a replay to stop needs.
//
// At the end of the archive that is everything before stop.At, to the byte:
// the replay ends because the log does, and an incomplete record behind it
// is of no use. Elsewhere a server knows that it has arrived by reading the
// record that begins at or behind stop.At, whole. Where records end the
// planner does not know, but a segment's index says where its first one
// begins: the record at stop.At ends where the first such place behind it
// is, at the latest, and one more record where the second is. So the log is
// kept to the second one; where indexes are missing, further. It never goes
// beyond stop's branch: the path's next branch begins between two records,
// and the one at stop.At begins before that.
func cutLog(ctx context.Context, rd *wal.Reader, stop *Stop) (*wal.Plan, error) {
	full := rd.Plan()
	last, err := stopLeg(full, stop)
	if err != nil {
		return nil, err
	}
	cut := &wal.Plan{Lineage: full.Lineage, Legs: slices.Clone(full.Legs[:last+1])}
	leg := &cut.Legs[last]
	if stop.AtEnd {
		leg.To = stop.At
		return cut, nil
	}
	seen, behind := 0, stop.At
	err = rd.Headers(ctx, stop.At, func(l wal.Leg, m *repo.SegmentMeta) error {
		if l.Branch.ID != leg.Branch.ID || m.Index == nil || m.Index.First <= behind || m.Index.First >= leg.To {
			return nil
		}
		behind = m.Index.First
		if seen++; seen < 2 {
			return nil
		}
		leg.To = behind
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("find how much log a replay to the target needs: %w", err)
	}
	return cut, nil
}

// stopLeg is the leg that a stop is on. What begins exactly where a branch was
// left begins on the next one.
func stopLeg(full *wal.Plan, stop *Stop) (int, error) {
	last := len(full.Legs) - 1
	at := slices.IndexFunc(full.Legs, func(leg wal.Leg) bool { return leg.Branch.ID == stop.Branch })
	if at >= 0 && at < last && !stop.AtEnd && stop.At == full.Legs[at].To {
		at++
		for at < last && full.Legs[at].To == stop.At {
			at++
		}
		stop.Branch = full.Legs[at].Branch.ID
	}
	if at < 0 || stop.At < full.Legs[at].From || stop.At > full.Legs[at].To {
		return 0, fmt.Errorf("the target was found at %x on branch %s, which lies outside the log searched", uint64(stop.At), stop.Branch)
	}
	return at, nil
}

// unreachable is the error for a goal that no candidate base leads to; misses
// are those tried, the newest first.
func (p *planner) unreachable(ctx context.Context, g Goal, misses []*missError) error {
	first, oldest := misses[0], misses[len(misses)-1]
	err := *first.err
	if oldest.err.Before == nil && oldest.err.After != nil {
		err = *oldest.err // it lies before everything that can be reached
	}
	for _, m := range misses {
		if b := m.err.Before; b != nil && (err.Before == nil || b.Start > err.Before.Start) {
			err.Before = b
		}
		if a := m.err.After; a != nil && (err.After == nil || a.Start < err.After.Start) {
			err.After = a
		}
	}
	why := fmt.Errorf("%w", &err)
	switch {
	case !g.Time.IsZero() && first.gap != nil && !first.end.After(g.Time):
		why = fmt.Errorf("%w; it lies behind a gap that begins at %s: %w", &err, stamp(first.end), first.gap)
	case !g.Time.IsZero() && !first.end.After(g.Time):
		why = fmt.Errorf("%w; it is not before the last moment archived, %s", &err, stamp(first.end))
	case first.gap != nil:
		why = fmt.Errorf("%w; the log held without a gap ends before it: %w", &err, first.gap)
	}
	var hints []string
	if near := err.Nearest(p.format); near != "" {
		hints = append(hints, near)
	}
	if b := p.elsewhere(ctx, g, misses); b != "" {
		hints = append(hints, fmt.Sprintf("It is on branch %s: add --branch %s", b, b))
	}
	hints = append(hints, fmt.Sprintf("From backup %s, any time after %s and before %s can be reached (positions %s to %s).",
		oldest.base.ID, stamp(oldest.base.StopTime), stamp(oldest.end), p.format(oldest.base.Stop), p.format(oldest.log.To())),
		fmt.Sprintf("holdfast list %s --points shows what else; without a target the latest state is restored.", p.database))
	return hferr.New(p.what(), why, strings.Join(hints, "\n"))
}

// elsewhere is a branch on which a point is found that is not on the path
// searched; "" if there is none. That a branch cannot be searched is no news
// here: the goal has failed already.
func (p *planner) elsewhere(ctx context.Context, g Goal, misses []*missError) string {
	if g.Point == nil || g.Branch != "" {
		return ""
	}
	for _, b := range p.index.Branches() {
		searched := slices.ContainsFunc(misses, func(m *missError) bool {
			return m.log.Legs[len(m.log.Legs)-1].Branch.ID == b.ID
		})
		if searched {
			continue
		}
		g.Branch = b.ID
		bases, err := p.candidates(g)
		if err != nil {
			continue
		}
		for _, base := range bases {
			if _, err := p.from(ctx, base, g); err == nil {
				return b.ID
			}
		}
	}
	return ""
}

// describe names a goal as its user would.
func describe(g Goal) string {
	if g.Point != nil {
		return "the target " + g.Point.String()
	}
	return "the target time " + stamp(g.Time)
}
