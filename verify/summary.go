package verify

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/holdfastdb/holdfast/engines"
)

// Summary writes the drill as plain text, for a terminal or a pipe: verdict,
// ladder, RPO, RTO, checks.
func (r *Record) Summary(w io.Writer) error { return r.write(w, true) }

// Outcome is Summary without the ladder, for a person who has just watched it.
func (r *Record) Outcome(w io.Writer) error { return r.write(w, false) }

func (r *Record) write(w io.Writer, phases bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s  drill of %s (%s) to %s\n", strings.ToUpper(string(r.Verdict)), orNone(r.Source.Database), r.Source.Lineage, r.targetText())
	for _, reason := range r.Reasons {
		wrap(&b, "  - ", reason)
	}
	for _, hint := range r.Hints {
		// A command or SQL to copy: never broken.
		fmt.Fprintf(&b, "  hint: %s\n", hint)
	}
	if phases {
		r.summarizePhases(&b)
	}
	r.summarizeRPO(&b)
	r.summarizeRTO(&b)
	r.summarizeChecks(&b)
	for _, f := range r.Findings {
		wrap(&b, f.Severity+": ", fmt.Sprintf("%s (%s)", f.Message, f.Code))
	}
	r.summarizeLabels(&b)
	fmt.Fprintf(&b, "\nRecord  %s\n", r.ID)
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Record) targetText() string {
	if r.Target.Mode == ModeLatest {
		return "the end of the archive"
	}
	if r.Target.Point != nil {
		return r.Target.Point.String()
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
	b.WriteByte('\n')
	switch {
	case !r.RPO.Measured:
		wrap(b, "RPO  ", r.RPO.Statement)
	case r.RPO.Basis == basisHeartbeat:
		fmt.Fprintf(b, "RPO  between %s and %s\n", span(r.RPO.Min), span(r.RPO.Max))
	default:
		fmt.Fprintf(b, "RPO  at most %s\n", span(r.RPO.Max))
	}
	rows := [][]string{}
	add := func(name string, beat *BeatRecord) {
		if beat != nil {
			rows = append(rows, []string{name, fmt.Sprintf("beat %d", beat.N), beat.At.Format(clockFormat), beat.Pos})
		}
	}
	add("last inserted", r.RPO.LastInserted)
	add("last restored", r.RPO.LastRestored)
	add("first absent", r.RPO.FirstAbsent)
	if r.RPO.Measured {
		rows = append(rows, []string{"measured from", "", r.RPO.T.Format(clockFormat), r.RPO.TBasis})
	}
	table(b, rows, []bool{false, true, false, false})
	if r.RPO.Measured {
		wrap(b, "  ", r.RPO.Statement)
	}
	if r.RPO.Measured && r.Source.Note != "" {
		wrap(b, "  ", r.Source.Note)
	}
	objective(b, r.Objective.RPO, r.Objective.RPOVerdict)
}

func (r *Record) summarizeRTO(b *strings.Builder) {
	head := "not reached"
	if r.RTO.Reached {
		head = span(r.RTO.Wall)
	}
	fmt.Fprintf(b, "\nRTO  %s\n", head)
	if r.RTO.Wall > 0 {
		fmt.Fprintf(b, "  from the first command to the last check; critical path %s, answering queries\n  after %s; detection: %s\n", span(r.RTO.Critical), span(r.RTO.Ready), r.RTO.Detection)
	}
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
		rows = append(rows, []string{c.Verdict, shorten(c.ID, nameWidth), c.Tier, found(c)})
	}
	table(b, rows, []bool{false, false, false, false})
}

// found is what a check saw. A failed one is told in full among the reasons.
func found(c engines.CheckResult) string {
	switch {
	case c.Verdict == "fail":
		return "see above"
	case c.Actual == "", c.Actual == c.Expected && c.Detail != "":
		return c.Detail
	}
	return c.Actual
}

// summarizeLabels names what flatters the figures above, if there are any.
func (r *Record) summarizeLabels(b *strings.Builder) {
	if r.RTO.Wall == 0 || len(r.Labels) == 0 {
		return
	}
	b.WriteString("\nTo be fair\n")
	for _, l := range r.Labels {
		wrap(b, "  ", l)
	}
}

const clockFormat = "2006-01-02 15:04:05.000 MST"

const (
	textWidth = 80 // of prose; tables take what they need
	nameWidth = 28 // of a check's name: a user's may be a whole statement
)

// wrap writes text after a lead, broken between words, later lines indented
// by the lead's width. A word longer than a line (a hash) is left whole.
func wrap(b *strings.Builder, lead, text string) {
	indent := strings.Repeat(" ", utf8.RuneCountInString(lead))
	b.WriteString(lead)
	used := len(indent)
	for n, word := range strings.Fields(text) {
		width := utf8.RuneCountInString(word)
		switch {
		case n == 0:
		case used+1+width > textWidth:
			b.WriteString("\n" + indent)
			used = len(indent)
		default:
			b.WriteByte(' ')
			used++
		}
		b.WriteString(word)
		used += width
	}
	b.WriteByte('\n')
}

// shorten cuts s to at most n characters, on one line.
func shorten(s string, n int) string {
	s = strings.Join(strings.Fields(s), " ")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n-1]) + "…"
}

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
