package postgres

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// explainEnd reads the last lines of a server that ended during recovery.
// The texts are the server's own, the same from 13 to 18.
func explainEnd(lines []string) (hint string, cause error) {
	text := strings.Join(lines, "\n")
	has := func(s string) bool { return strings.Contains(text, s) }
	switch {
	case has("recovery ended before configured recovery target was reached"):
		return "the target must lie before the end of the repository's log; choose an earlier one", ErrTargetNotReached
	case has("could not restore file"):
		return "", ErrFeed
	case has("recovery target timeline") && has("does not exist"):
		return "", fmt.Errorf("%w: a timeline's history is missing", ErrFeed)
	case has("No space left on device"):
		return "give the copy more space", fmt.Errorf("the disk is full")
	case has("resource manager with ID"), has("could not access file"):
		return "use an image with the source's extensions", fmt.Errorf("a library that the source preloads is needed for recovery and is not here")
	case has("unexpected directory entry"), has("directory \"") && has("does not exist"):
		return "a tablespace made after the base backup lies outside the data directory; take a new base backup", nil
	}
	return "", nil
}

// checkEnd proves for a replay to the end of the log that the server did not
// take damage for the end. It stops where a record is invalid; so behind that
// position the plan may hold nothing but one incomplete record.
func (rp *replay) checkEnd(ctx context.Context, c *pgCopy) error {
	if s := rp.req.Plan.Stop; s != nil && (s.Consistent || !s.AtEnd) {
		return nil // not reaching a target is fatal by itself (13 and later)
	}
	legs := rp.req.Plan.Log.Legs
	e := logEnd{feed: rp.req.Feed, segmentSize: rp.details.WALSegmentSize, leg: legs[len(legs)-1], blockSize: c.walBlockSize}
	if err := e.check(ctx, c.reached); err != nil {
		return &ReplayError{Err: err, Lines: rp.log.why()}
	}
	return nil
}

// logEnd looks at the log behind the last record that was replayed.
type logEnd struct {
	feed        wal.Feed
	leg         wal.Leg // the plan's last
	segmentSize int64
	blockSize   int64 // of WAL pages
}

// Sizes of WAL page headers (xlog_internal.h): a segment's first page has the
// long one.
const longHeader, shortHeader = 40, 24

func (e logEnd) check(ctx context.Context, at repo.Position) error {
	if at >= e.leg.To {
		return nil
	}
	stopped := fmt.Errorf("%w: at %s, the plan ends at %s", ErrStoppedEarly, FormatLSN(at), FormatLSN(e.leg.To))
	if at < e.leg.From {
		return stopped
	}
	start := at + e.header(at)
	if start+4 > e.leg.To { // a record begins with its length, never split over pages
		return nil
	}
	name := walNameAt(uint32(e.leg.Branch.Number), start, e.segmentSize)
	window := &windowWriter{skip: int64(start - name.start(e.segmentSize)), want: 4}
	if err := e.feed.Fetch(ctx, name.format(e.segmentSize), window); err != nil {
		return fmt.Errorf("look behind the last record: %w", err)
	}
	length := int64(binary.LittleEndian.Uint32(window.got))
	if length == 0 || length <= e.payload(start) {
		return stopped
	}
	return nil
}

// header is the page header that stands at a position, if one does.
func (e logEnd) header(p repo.Position) repo.Position {
	switch {
	case p%repo.Position(e.segmentSize) == 0:
		return longHeader
	case p%repo.Position(e.blockSize) == 0:
		return shortHeader
	}
	return 0
}

// payload is how many bytes of records fit between start and the plan's end.
func (e logEnd) payload(start repo.Position) int64 {
	n := int64(e.leg.To - start)
	for p := start - start%repo.Position(e.blockSize) + repo.Position(e.blockSize); p < e.leg.To; p += repo.Position(e.blockSize) {
		n -= int64(min(e.header(p), e.leg.To-p))
	}
	return n
}

// windowWriter keeps want bytes behind skip.
type windowWriter struct {
	skip int64
	want int
	got  []byte
}

func (w *windowWriter) Write(p []byte) (int, error) {
	n := len(p)
	if skip := min(w.skip, int64(len(p))); skip > 0 {
		w.skip -= skip
		p = p[skip:]
	}
	w.got = append(w.got, p[:min(len(p), w.want-len(w.got))]...)
	return n, nil
}

var _ io.Writer = (*windowWriter)(nil)
