package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Exit statuses of a restore_command, as RestoreArchivedFile reads them and
// as tried on 15 and 18 (docs/postgres-restore-command.md): up to 125 says
// "not in the archive", and recovery ends and the server promotes; above it,
// and a death by a signal, is FATAL. 126 and 127 are FATAL too but the log
// then blames the command's permissions or path; from 128 on sh uses them for
// signals, of which SIGTERM (143) ends the server without a FATAL line.
const (
	exitDelivered = 0
	exitBeyond    = 1
	exitFailed    = 200
)

// fetchTail ends a restore_command: the server's placeholders, and a guard that
// lets no status but "delivered" and "beyond the plan" mean either. A Go
// program that panics or runs out of memory exits with 2, which would promote.
const fetchTail = "%f %p || { [ $? -eq 1 ] && exit 1; exit 200; }"

// FeedExit is the exit status of a restore_command for a Fetch's outcome.
func (restorer) FeedExit(err error) int {
	switch {
	case err == nil:
		return exitDelivered
	case errors.Is(err, wal.ErrBeyondPlan):
		return exitBeyond
	default:
		return exitFailed
	}
}

// logCopier is what feed needs of a wal.Reader.
type logCopier interface {
	Copy(ctx context.Context, branch string, from, to wal.Position, w io.Writer) error
}

var _ wal.Sequence = (*feed)(nil)

// feed answers a restore_command from a plan that was fixed beforehand.
type feed struct {
	legs        []wal.Leg
	segmentSize int64
	log         logCopier
}

// Feed names the plan's log as WAL files and timeline history files.
func (restorer) Feed(p *engines.RestorePlan, rd *wal.Reader) (wal.Feed, error) {
	d, err := ParseDetails(p.Base.Details)
	if err != nil {
		return nil, err
	}
	return newFeed(p.Log, d.WALSegmentSize, rd)
}

func newFeed(p *wal.Plan, segmentSize int64, log logCopier) (*feed, error) {
	if p == nil || len(p.Legs) == 0 {
		return nil, errors.New("a WAL feed needs a plan with at least one leg")
	}
	if from := p.Legs[0].From; from != segmentStart(from, segmentSize) {
		return nil, fmt.Errorf("the plan begins at %s, inside a WAL segment: recovery reads whole segments", FormatLSN(from))
	}
	for i, leg := range p.Legs {
		if leg.To < leg.From || (i > 0 && leg.From != p.Legs[i-1].To) {
			return nil, fmt.Errorf("leg %d of the plan (%s to %s) does not continue the one before it", i, FormatLSN(leg.From), FormatLSN(leg.To))
		}
		if leg.Branch.Number == 0 || leg.Branch.Number > 1<<32-1 || (i > 0 && leg.Branch.Number <= p.Legs[i-1].Branch.Number) {
			return nil, fmt.Errorf("leg %d of the plan is on timeline %d, which cannot follow", i, leg.Branch.Number)
		}
	}
	return &feed{legs: p.Legs, segmentSize: segmentSize, log: log}, nil
}

// Fetch writes a WAL file or a history file. A name outside the plan is
// wal.ErrBeyondPlan; a name that is neither (a backup label file, a .partial)
// is too, for the plan holds no such thing.
func (f *feed) Fetch(ctx context.Context, name string, w io.Writer) error {
	if timeline, ok := parseHistoryName(name); ok {
		return f.fetchHistory(timeline, w)
	}
	n, err := parseWALName(name, f.segmentSize)
	if err != nil {
		return fmt.Errorf("%w: %w", err, wal.ErrBeyondPlan)
	}
	return f.fetchSegment(ctx, n, w)
}

// Run lists WAL files in the order recovery asks for them: each on the newest
// of the plan's timelines that began in or before it (XLogFileReadAnyTLI).
func (f *feed) Run(name string, n int) []string {
	at, err := parseWALName(name, f.segmentSize)
	if err != nil || !f.holds(at) {
		return nil
	}
	last := f.legs[len(f.legs)-1]
	out := []string{name}
	for start := at.start(f.segmentSize); len(out) < n; {
		start += repo.Position(f.segmentSize)
		if start >= last.To {
			break
		}
		timeline := f.legs[0].Branch.Number
		for _, leg := range f.legs {
			if segmentStart(leg.From, f.segmentSize) <= start {
				timeline = leg.Branch.Number
			}
		}
		out = append(out, walNameAt(uint32(timeline), start, f.segmentSize).format(f.segmentSize))
	}
	return out
}

