package consistency

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Loss is what heartbeats prove about a restored copy (guides: three numbers,
// never mixed). All times by the source's clock.
type Loss struct {
	// Known is false when no statement is possible; Why says so. With Known,
	// Why is a remark on how the interval came about, or empty.
	Known bool   `json:"known"`
	Why   string `json:"why,omitempty"`
	// T is the instant at which the source stopped being trusted.
	T time.Time `json:"t"`
	// Present is the last beat found in the copy; Absent the first beat the
	// source acknowledged that is not in the copy (nil: none was noted).
	Present *repo.Beat `json:"present,omitempty"`
	Absent  *repo.Beat `json:"absent,omitempty"`
	// The loss lies in (Min, Max]: T−Absent.At (0 if none) and T−Present.At.
	// With Min 0, no loss at all is possible too.
	Min time.Duration `json:"min_ns"`
	Max time.Duration `json:"max_ns"`
	// Hole is set when a beat before Present is missing in the copy, or is
	// there with another time than the source acknowledged: the copy is not a
	// prefix of the source's history. It makes a drill fail.
	Hole *repo.Beat `json:"hole,omitempty"`
}

// Measure compares beats found in a copy with beats noted as acknowledged.
// found and noted may be in any order and hold duplicates; only ring-resident
// beats can be expected in found: those after Present−RingSize.
//
// The reasoning: the copy holds the source's history up to some moment R. A
// beat present was committed at or before R, a beat acknowledged and absent
// after R; so Present.At ≤ R < Absent.At, and the loss is T − R.
func Measure(found, noted []repo.Beat, t time.Time) Loss {
	found, noted = ordered(found), ordered(noted)
	l := Loss{T: t}
	if len(found) == 0 {
		if len(noted) > 0 {
			l.Absent = &noted[0]
		}
		return l.unknown("the copy holds no heartbeat")
	}
	l.Present = &found[len(found)-1]
	l.Absent = firstAfter(noted, l.Present.N)
	if why := clash(found); why != "" {
		return l.unknown(why)
	}
	if l.Hole = hole(found, noted); l.Hole != nil {
		return l.unknown(fmt.Sprintf("beat %d, which the source acknowledged, is missing in the copy or differs there, though beat %d is present: the copy is not a prefix of the source's history", l.Hole.N, l.Present.N))
	}
	if l.Absent != nil && !l.Absent.At.After(l.Present.At) {
		return l.unknown(fmt.Sprintf("the source's clock went back between beat %d and beat %d", l.Present.N, l.Absent.N))
	}
	if t.IsZero() {
		return l.unknown("the source's time at its end is not known")
	}
	l.Known = true
	if t.Before(l.Present.At) {
		l.T = l.Present.At
		l.Why = fmt.Sprintf("beat %d in the copy is younger than the time given; measured from that beat", l.Present.N)
	}
	l.Max = l.T.Sub(l.Present.At)
	if l.Absent == nil {
		if l.Why == "" {
			l.Why = "no later beat was noted as acknowledged, so nothing proves a loss"
		}
		return l
	}
	l.Min = max(0, l.T.Sub(l.Absent.At))
	return l
}

func (l Loss) unknown(why string) Loss {
	l.Known, l.Why = false, why
	return l
}

// ordered is a copy by number, then time, without exact duplicates.
func ordered(beats []repo.Beat) []repo.Beat {
	out := slices.Clone(beats)
	slices.SortStableFunc(out, func(a, b repo.Beat) int {
		return cmp.Or(cmp.Compare(a.N, b.N), a.At.Compare(b.At))
	})
	return slices.CompactFunc(out, same)
}

// same compares what a beat is; times are kept to the microsecond.
func same(a, b repo.Beat) bool {
	return a.N == b.N && a.At.Truncate(time.Microsecond).Equal(b.At.Truncate(time.Microsecond))
}

// firstAfter is the first noted beat beyond n. Where its number was noted
// twice (a branch's end and its successor counted on), the later time gives
// the weaker and therefore safe statement.
func firstAfter(noted []repo.Beat, n int64) *repo.Beat {
	var first *repo.Beat
	for i := range noted {
		if noted[i].N > n && (first == nil || noted[i].N == first.N) {
			first = &noted[i]
		}
	}
	return first
}

// clash says why found beats contradict each other.
func clash(found []repo.Beat) string {
	for i := 1; i < len(found); i++ {
		a, b := found[i-1], found[i]
		if a.N == b.N {
			return fmt.Sprintf("beat %d is in the copy with two different times", a.N)
		}
		if b.At.Before(a.At) {
			return fmt.Sprintf("the source's clock went back between beat %d and beat %d", a.N, b.N)
		}
	}
	return ""
}

// hole is the first noted beat that the copy should hold and does not. found
// has no number twice (clash).
func hole(found, noted []repo.Beat) *repo.Beat {
	last := found[len(found)-1].N
	byNumber := make(map[int64]repo.Beat, len(found))
	for _, b := range found {
		byNumber[b.N] = b
	}
	for i := 0; i < len(noted); {
		first, matched := &noted[i], false
		in, ok := byNumber[first.N]
		for ; i < len(noted) && noted[i].N == first.N; i++ {
			matched = matched || ok && same(in, noted[i])
		}
		if first.N > last-RingSize && first.N <= last && !matched {
			return first
		}
	}
	return nil
}
