package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// A history file describes how a timeline came about: one line an ancestor,
// "<timeline>\t<switch position>\t<reason>", oldest first. The server makes a
// child's file by copying its parent's bytes, a newline, and one line more
// (writeTimeLineHistory in xlogutils/timeline.c), so each ancestor's own file
// is a prefix of it. That is what lets any server of a lineage, and a reader
// of the store, derive the same branch ids for the whole path.

// historySwitch is one line of a history file: the timeline that ended, and
// the first position that is no longer on it.
type historySwitch struct {
	Timeline uint32
	End      repo.Position
	Prefix   int // bytes of the file before this line and its separator: the parent's own file
}

const maxHistory = 16 << 20 // bytes; a real file has about 50 a line

var errHistory = errors.New("malformed timeline history")

// parseHistory reads the history file of a timeline. Lines that are empty or
// begin with '#' are skipped, as the server does; timelines and positions
// must ascend.
func parseHistory(b []byte) ([]historySwitch, error) {
	if len(b) > maxHistory {
		return nil, fmt.Errorf("%w: %d bytes", errHistory, len(b))
	}
	var out []historySwitch
	for off := 0; off < len(b); {
		line, next := b[off:], len(b)
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line, next = line[:i], off+i+1
		}
		s, ok, err := parseHistoryLine(string(line))
		if err != nil {
			return nil, fmt.Errorf("%w: line %q: %w", errHistory, line, err)
		}
		if ok {
			if n := len(out); n > 0 && (s.Timeline <= out[n-1].Timeline || s.End < out[n-1].End) {
				return nil, fmt.Errorf("%w: line %q does not follow the one before it", errHistory, line)
			}
			// One newline separates the parent's bytes from this line; the
			// first line of a file has none.
			s.Prefix = off
			if len(out) > 0 {
				s.Prefix = off - 1
			} else {
				s.Prefix = 0
			}
			out = append(out, s)
		}
		off = next
	}
	return out, nil
}

func parseHistoryLine(line string) (s historySwitch, ok bool, err error) {
	trimmed := strings.TrimLeft(line, " \t\r")
	if trimmed == "" || trimmed[0] == '#' {
		return s, false, nil
	}
	fields := strings.Fields(trimmed)
	if len(fields) < 2 {
		return s, false, errors.New("want a timeline and a position")
	}
	tli, err := strconv.ParseUint(fields[0], 10, 32)
	if err != nil || tli == 0 {
		return s, false, errors.New("not a timeline number")
	}
	end, err := ParseLSN(fields[1])
	if err != nil {
		return s, false, err
	}
	return historySwitch{Timeline: uint32(tli), End: end}, true, nil
}

// Keys of Branch.Proof.
const (
	proofHistory       = "history"        // the history file's text
	proofHistoryBase64 = "history_base64" // instead of it where it is not UTF-8
	proofHistoryHash   = "history_sha256"
	proofSwitch        = "switch_lsn"
)

// branchPath gives the branches from the oldest ancestor named in a history
// file to the timeline itself. An empty history makes a root: timeline 1, or
// a later one whose file is lost.
func branchPath(timeline uint32, history []byte) ([]repo.Branch, error) {
	switches, err := parseHistory(history)
	if err != nil {
		return nil, err
	}
	if n := len(switches); n > 0 && switches[n-1].Timeline >= timeline {
		return nil, fmt.Errorf("%w: timeline %d is not before %d", errHistory, switches[n-1].Timeline, timeline)
	}
	if len(switches) == 0 {
		return []repo.Branch{rootBranch(timeline)}, nil
	}
	path := make([]repo.Branch, 0, len(switches)+1)
	path = append(path, rootBranch(switches[0].Timeline))
	for i, s := range switches {
		tli, file := timeline, history
		if i+1 < len(switches) {
			tli, file = switches[i+1].Timeline, history[:switches[i+1].Prefix]
		}
		path = append(path, childBranch(tli, file, s, path[i].ID))
	}
	return path, nil
}

func rootBranch(timeline uint32) repo.Branch {
	return repo.Branch{
		ID:     fmt.Sprintf("%08x-root", timeline),
		Number: uint64(timeline),
		Proof:  map[string]string{},
	}
}

func childBranch(timeline uint32, history []byte, s historySwitch, parent string) repo.Branch {
	sum := sha256.Sum256(history)
	hash := hex.EncodeToString(sum[:])
	proof := map[string]string{proofHistoryHash: hash, proofSwitch: FormatLSN(s.End)}
	if utf8.Valid(history) {
		proof[proofHistory] = string(history)
	} else {
		proof[proofHistoryBase64] = base64.StdEncoding.EncodeToString(history)
	}
	return repo.Branch{
		ID:     fmt.Sprintf("%08x-%s", timeline, hash[:8]),
		Parent: parent,
		Fork:   s.End,
		Number: uint64(timeline),
		Proof:  proof,
	}
}

// HistoryOf returns the history file a branch record carries, byte for byte
// and checked against its hash; nil for a root.
func HistoryOf(b repo.Branch) ([]byte, error) {
	want := b.Proof[proofHistoryHash]
	if want == "" {
		return nil, nil
	}
	history := []byte(b.Proof[proofHistory])
	if s, ok := b.Proof[proofHistoryBase64]; ok {
		var err error
		if history, err = base64.StdEncoding.DecodeString(s); err != nil {
			return nil, fmt.Errorf("branch %s: %w", b.ID, err)
		}
	}
	sum := sha256.Sum256(history)
	if hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("branch %s: its history file does not match its hash: %w", b.ID, repo.ErrDamaged)
	}
	return history, nil
}

// owner is the index of the branch in path that holds position p: the last
// one that forks at or before it.
func owner(path []repo.Branch, p repo.Position) int {
	i := len(path) - 1
	for i > 0 && path[i].Fork > p {
		i--
	}
	return i
}
