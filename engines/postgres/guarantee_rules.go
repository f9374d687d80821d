package postgres

import (
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// named reports whether commits on this server may wait for us.
func (v syncView) named() bool {
	i, _ := v.names.find(v.receiver)
	return i >= 0 && !v.recovery // a standby makes nobody wait
}

// needed reports whether no commit can do without us, by the settings: with
// FIRST as long as we stand among the first Num, with ANY when all must
// answer. A star can be met by anybody.
func (v syncView) needed() bool {
	i, exact := v.names.find(v.receiver)
	switch {
	case !exact:
		return false
	case v.names.Any:
		others := v.names.others(v.receiver)
		return !slices.Contains(others, "*") && v.names.Num > len(others)
	}
	return i < v.names.Num && !slices.Contains(v.names.Members[:i], "*")
}

// judge says what a commit that returned is worth.
func (v syncView) judge() engines.Guarantee {
	g := engines.Guarantee{Receiver: v.receiver, Connected: v.sender != nil, Behind: v.behind, Findings: v.findings()}
	if v.sender != nil && v.sender.State != "" {
		g.State = v.sender.State + ", " + v.sender.Sync
	}
	g.Level, g.Sentence = v.level()
	if v.named() && !v.visible {
		g.Hidden = fmt.Sprintf("what the server thinks of its receivers is not visible to role %s without pg_monitor: this is what the settings say", v.role)
	}
	if waits := g.Level != engines.GuaranteeAsynchronous; waits {
		if not := v.exceptions(); not != "" {
			g.Sentence += "; except " + not
		}
	}
	return g
}

// exceptions are those whose commits do not wait for durability though the
// server's setting makes others wait.
func (v syncView) exceptions() string {
	var out []string
	for _, o := range v.overrides {
		switch o.Value {
		case "off", "local", "remote_write":
			out = append(out, "commits "+o.where()+" (synchronous_commit "+o.Value+")")
		}
	}
	return strings.Join(out, ", ")
}

func (v syncView) level() (engines.GuaranteeLevel, string) {
	switch {
	case v.namesErr != nil:
		return engines.GuaranteeAsynchronous, "asynchronous as far as is known: " + v.namesErr.Error()
	case v.recovery:
		return engines.GuaranteeAsynchronous, "asynchronous: the server is a standby, and a commit waits only for what is connected to its primary"
	case !v.named() && len(v.names.Members) > 0:
		return engines.GuaranteeAsynchronous, "asynchronous: commits wait for " + strings.Join(v.names.Members, ", ") + ", not for us" + v.mayBeLost()
	case !v.named():
		return engines.GuaranteeAsynchronous, "asynchronous: no commit waits for us" + v.mayBeLost()
	case v.commit == "off" || v.commit == "local":
		return engines.GuaranteeAsynchronous, "asynchronous: we are named, but synchronous_commit is " + v.commit + " and nothing waits" + v.mayBeLost()
	case v.sender == nil:
		return engines.GuaranteeAbsent, v.receiver + " is named in synchronous_standby_names but not connected: " + v.withoutUs()
	case v.sender.State != "" && v.sender.State != "streaming" && v.sender.State != "stopping":
		return engines.GuaranteeAbsent, v.receiver + " is catching up and does not count yet: " + v.withoutUs()
	case v.sender.Sync == "async":
		return engines.GuaranteeAbsent, v.receiver + " has not acknowledged anything yet: " + v.withoutUs()
	}
	return v.answers()
}

// answers is the level while our receiver is connected and counts.
func (v syncView) answers() (engines.GuaranteeLevel, string) {
	index, _ := v.names.find(v.receiver)
	others := v.names.others(v.receiver)
	chosen := v.sender.Sync == "sync" || v.sender.Sync == "quorum"
	if !v.visible {
		chosen = v.names.Any || index < v.names.Num
	}
	switch {
	case !chosen:
		return engines.GuaranteeStandingBy, "commits wait for other standbys before us: our acknowledgement counts once one of them is gone"
	case v.names.Any && !v.needed():
		of := fmt.Sprintf("%d of %d standbys", v.names.Num, len(others)+1)
		if slices.Contains(v.names.Members, "*") {
			of = fmt.Sprintf("%d of all connected receivers", v.names.Num)
		}
		text := "every commit waits for " + of + ", of which we are one"
		if v.names.Num == 1 {
			text += ": our acknowledgement can stand in for a failover replica's"
		}
		if v.commit == "remote_write" {
			text += "; it waits until it is received, not until it is durable"
		}
		return engines.GuaranteeShared, text
	case v.commit == "remote_write":
		return engines.GuaranteeReceived, "every commit waits until we have received it, not until it is durable (synchronous_commit is remote_write)"
	}
	return engines.GuaranteeSynchronous, "every commit waits for our acknowledgement"
}

// hangs reports whether commits hang while our receiver does not answer; known
// is false where the server hides who else does.
func (v syncView) hangs() (hangs, known bool) {
	others := v.names.others(v.receiver)
	switch {
	case !slices.Contains(others, "*") && len(others) < v.names.Num:
		return true, true
	case v.visible:
		return v.answering < v.names.Num, true
	}
	return false, false
}

func (v syncView) withoutUs() string {
	hangs, known := v.hangs()
	switch {
	case !known:
		return "commits hang or other standbys answer"
	case hangs:
		return "commits hang"
	}
	return "other standbys answer for it"
}

func (v syncView) mayBeLost() string {
	if v.behind < 0 {
		return "; how much would be lost with the server is not known"
	}
	return "; up to " + sizeText(v.behind) + " of log would be lost with the server now"
}

// findings are what is risky about how commits wait for us.
func (v syncView) findings() []repo.Finding {
	var out []repo.Finding
	add := func(severity, code, message, fix string) {
		out = append(out, finding(severity, code, message, fix)...)
	}
	if v.namesErr != nil {
		add(severityWarning, "sync-names", "synchronous_standby_names could not be read: "+v.namesErr.Error(), "")
	}
	if f := v.applyFinding(); f != nil {
		out = append(out, *f)
	}
	if !v.named() {
		return out
	}
	out = append(out, v.listFindings()...)
	switch v.commit {
	case "off", "local":
		add(severityWarning, "sync-nothing-waits", "synchronous_standby_names names "+v.receiver+", but synchronous_commit is "+v.commit+": no commit waits for anybody",
			"ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();")
	case "remote_write":
		add(severityWarning, "sync-remote-write", "synchronous_commit is remote_write: commits wait until "+v.receiver+" has received them, not until they are durable",
			"ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf();")
	}
	waits := v.commit != "off" && v.commit != "local"
	if not := v.exceptions(); not != "" && waits {
		add(severityInfo, "sync-exceptions", "not waiting for durability: "+not, v.resetSQL("off", "local", "remote_write"))
	}
	if v.sender == nil && waits {
		v.absent(add)
	}
	if !v.visible {
		add(severityInfo, "sync-hidden", "role "+v.role+" does not see whether commits wait for "+v.receiver+" now", "GRANT pg_monitor TO "+v.role+";")
	}
	return out
}

func (v syncView) absent(add func(severity, code, message, fix string)) {
	list := standbyNames{Any: v.names.Any, Num: v.names.Num, Members: v.names.others(v.receiver)}
	list.Num = max(1, min(list.Num, len(list.Members)))
	severity := severityWarning
	if hangs, _ := v.hangs(); hangs {
		severity = severityError
	}
	add(severity, "sync-absent", v.receiver+" is named in synchronous_standby_names but not connected: "+v.withoutUs(),
		list.setSQL()+"  -- to let commits go on without it; or start holdfast stream")
}

// listFindings are about the list that names us.
func (v syncView) listFindings() []repo.Finding {
	index, exact := v.names.find(v.receiver)
	others := v.names.others(v.receiver)
	// Both: us and the first failover replica that answers.
	both := standbyNames{Num: 2, Members: append([]string{v.receiver}, others...)}
	fix := both.setSQL() + "  -- waits for us and for one of the others"
	switch {
	case !exact:
		return finding(severityWarning, "synchronous-receiver",
			"synchronous_standby_names has a *, which matches "+v.receiver+": commits may wait for the archive, and its acknowledgement may stand in for a standby's",
			"ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (…your standbys by name…)'; SELECT pg_reload_conf();")
	case v.names.Any && v.names.Num == 1 && len(others) > 0:
		return finding(severityWarning, "sync-any-1",
			"synchronous_standby_names is "+v.names.String()+": our acknowledgement can stand in for a failover replica's, which then lacks commits that returned", fix)
	case !v.names.Any && v.names.Num == 1 && index == 0 && len(others) > 0:
		return finding(severityWarning, "sync-first-1",
			"synchronous_standby_names is "+v.names.String()+": commits wait for us and for no failover replica, which then may lack commits that returned", fix)
	}
	return finding(severityInfo, "synchronous-receiver",
		"synchronous_standby_names names "+v.receiver+": commits may wait for our acknowledgement; with durability: store each would wait for the object store", "")
}

// applyFinding: commits that wait for us to apply what they wrote hang.
func (v syncView) applyFinding() *repo.Finding {
	if !v.named() || v.applyWhere() == "" {
		return nil
	}
	fix := v.resetSQL("remote_apply")
	if v.commit == "remote_apply" {
		fix = "ALTER SYSTEM SET synchronous_commit = 'on'; SELECT pg_reload_conf(); " + fix
	}
	return &repo.Finding{Severity: severityError, Code: "sync-remote-apply",
		Message: (&ApplyDemandedError{v.receiver, v.applyWhere()}).Error(),
		Fix:     strings.TrimSpace(fix) + "  -- or take " + v.receiver + " out of synchronous_standby_names"}
}

// applyWhere is where remote_apply is in force, "" nowhere.
func (v syncView) applyWhere() string {
	var out []string
	if v.commit == "remote_apply" {
		out = append(out, "server-wide")
	}
	for _, o := range v.overrides {
		if o.Value == "remote_apply" {
			out = append(out, o.where())
		}
	}
	return strings.Join(out, ", ")
}

// resetSQL takes away the overrides that have one of these values.
func (v syncView) resetSQL(values ...string) string {
	var out []string
	for _, o := range v.overrides {
		if slices.Contains(values, o.Value) {
			out = append(out, o.resetSQL())
		}
	}
	return strings.Join(out, " ")
}
