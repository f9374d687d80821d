package verify_test

import (
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/verify"
)

// A drill that ended early says why and what to do, once, in short lines; it
// shows no measurement it did not make.
func TestSummaryOfAnEarlyEnd(t *testing.T) {
	t.Parallel()
	r := verify.Record{
		Verdict: verify.Unverified,
		Reasons: []string{"provision: " + strings.Repeat("no such server ", 12) + strings.Repeat("x", 90) + " end"},
		Hints:   []string{"run: " + strings.Repeat("a b ", 30)},
		Labels:  []string{"store on the same host"},
		Phases:  []verify.Phase{{Name: "provision", Took: 5, Result: "failed"}},
		RPO:     verify.RPORecord{Statement: "not measured: the drill did not get as far as its checks", TBasis: "guess"},
		Checks: []engines.CheckResult{
			{ID: strings.Repeat("select 1\n", 20), Tier: "user", Verdict: "fail", Expected: "secret of the check"},
			{ID: "heap", Tier: "integrity", Verdict: "pass", Expected: "0", Actual: "0", Detail: "109 relations"},
		},
	}
	var b, short strings.Builder
	if err := r.Summary(&b); err != nil {
		t.Fatal(err)
	}
	if err := r.Outcome(&short); err != nil {
		t.Fatal(err)
	}
	t.Log("\n" + b.String())
	for _, want := range []string{
		"\n  - provision: no such server", "\n    such server", "\n    " + strings.Repeat("x", 90) + "\n    end\n",
		"\n  hint: run: " + strings.Repeat("a b ", 30),
		"\n  provision   5ms               failed\n",
		"\nRPO  not measured: the drill did not get as far as its checks\n\nRTO  not reached\n\nChecks\n",
		"  fail  select 1 select 1 select 1 …  user       see above\n",
		"  pass  heap                          integrity  109 relations\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	for _, never := range []string{"same host", "guess", "secret"} {
		if strings.Contains(b.String(), never) {
			t.Errorf("%q is shown", never)
		}
	}
	for line := range strings.Lines(b.String()) {
		if len(line) > 81 && !strings.Contains(line, "hint: ") && !strings.Contains(line, "xxx") {
			t.Errorf("a long line: %q", line)
		}
	}
	if s := short.String(); strings.Contains(s, "took") || !strings.Contains(s, "see above") {
		t.Errorf("the outcome alone:\n%s", s)
	}
}

// What the user can do about it is in the record.
func TestHintsAreRecorded(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	q := l.request()
	q.WorkDir, q.SourceNote, q.Source = q.WorkDir+"/nowhere", "the source could not be reached: refused", nil
	r := l.drill(q)
	if r.Verdict != verify.Unverified || len(r.Hints) == 0 || r.Source.Note != q.SourceNote || strings.Contains(strings.Join(r.Reasons, ""), "\n") {
		t.Errorf("%s, reasons %q, hints %q, source %+v", r.Verdict, r.Reasons, r.Hints, r.Source)
	}
}
