package verify

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// check runs every tier on the copy. A check that fails does not stop the
// next one; only the end of ctx does. The RTO ends here.
func (d *drill) check(ctx context.Context) error {
	tiers := []struct {
		phase string
		run   func(context.Context) []engines.CheckResult
	}{
		{"check/heartbeat", d.checkBeats},
		{"check/read", d.checkRead},
		{"check/integrity", d.checkIntegrity},
		{"check/user", d.checkUser},
	}
	for _, t := range tiers {
		d.ladder.begin(t.phase)
		results := t.run(ctx)
		if err := ctx.Err(); err != nil {
			// What a cancelled check found is no finding.
			return err
		}
		d.rec.Checks = append(d.rec.Checks, results...)
	}
	d.asserts = d.q.Clock().Sub(d.q.Started)
	return nil
}

// failed is a check that could not be carried out on a copy that should
// answer: the copy's fault.
func failed(id, tier string, err error) engines.CheckResult {
	return engines.CheckResult{ID: id, Tier: tier, Verdict: "fail", Detail: err.Error()}
}

func (d *drill) checkBeats(ctx context.Context) []engines.CheckResult {
	out := []engines.CheckResult{d.checkReached()}
	found, err := d.copy.Beats(ctx)
	if err != nil {
		return append(out, failed("heartbeat-present", "heartbeat", err))
	}
	slices.SortFunc(found, func(a, b repo.Beat) int { return int(a.N - b.N) })
	d.found = found
	noted := d.noted
	if d.live != nil {
		noted = append(slices.Clone(noted), *d.live)
	}
	var e expectation
	if d.plan.Goal.Time.IsZero() {
		e = upToPosition(newestByNumber(noted), d.end())
	} else {
		e = upToTime(newestByNumber(noted), d.plan.Goal.Time)
	}
	return append(out, e.check(found, d.plan.Base.Stop)...)
}

// checkReached: the copy replayed beyond its base, and no commit after the
// target.
func (d *drill) checkReached() engines.CheckResult {
	c := engines.CheckResult{
		ID: "reached", Tier: "replay", Verdict: "pass",
		Expected: "beyond " + d.format(d.plan.Base.Stop), Actual: d.format(d.reached),
	}
	if d.reached <= d.plan.Base.Stop {
		c.Verdict, c.Detail = "not-run", "nothing was replayed beyond the base backup"
	}
	if end := d.end(); d.reached > end {
		c.Verdict, c.Detail = "fail", "beyond the plan's end "+d.format(end)
	}
	target, last := d.plan.Goal.Time, d.rec.Target.ReachedTime
	if !target.IsZero() {
		c.Expected += ", no commit after " + target.UTC().Format(time.RFC3339Nano)
		c.Actual += ", last commit " + last.Format(time.RFC3339Nano)
		if last.After(target) {
			c.Verdict, c.Detail = "fail", "a commit after the target was replayed"
		}
	}
	return c
}

// end is where the replay was to end.
func (d *drill) end() repo.Position {
	if s := d.plan.Stop; s != nil && !s.Consistent {
		return s.At
	}
	return d.plan.Log.To()
}

func (d *drill) checkRead(ctx context.Context) []engines.CheckResult {
	st, err := d.copy.ReadAll(ctx)
	if err != nil {
		return []engines.CheckResult{failed("read-all", "read", err)}
	}
	d.rec.Read = st
	d.ladder.count("check/read", st.Bytes, 0, "")
	c := engines.CheckResult{
		ID: "read-all", Tier: "read", Verdict: "pass", Expected: "every row of every table is readable",
		Actual: fmt.Sprintf("%d rows in %d tables of %d databases", st.Rows, st.Tables, st.Databases),
	}
	if st.Rows == 0 {
		c.Verdict, c.Detail = "not-run", "the copy holds no rows"
	}
	return []engines.CheckResult{c}
}

func (d *drill) checkIntegrity(ctx context.Context) []engines.CheckResult {
	out, err := d.copy.Integrity(ctx)
	if err != nil {
		out = append(out, failed("integrity", "integrity", err))
	}
	return out
}

func (d *drill) checkUser(ctx context.Context) []engines.CheckResult {
	var out []engines.CheckResult
	for _, u := range d.q.Checks {
		got, err := d.copy.Query(ctx, u.Database, u.SQL)
		if err != nil {
			out = append(out, failed(u.Name, "user", err))
			continue
		}
		c := engines.CheckResult{ID: u.Name, Tier: "user", Verdict: "fail", Expected: "true, or a number other than zero"}
		holds := truthy(got)
		if u.Expect != nil {
			c.Expected, holds = countOrHash(*u.Expect), got == *u.Expect
		}
		if holds {
			c.Verdict = "pass"
		}
		c.Actual = countOrHash(got)
		out = append(out, c)
	}
	return out
}

// truthy is what a check without an expectation must return.
func truthy(s string) bool {
	s = strings.ToLower(strings.TrimSpace(s))
	if s == "t" || s == "true" {
		return true
	}
	n, err := strconv.ParseFloat(s, 64)
	return err == nil && n != 0
}

// versions notes where the copy's server is not the source's.
func (d *drill) versions() {
	copyVersion, spec := d.copy.Version(), d.q.Engine.Restorer().Server(d.plan)
	d.rec.Sandbox.Version = copyVersion
	// The one may print its product's name where the other does not.
	if src := d.rec.Source.Version; src != "" && !strings.Contains(src, copyVersion) && !strings.Contains(copyVersion, src) {
		d.finding("warning", "version-mismatch", fmt.Sprintf("the source runs %s, the copy ran %s", src, copyVersion))
	}
	if spec.Version != "" && !strings.Contains(copyVersion, spec.Version) {
		d.finding("warning", "version-mismatch", fmt.Sprintf("the base is of version %s, the copy ran %s", spec.Version, copyVersion))
	}
}

func (d *drill) finding(severity, code, message string) {
	d.rec.Findings = append(d.rec.Findings, repo.Finding{Severity: severity, Code: code, Message: message})
}
