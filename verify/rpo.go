package verify

import (
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// What an RPO rests on.
const (
	basisHeartbeat  = "heartbeat"
	basisLastCommit = "last-commit"
	basisNone       = "none"
)

// measureRPO says what the copy proves to be lost. All times are the source's.
func (d *drill) measureRPO() {
	r := &d.rec.RPO
	r.Basis, r.T, r.TBasis = basisNone, d.t.UTC(), d.tBasis
	switch {
	case d.asserts == 0:
		r.Statement = "not measured: the drill did not get as far as its checks"
		return
	case d.q.Mode != ModeLatest:
		r.Statement = "not measured: the target was a moment in the past"
		return
	}
	r.LastCommit = d.rec.Target.ReachedTime
	noted := d.noted
	if d.live != nil {
		noted = append([]repo.Beat{*d.live}, noted...)
	}
	loss := consistency.Measure(d.found, noted, d.t)
	d.recordBeats(loss, noted)
	switch {
	case loss.Hole != nil:
		r.Statement = "not measured: " + loss.Why
		d.problems = append(d.problems, problem{Fail, "the heartbeat has a hole: " + loss.Why})
	case loss.Known:
		r.Measured, r.Basis, r.T = true, basisHeartbeat, loss.T.UTC()
		r.Min, r.Max = loss.Min.Milliseconds(), ceilMilliseconds(loss.Max)
		r.Statement = intervalText(loss) + tRemark(d.rec.Source.Reachable)
		if loss.Why != "" {
			r.Statement += " (" + loss.Why + ")"
		}
	case len(d.found) == 0 && len(noted) == 0 && !d.t.IsZero() && !r.LastCommit.IsZero():
		r.Measured, r.Basis = true, basisLastCommit
		r.Max = max(0, ceilMilliseconds(d.t.Sub(r.LastCommit)))
		r.Statement = fmt.Sprintf("no heartbeat: the loss is bounded by the last commit in the archive, at most %s", span(r.Max))
	default:
		r.Statement = "not measured: " + loss.Why
	}
}

func (d *drill) recordBeats(loss consistency.Loss, noted []repo.Beat) {
	r := &d.rec.RPO
	if p := loss.Present; p != nil {
		// The copy's ring holds no positions; the note of the same beat does.
		for _, b := range noted {
			if b.N == p.N && b.At.Equal(p.At) {
				p.Pos = b.Pos
			}
		}
	}
	r.LastRestored, r.FirstAbsent = d.beat(loss.Present), d.beat(loss.Absent)
	var last *repo.Beat
	for i := range noted {
		if last == nil || noted[i].N > last.N || noted[i].N == last.N && noted[i].At.After(last.At) {
			last = &noted[i]
		}
	}
	r.LastInserted = d.beat(last)
	if last != nil && loss.Present != nil {
		r.LostBeats = max(0, last.N-loss.Present.N)
	}
}

func (d *drill) beat(b *repo.Beat) *BeatRecord {
	if b == nil {
		return nil
	}
	r := &BeatRecord{N: b.N, At: b.At.UTC()}
	if b.Pos != 0 {
		r.Pos = d.format(b.Pos)
	}
	return r
}

// intervalText is the loss in words; the upper bound is the figure to publish.
func intervalText(l consistency.Loss) string {
	if l.Min == 0 {
		return fmt.Sprintf("at most %s of commits lost", span(ceilMilliseconds(l.Max)))
	}
	return fmt.Sprintf("more than %s and at most %s of commits lost", span(l.Min.Milliseconds()), span(ceilMilliseconds(l.Max)))
}

// tRemark: without the source, what it did after its last answer is unknown.
func tRemark(live bool) string {
	if live {
		return ""
	}
	return ", up to the last moment the archive heard of the source"
}

// ceilMilliseconds rounds up: an upper bound must stay one.
func ceilMilliseconds(d time.Duration) int64 {
	return (d + time.Millisecond - 1).Milliseconds()
}

// judgeObjectives compares what was measured with what was asked.
func (d *drill) judgeObjectives() {
	o := &d.rec.Objective
	o.RPOVerdict, o.RTOVerdict = "not set", "not set"
	if want := d.q.Objectives.RPO; want > 0 {
		o.RPO, o.RPOVerdict = want.Milliseconds(), "not judged"
		switch {
		case d.rec.RPO.Measured && d.rec.RPO.Max > o.RPO:
			o.RPOVerdict = "missed"
			d.problems = append(d.problems, problem{Fail, fmt.Sprintf("RPO objective missed: up to %s lost, %s allowed", span(d.rec.RPO.Max), span(o.RPO))})
		case d.rec.RPO.Measured:
			o.RPOVerdict = "met"
		case d.q.Mode == ModeLatest:
			d.problems = append(d.problems, problem{Unverified, "the RPO objective could not be judged: " + d.rec.RPO.Statement})
		}
	}
	if want := d.q.Objectives.RTO; want > 0 {
		o.RTO, o.RTOVerdict = want.Milliseconds(), "not judged"
		switch {
		case d.asserts == 0:
			// A drill that stopped early has its own reason not to pass.
		case d.asserts > want:
			o.RTOVerdict = "missed"
			d.problems = append(d.problems, problem{Fail, fmt.Sprintf("RTO objective missed: %s needed, %s allowed", span(ceilMilliseconds(d.asserts)), span(o.RTO))})
		default:
			o.RTOVerdict = "met"
		}
	}
}
