package postgres

import (
	"fmt"
	"strings"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// walName is what a WAL file's name says: 24 upper-case hexadecimal digits,
// eight each for the timeline, the high part and the low part of the segment
// number. The low part counts the segments of 4 GiB of log, so its range
// depends on the cluster's segment size (xlog_internal.h, XLogFileName).
type walName struct {
	Timeline uint32
	Segment  uint64 // number of segments before this one
}

// segmentsPerID is how many segments 4 GiB of log have.
func segmentsPerID(segmentSize int64) uint64 { return (1 << 32) / uint64(segmentSize) }

// walNameAt names the segment that holds position p on a timeline.
func walNameAt(timeline uint32, p repo.Position, segmentSize int64) walName {
	return walName{Timeline: timeline, Segment: uint64(p) / uint64(segmentSize)}
}

// start is the position of the segment's first byte.
func (n walName) start(segmentSize int64) repo.Position {
	return repo.Position(n.Segment * uint64(segmentSize))
}

// format is the file name for clusters of this segment size.
func (n walName) format(segmentSize int64) string {
	per := segmentsPerID(segmentSize)
	return fmt.Sprintf("%08X%08X%08X", n.Timeline, n.Segment/per, n.Segment%per)
}

// parseWALName reads a WAL file name. The numbers are hexadecimal, never
// decimal: other tools have read timeline 16 as 10.
func parseWALName(name string, segmentSize int64) (walName, error) {
	if len(name) != 24 || !isUpperHex(name) {
		return walName{}, fmt.Errorf("%q is not a WAL file name", name)
	}
	timeline, _ := parseHex32(name[:8])
	high, _ := parseHex32(name[8:16])
	low, _ := parseHex32(name[16:])
	per := segmentsPerID(segmentSize)
	if timeline == 0 || low >= per {
		return walName{}, fmt.Errorf("%q is not the name of a WAL file of %d bytes", name, segmentSize)
	}
	return walName{Timeline: uint32(timeline), Segment: high*per + low}, nil
}

// historySuffix ends the names of timeline history files.
const historySuffix = ".history"

// historyName is a timeline's history file: "00000002.history".
func historyName(timeline uint32) string { return fmt.Sprintf("%08X%s", timeline, historySuffix) }

// parseHistoryName reads a history file's name.
func parseHistoryName(name string) (timeline uint32, ok bool) {
	digits, ok := strings.CutSuffix(name, historySuffix)
	if !ok || len(digits) != 8 || !isUpperHex(digits) {
		return 0, false
	}
	n, _ := parseHex32(digits)
	return uint32(n), n != 0
}

// isUpperHex is strict about case, as PostgreSQL's own IsXLogFileName is.
func isUpperHex(s string) bool { return strings.Trim(s, "0123456789ABCDEF") == "" }