// PieceSize is the size of a WAL file.
func (f *feed) PieceSize() int64 { return f.segmentSize }

// holds says whether a WAL file is inside the plan.
func (f *feed) holds(n walName) bool {
	start := n.start(f.segmentSize)
	leg, ok := f.leg(n.Timeline)
	return ok && start >= f.legs[0].From && start+repo.Position(f.segmentSize) > leg.From && start < leg.To
}

// fetchHistory delivers the history of a timeline on the plan's path. Without
// it recovery would stay on an older timeline, so one that is damaged fails
// hard. A root above timeline 1, whose history was already gone when we first
// saw the server, gets a comment: the server insists on the file when asked
// for that timeline by number, and reads a comment as "no ancestors".
func (f *feed) fetchHistory(timeline uint32, w io.Writer) error {
	leg, ok := f.leg(timeline)
	if !ok || timeline == 1 {
		return fmt.Errorf("%s: %w", historyName(timeline), wal.ErrBeyondPlan)
	}
	history, err := HistoryOf(leg.Branch)
	if err != nil {
		return err
	}
	if history == nil {
		history = fmt.Appendf(nil, "# the history of timeline %d was not on the server that was backed up\n", timeline)
	}
	_, err = w.Write(history)
	return err
}

// fetchSegment delivers one whole WAL file.
//
// The server asks for a segment on the newest timeline of its target's
// history that began at or before it (XLogFileReadAnyTLI), so the segment in
// which a timeline switches is asked for on the new one, and its head comes
// from the ancestors. Asked for on the old one it would end at the switch:
// that is inside the plan and cannot be delivered whole, hence a hard error.
func (f *feed) fetchSegment(ctx context.Context, n walName, w io.Writer) error {
	start := n.start(f.segmentSize)
	end := start + repo.Position(f.segmentSize)
	name := n.format(f.segmentSize)
	leg, _ := f.leg(n.Timeline)
	if !f.holds(n) {
		return fmt.Errorf("%s: %w", name, wal.ErrBeyondPlan)
	}
	last := leg.Branch.ID == f.legs[len(f.legs)-1].Branch.ID
	if end > leg.To && !last {
		return fmt.Errorf("%s: this plan leaves timeline %d at %s, inside the file; it can only be read on the timeline that follows",
			name, n.Timeline, FormatLSN(leg.To))
	}
	to := min(end, leg.To)
	counted := &countWriter{w: w}
	if err := f.log.Copy(ctx, leg.Branch.ID, start, to, counted); err != nil {
		// Whatever the reader says, inside the plan it never means "beyond".
		return fmt.Errorf("%s: %w", name, hardError{err})
	}
	if counted.n != int64(to-start) {
		return fmt.Errorf("%s: %d bytes of log instead of %d", name, counted.n, to-start)
	}
	return writeZeros(w, int64(end-to))
}

func (f *feed) leg(timeline uint32) (wal.Leg, bool) {
	for _, leg := range f.legs {
		if leg.Branch.Number == uint64(timeline) {
			return leg, true
		}
	}
	return wal.Leg{}, false
}

// hardError keeps an error's text and kind except that it is never
// wal.ErrBeyondPlan, whatever it wraps.
type hardError struct{ err error }

func (e hardError) Error() string { return e.err.Error() }
func (e hardError) Is(target error) bool {
	return target != wal.ErrBeyondPlan && errors.Is(e.err, target)
}
func (e hardError) As(target any) bool { return errors.As(e.err, target) }

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// writeZeros pads the last, partial segment: recovery refuses a short file
// and takes zeros for the end of the log.
func writeZeros(w io.Writer, n int64) error {
	zeros := make([]byte, min(n, 64<<10))
	for n > 0 {
		m, err := w.Write(zeros[:min(n, int64(len(zeros)))])
		if err != nil {
			return err
		}
		n -= int64(m)
	}
	return nil
}
