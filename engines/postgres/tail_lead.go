package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

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
func (t *tail) leadUp(ctx context.Context, path []repo.Branch, pos repo.Position) (lead, error) {
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
	// As seen on the branch that holds the last byte: the one that begins at
	// pos may not be recorded yet.
	archived, err := t.o.Archived(ctx, path[owner(path, pos-1)].ID, from, pos)
	if err != nil {
		return none, fmt.Errorf("read the end of the archived log: %w", err)
	}
	if n := repo.Position(len(archived)); n == 0 || n > pos-from {
		return none, fmt.Errorf("read the end of the archived log: %d bytes of %d", n, pos-from)
	}
	return lead{from: pos - repo.Position(len(archived)), to: pos, archived: archived}, nil
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
	if err := sameLog(data[:n], r.lead.archived[r.taken-r.lead.from:][:n], r.branch.ID, r.taken); err != nil {
		return nil, r.t.l.diverged("resume the stream of "+r.t.l.name, err)
	}
	r.index.Add(r.taken, data[:n])
	r.taken += repo.Position(n)
	return data[n:], nil
}

// sameLog compares log of a branch from a position on.
func sameLog(server, archive []byte, branch string, at repo.Position) error {
	if bytes.Equal(server, archive) {
		return nil
	}
	i := 0
	for server[i] == archive[i] {
		i++
	}
	return &DivergedError{Branch: branch, At: at + repo.Position(i)}
}

func (l *logSource) diverged(what string, err error) error {
	return engines.Permanent(hferr.New(what, err,
		"Two servers have written on the same timeline: one of them is a clone (a copied data directory, a volume snapshot) that was not promoted, "+
			"and the archive holds the other one's log. Nothing was overwritten or acknowledged. Find out which one is the clone: promote it, so that it "+
			"gets a timeline of its own, or give it a repository of its own."))
}

// Compare streams the bytes from the server once more, over no slot.
func (l *logSource) Compare(ctx context.Context, branch string, from repo.Position, archived []byte) error {
	what := "compare the log of " + l.name + " with the archive's"
	conn, err := l.replication(ctx, nil)
	if err != nil {
		return err
	}
	where, err := locate(ctx, conn)
	if err != nil {
		l.hangUp(conn)
		return l.explain(what, err)
	}
	i := slices.IndexFunc(where.Path, func(b repo.Branch) bool { return b.ID == branch })
	if i < 0 {
		l.hangUp(conn)
		return l.diverged(what, &LeftHistoryError{Branch: branch, Server: where.branch().ID, At: from})
	}
	stream, err := startReplication(ctx, conn, "", from, where.Path[i].Number, l.stall)
	if err != nil {
		l.hangUp(conn)
		return l.explain(what, err)
	}
	defer stream.close()
	err = compareWith(ctx, stream, branch, from, archived)
	if errors.Is(err, repo.ErrFork) {
		return l.diverged(what, err)
	}
	return l.explain(what, err)
}

func compareWith(ctx context.Context, s *link, branch string, at repo.Position, archived []byte) error {
	for len(archived) > 0 {
		select {
		case a := <-s.arrivals:
			n := min(len(a.Data), len(archived))
			if n > 0 && a.Pos != at {
				return fmt.Errorf("%w: log at %s in place of %s", errStream, FormatLSN(a.Pos), FormatLSN(at))
			}
			if err := sameLog(a.Data[:n], archived[:n], branch, at); err != nil {
				return err
			}
			at, archived = at+repo.Position(n), archived[n:]
		case <-s.ended:
			if len(s.arrivals) == 0 {
				return s.err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
