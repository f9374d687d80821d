package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/testcontainers"
	"github.com/holdfastdb/holdfast/wal"
)

// problem is one reason not to pass.
type problem struct {
	verdict Verdict // Fail or Unverified
	reason  string
}

// judge sorts an error of a phase: what the backup is to blame for fails the
// drill; what this host, the store's reachability or the user is to blame for
// means that nothing was proved.
func judge(phase string, err error) problem {
	p := problem{verdict: Unverified, reason: phase + ": " + oneLine(err)}
	var gap *wal.GapError
	switch {
	case errors.Is(err, repo.ErrDamaged), errors.As(err, &gap), errors.Is(err, repo.ErrFork):
		p.verdict = Fail
	case errors.Is(err, context.Canceled):
		p.reason = "cancelled during " + phase
	case errors.Is(err, context.DeadlineExceeded):
		p.reason = "ran out of time during " + phase
	case isOurs(err):
	case phase == phasePlan || phase == phaseProvision || phase == phaseObserve:
		// Nothing of the backup's content was read yet.
	case errors.Is(err, repo.ErrNotFound):
		p.verdict = Fail // an object that a manifest or a plan names
	case errors.As(err, new(*feedError)):
		// The store did not answer: the copy cannot be blamed for stopping.
	case phase == phaseBoot || phase == phaseReplay || phase == phaseReady:
		p.verdict = Fail // the server refused what we restored
	}
	return p
}

// isOurs knows the failures of this host and its tools.
func isOurs(err error) bool {
	return errors.Is(err, testcontainers.ErrMissing) || errors.Is(err, stream.ErrStalled) ||
		errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, errDisk) ||
		errors.Is(err, repo.ErrFormat) || hferr.KindOf(err) == hferr.Unverifiable
}

// dataTiers are the checks that look at restored data: one of them must pass.
var dataTiers = map[string]bool{"heartbeat": true, "read": true, "integrity": true, "user": true}

// settle turns problems and checks into the verdict and its reasons.
func (r *Record) settle(problems []problem) {
	passed := 0
	for _, c := range r.Checks {
		switch {
		case c.Verdict == "fail":
			problems = append(problems, problem{Fail, checkReason(c.ID, c.Expected, c.Actual, c.Detail)})
		case c.Verdict == "pass" && dataTiers[c.Tier]:
			passed++
		}
	}
	if passed == 0 && len(problems) == 0 {
		problems = append(problems, problem{Unverified, "no check of the data passed: that a server starts proves nothing"})
	}
	r.Verdict, r.Reasons = Pass, []string{}
	for _, want := range []Verdict{Fail, Unverified} {
		for _, p := range problems {
			if p.verdict != want {
				continue
			}
			if r.Verdict == Pass {
				r.Verdict = want
			}
			r.Reasons = append(r.Reasons, p.reason)
		}
	}
}

func checkReason(id, expected, actual, detail string) string {
	parts := []string{"check " + id + " failed"}
	if expected != "" || actual != "" {
		parts = append(parts, fmt.Sprintf("expected %s, found %s", orNone(expected), orNone(actual)))
	}
	if detail != "" {
		parts = append(parts, detail)
	}
	return strings.Join(parts, ": ")
}

// oneLine is an error's text with joined errors on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}
