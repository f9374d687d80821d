package verify

import (
	"fmt"
	"slices"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// expectation is what the noted beats say about a copy: those that must be
// there and those that must not. A beat of which neither can be proved is in
// neither.
//
// Beats come from one connection, one after the other, so beat k was committed
// before beat k+1 took its time, and before the position noted with beat k was
// read, which was before beat k+1 was written.
type expectation struct {
	present []repo.Beat
	absent  []repo.Beat
}

// upToPosition: a beat noted at or before end was committed before it. The
// first beat noted beyond end may have been committed before it all the same;
// the ones after that one cannot.
func upToPosition(noted []repo.Beat, end repo.Position) expectation {
	first := slices.IndexFunc(noted, func(b repo.Beat) bool { return b.Pos > end })
	if first < 0 {
		return expectation{present: noted}
	}
	return expectation{present: noted[:first], absent: noted[first+1:]}
}

// upToTime: replay ends before the first commit after t. A beat that took its
// time at or after t was committed after it. The last beat before that one may
// have taken its time before t and been committed after it, unless its
// successor began exactly at t.
func upToTime(noted []repo.Beat, t time.Time) expectation {
	first := slices.IndexFunc(noted, func(b repo.Beat) bool { return !b.At.Before(t) })
	if first < 0 {
		return expectation{present: noted[:max(0, len(noted)-1)]}
	}
	e := expectation{present: noted[:first], absent: noted[first:]}
	if first > 0 && !noted[first].At.Equal(t) {
		e.present = noted[:first-1]
	}
	return e
}

// newestByNumber keeps one beat a number, ordered by number: after a failover
// that lost beats the survivor counts the same numbers again, later.
func newestByNumber(beats []repo.Beat) []repo.Beat {
	newest := map[int64]repo.Beat{}
	for _, b := range beats {
		if old, ok := newest[b.N]; !ok || b.At.After(old.At) {
			newest[b.N] = b
		}
	}
	out := make([]repo.Beat, 0, len(newest))
	for _, b := range newest {
		out = append(out, b)
	}
	slices.SortFunc(out, func(a, b repo.Beat) int { return int(a.N - b.N) })
	return out
}

// check compares a copy's beats with the expectation: "present before, absent
// after", and at least one beat that only the log can have brought.
func (e expectation) check(found []repo.Beat, stop repo.Position) []engines.CheckResult {
	in := map[int64]time.Time{}
	var newest int64
	for _, b := range found {
		in[b.N] = b.At
		newest = max(newest, b.N)
	}
	has := func(b repo.Beat) bool {
		at, ok := in[b.N]
		return ok && at.Truncate(time.Microsecond).Equal(b.At.Truncate(time.Microsecond))
	}
	// The source overwrites beats older than its ring; a copy cannot have them.
	resident := slices.DeleteFunc(slices.Clone(e.present), func(b repo.Beat) bool { return b.N <= newest-consistency.RingSize })
	fromLog := slices.DeleteFunc(slices.Clone(resident), func(b repo.Beat) bool { return b.Pos <= stop })
	return []engines.CheckResult{
		presence("heartbeat-present", "noted before the end", resident, has, true),
		presence("heartbeat-log-only", "written after the base backup", fromLog, has, true),
		presence("heartbeat-absent", "noted after the end", e.absent, has, false),
	}
}

// presence counts which of the beats the copy has; all or none is wanted.
func presence(id, what string, beats []repo.Beat, has func(repo.Beat) bool, want bool) engines.CheckResult {
	c := engines.CheckResult{ID: id, Tier: "heartbeat", Verdict: "not-run"}
	if len(beats) == 0 {
		c.Detail = "no heartbeat was " + what
		return c
	}
	count, wrong := 0, ""
	for _, b := range beats {
		ok := has(b)
		if ok {
			count++
		}
		if ok != want && wrong == "" {
			wrong = fmt.Sprintf("the first wrong one is beat %d of %s", b.N, b.At.UTC().Format(time.RFC3339Nano))
		}
	}
	wanted := 0
	if want {
		wanted = len(beats)
	}
	c.Expected = fmt.Sprintf("%d of %d beats %s", wanted, len(beats), what)
	c.Actual = fmt.Sprintf("%d of %d", count, len(beats))
	c.Verdict, c.Detail = "pass", fmt.Sprintf("beats %d to %d", beats[0].N, beats[len(beats)-1].N)
	if wrong != "" {
		c.Verdict, c.Detail = "fail", wrong
	}
	return c
}
