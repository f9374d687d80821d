package verify

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Summary writes the drill as plain text, for a terminal or a pipe: verdict,
// ladder, RPO, RTO, checks.
func (r *Record) Summary(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  drill of %s (%s) to %s\n", strings.ToUpper(string(r.Verdict)), orNone(r.Source.Database), r.Source.Lineage, r.targetText())
	for _, reason := range r.Reasons {
		fmt.Fprintf(&b, "  - %s\n", reason)
	}
	r.summarizePhases(&b)
	r.summarizeRPO(&b)
	r.summarizeRTO(&b)
	r.summarizeChecks(&b)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s: %s (%s)\n", f.Severity, f.Message, f.Code)
	}
	for i, l := range r.Labels {
		if i == 0 {
			fmt.Fprintln(&b, "\nTo be fair")
		}
		fmt.Fprintf(&b, "  %s\n", l)
	}
	fmt.Fprintf(&b, "\nRecord  %s\n", r.ID)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Record) targetText() string {
	if r.Target.Mode == ModeLatest {
		return "the end of the archive"
	}
	if r.Target.Time.IsZero() {
		return "a " + string(r.Target.Mode) + " moment"
	}
	return r.Target.Time.Format(time.RFC3339Nano)
}

func (r *Record) summarizePhases(b *strings.Builder) {
	rows := [][]string{{"Phase", "took", "bytes", "rate", ""}}
	for _, p := range r.Phases {
		name, note := p.Name, p.Note
		if parent, sub, ok := strings.Cut(p.Name, "/"); ok && parent != "" {
			name = "  " + sub
		}
		if p.Result == "failed" {
			note = "failed"
		}
		row := []string{name, span(p.Took), "", "", note}
		if p.Bytes > 0 {
			row[2], row[3] = size(p.Bytes), size(p.Rate)+"/s"
		}
		rows = append(rows, row)
	}
	b.WriteByte('\n')
	table(b, rows, []bool{false, true, true, true, false})
}

func (r *Record) summarizeRPO(b *strings.Builder) {
	head := "not measured"
	if r.RPO.Measured && r.RPO.Basis == basisHeartbeat {
		head = fmt.Sprintf("between %s and %s", span(r.RPO.Min), span(r.RPO.Max))
	} else if r.RPO.Measured {
		head = "at most " + span(r.RPO.Max)
	}
	fmt.Fprintf(b, "\nRPO  %s\n", head)
	rows := [][]string{}
	add := func(name string, beat *BeatRecord) {
		if beat != nil {
			rows = append(rows, []string{name, fmt.Sprintf("beat %d", beat.N), beat.At.Format(clockFormat), beat.Pos})
		}
	}
	add("last inserted", r.RPO.LastInserted)
	add("last restored", r.RPO.LastRestored)
	add("first absent", r.RPO.FirstAbsent)
	if !r.RPO.T.IsZero() {
		rows = append(rows, []string{"measured from", "", r.RPO.T.Format(clockFormat), r.RPO.TBasis})
	}
	table(b, rows, []bool{false, true, false, false})
	fmt.Fprintf(b, "  %s\n", r.RPO.Statement)
	objective(b, r.Objective.RPO, r.Objective.RPOVerdict)
}

func (r *Record) summarizeRTO(b *strings.Builder) {
	head := "not reached"
	if r.RTO.Reached {
		head = span(r.RTO.Wall)
	}
	fmt.Fprintf(b, "\nRTO  %s\n", head)
	if r.RTO.Wall > 0 {
		fmt.Fprintf(b, "  from the first command to the last check; critical path %s, answering queries after %s\n", span(r.RTO.Critical), span(r.RTO.Ready))
	}
	fmt.Fprintf(b, "  detection: %s\n", r.RTO.Detection)
	objective(b, r.Objective.RTO, r.Objective.RTOVerdict)
}

func objective(b *strings.Builder, want int64, verdict string) {
	if want > 0 {
		fmt.Fprintf(b, "  objective %s: %s\n", span(want), verdict)
	}
}

func (r *Record) summarizeChecks(b *strings.Builder) {
	if len(r.Checks) == 0 {
		return
	}
	b.WriteString("\nChecks\n")
	var rows [][]string
	for _, c := range r.Checks {
		found := c.Actual
		if c.Verdict != "pass" && c.Detail != "" {
			found = strings.TrimPrefix(found+"; "+c.Detail, "; ")
		}
		if c.Verdict == "fail" && c.Expected != "" {
			found = "expected " + c.Expected + "; found " + found
		}
		rows = append(rows, []string{c.Verdict, c.ID, c.Tier, found})
	}
	table(b, rows, []bool{false, false, false, false})
}

const clockFormat = "2006-01-02 15:04:05.000 MST"

// table writes rows in columns two spaces apart, indented by two.
func table(b *strings.Builder, rows [][]string, right []bool) {
	widths := make([]int, len(right))
	for _, row := range rows {
		for n, cell := range row {
			widths[n] = max(widths[n], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range rows {
		line := ""
		for n, cell := range row {
			pad := strings.Repeat(" ", widths[n]-utf8.RuneCountInString(cell))
			if right[n] {
				cell = pad + cell
			} else {
				cell += pad
			}
			line += "  " + cell
		}
		b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
}

// span prints milliseconds for people.
func span(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d < 10*time.Second {
		return d.String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// size prints bytes for people, in binary units.
func size(n int64) string {
	const units = "KMGTPE"
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/(1<<10), 0
	for value >= 1<<10 && unit < len(units)-1 {
		value /= 1 << 10
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}
