package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// leadMost is how much log is streamed a second time at most: enough that the
// record which runs into the first byte wanted begins inside it, and that two
// histories of one timeline differ in it.
const leadMost = 1 << 20

// walPage is XLOG_BLCKSZ of every common build; a server with another one only
// gets a lead that begins inside a page.
const walPage = 8192

// lead is log before the first byte wanted. It is streamed again for two
// reasons: the same system identifier and timeline do not make the same
// history (a cloned data directory goes on writing on its own), so what the
// server has there is compared with what the archive holds; and the index of
// the log must know the record that runs into the first byte.
type lead struct {
	from, to repo.Position // to is the first byte wanted
	archived []byte        // of [from, to)
}

// errLeadGone: the server still has the first byte wanted, but perhaps not
// what is before it.
var errLeadGone = errors.New("the log before the first byte wanted is gone")

// DivergedError: server and archive hold different log at one place of one
// branch. One of them is a copy that went its own way.
type DivergedError struct {
	Branch string
	At     repo.Position // of the first byte that differs
}

func (e *DivergedError) Error() string {
	return fmt.Sprintf("the server's log differs from the archive's from %s on (branch %s)", FormatLSN(e.At), e.Branch)
}

func (e *DivergedError) Unwrap() error { return repo.ErrFork }

// leadUp finds how much of the log before pos the archive holds without a
// hole, and reads it. Nothing is led up to where the archive begins.
func (t *tail) leadUp(ctx context.Context, path []repo.Branch, b repo.Branch, pos repo.Position) (lead, error) {
	none := lead{from: pos, to: pos}
	if pos == 0 || t.noLead || t.o.Archived == nil {
		return none, nil
	}
	held, err := t.heldAlong(ctx, path)
	if err != nil {
		return none, err
	}
	from := max(segmentStart(pos-1, t.segment), heldFrom(held, pos))
	if pos-from > leadMost {
		from = (pos - leadMost) / walPage * walPage
	}
	if from >= pos {
		return none, nil
	}
	archived, err := t.o.Archived(ctx, b.ID, from, pos)
	if err != nil {
		return none, fmt.Errorf("read the end of the archived log: %w", err)
	}
	if repo.Position(len(archived)) != pos-from {
		return none, fmt.Errorf("read the end of the archived log: %d bytes of %d", len(archived), pos-from)
	}
	return lead{from: from, to: pos, archived: archived}, nil
}

// heldFrom is where the stretch begins that is held without a hole up to pos;
// pos itself if nothing before it is held.
func heldFrom(held []heldRange, pos repo.Position) repo.Position {
	from := pos
	for moved := true; moved; {
		moved = false
		for _, h := range held {
			if h.Start < from && from <= h.End {
				from, moved = h.Start, true
			}
		}
	}
	return from
}

// compare takes the lead off the front of received log and checks it.
func (r *branchRun) compare(data []byte) ([]byte, error) {
	if r.taken >= r.start {
		return data, nil
	}
	n := int(min(repo.Position(len(data)), r.start-r.taken))
	want := r.lead.archived[r.taken-r.lead.from:][:n]
	if !bytes.Equal(data[:n], want) {
		i := 0
		for data[i] == want[i] {
			i++
		}
		return nil, engines.Permanent(hferr.New("resume the stream of "+r.t.l.name,
			&DivergedError{Branch: r.branch.ID, At: r.taken + repo.Position(i)},
			"Two servers have written on the same timeline: one of them is a clone (a copied data directory, a volume snapshot) that was not promoted, "+
				"and the archive holds the other one's log. Nothing was overwritten or acknowledged. Find out which one is the clone: promote it, so that it "+
				"gets a timeline of its own, or give it a repository of its own."))
	}
	r.taken += repo.Position(n)
	return data[n:], nil
}
