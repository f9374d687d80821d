package verify

import (
	"strings"
	"sync"
	"time"
)

// phase names, in their usual order.
const (
	phaseOpen      = "open"
	phaseObserve   = "observe"
	phasePlan      = "plan"
	phaseExpect    = "expect"
	phaseProvision = "provision"
	phaseFetch     = "fetch"
	phaseBoot      = "boot"
	phaseReplay    = "replay"
	phaseReady     = "ready"
	phaseCheck     = "check"
	phaseTeardown  = "teardown"
)

// notRecovery are the phases that a real recovery would not have: they measure
// or clean up, and stay out of the critical path.
var notRecovery = map[string]bool{phaseObserve: true, phaseExpect: true, phaseTeardown: true}

// ladder times phases, one at a time; sub-phases ("check/read") run inside
// their parent and do not count twice. Safe for concurrent use: an engine may
// announce phases from a goroutine of its own.
type ladder struct {
	clock  func() time.Time
	report func(PhaseEvent)

	mu     sync.Mutex
	phases []Phase
	open   []int       // indexes of the phases begun and not ended, outermost first
	begun  []time.Time // their starts, with the monotonic clock
}

func newLadder(clock func() time.Time, report func(PhaseEvent)) *ladder {
	if report == nil {
		report = func(PhaseEvent) {}
	}
	return &ladder{clock: clock, report: report}
}

// begin ends what is open, unless name is a sub-phase of it, and opens name.
func (l *ladder) begin(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	for len(l.open) > 0 && !strings.HasPrefix(name, l.phases[l.open[len(l.open)-1]].Name+"/") {
		l.endLocked(now, "done")
	}
	l.beginAt(name, now)
}

// beginAt opens a phase that began at a moment.
func (l *ladder) beginAt(name string, at time.Time) {
	l.open = append(l.open, len(l.phases))
	l.begun = append(l.begun, at)
	counts := !notRecovery[name] && !strings.Contains(name, "/")
	l.phases = append(l.phases, Phase{Name: name, Started: at.UTC(), RTO: counts})
	l.report(PhaseEvent{Phase: name})
}

// end closes every open phase with a result: "done" or "failed".
func (l *ladder) end(result string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.clock()
	for len(l.open) > 0 {
		l.endLocked(now, result)
	}
}

func (l *ladder) endLocked(now time.Time, result string) {
	last := len(l.open) - 1
	p, took := &l.phases[l.open[last]], now.Sub(l.begun[last])
	l.open, l.begun = l.open[:last], l.begun[:last]
	p.Took, p.Result = took.Milliseconds(), result
	if took > 0 {
		p.Rate = int64(float64(p.Bytes) / took.Seconds())
	}
	l.report(PhaseEvent{Phase: p.Name, Done: true, Failed: result == "failed", Took: took, Bytes: p.Bytes})
}

// current is the innermost open phase, or the last one that ended.
func (l *ladder) current() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.open) > 0 {
		return l.phases[l.open[len(l.open)-1]].Name
	}
	if len(l.phases) > 0 {
		return l.phases[len(l.phases)-1].Name
	}
	return ""
}

// count sets what the newest phase of that name moved, and a remark.
func (l *ladder) count(name string, bytes, stored int64, note string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := len(l.phases) - 1; n >= 0; n-- {
		if p := &l.phases[n]; p.Name == name {
			p.Bytes, p.Stored, p.Note = bytes, stored, note
			if p.Result != "" && p.Took > 0 {
				p.Rate = bytes * 1000 / p.Took
			}
			return
		}
	}
}

// critical is the sum of the phases that count towards the RTO.
func (l *ladder) critical() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var sum int64
	for _, p := range l.phases {
		if p.RTO {
			sum += p.Took
		}
	}
	return sum
}

// all is a copy of the phases so far.
func (l *ladder) all() []Phase {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Phase(nil), l.phases...)
}
