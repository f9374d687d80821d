package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// spoolDrain stores what an earlier run left in the spool. It may be the only
// copy of acknowledged log: nothing is removed before the store has it.
type spoolDrain struct {
	d       Deps
	lineage *repo.Lineage
	fence   func(context.Context) error

	branches map[string]repo.Branch
	held     map[string][]wal.Range // what the store had of each branch before
	arch     *wal.Archiver          // of the stretch being stored
	branch   string
	next     repo.Position
	beats    map[string][]repo.Beat
	bytes    int64 // stored by this drain
}

// drainSpool returns how much it stored. Damage is no reason to stop: what
// can be read is stored, the files are put aside under another name, and the
// *spool.DamageError is returned beside what was done.
func (d Deps) drainSpool(ctx context.Context, l *repo.Lineage, s *spool.Spool, fence func(context.Context) error) (int64, error) {
	dr := &spoolDrain{d: d, lineage: l, fence: fence, held: map[string][]wal.Range{}, beats: map[string][]repo.Beat{}}
	err := s.Replay(ctx, func(p spool.Piece) error { return dr.take(ctx, p) })
	var damage *spool.DamageError
	if err != nil && !errors.As(err, &damage) {
		return dr.bytes, errors.Join(err, dr.end(ctx))
	}
	if e := dr.finish(ctx); e != nil {
		return dr.bytes, hferr.New("drain the spool", e, "nothing of the spool was removed; start again when the store answers")
	}
	if damage != nil {
		return dr.bytes, errors.Join(err, s.SetAside())
	}
	return dr.bytes, s.Forget()
}

func (dr *spoolDrain) take(ctx context.Context, p spool.Piece) error {
	if p.Beat != nil {
		dr.beats[p.Branch] = append(dr.beats[p.Branch], *p.Beat)
		return nil
	}
	if err := dr.look(ctx, p.Branch); err != nil {
		return err
	}
	end := p.At + repo.Position(len(p.Data))
	if dr.arch != nil && dr.branch == p.Branch && p.At < dr.next { // taken twice
		if end <= dr.next {
			return nil
		}
		p.Data, p.At = p.Data[dr.next-p.At:], dr.next
	}
	if err := dr.compare(ctx, p, end); err != nil {
		return err
	}
	if wal.FirstMissing(dr.held[p.Branch], p.At) >= end {
		return nil
	}
	if dr.arch == nil || dr.branch != p.Branch || dr.next != p.At {
		if err := dr.begin(ctx, p); err != nil {
			return err
		}
	}
	if err := dr.arch.Write(ctx, wal.Chunk{Pos: p.At, Data: p.Data, SentTime: p.Sent}); err != nil {
		return err
	}
	dr.next = end
	dr.bytes += int64(len(p.Data))
	return nil
}

// compare holds what the store has against the spool: the same place of the
// same branch with other bytes is another server's history, and the spool's is
// then the only copy of what was acknowledged.
func (dr *spoolDrain) compare(ctx context.Context, p spool.Piece, end repo.Position) error {
	to := min(end, wal.FirstMissing(dr.held[p.Branch], p.At))
	if to <= p.At {
		return nil
	}
	stored, err := wal.ReadRange(ctx, dr.lineage, p.Branch, p.At, to)
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, p.Data[:to-p.At]) {
		return hferr.New("drain the spool", fmt.Errorf("%w: the store's log of branch %s differs from the spool's at %s", repo.ErrFork, p.Branch, p.At.Key()),
			"Another server has written on this timeline and was archived since (a clone, a snapshot that was put back). The spool holds what was acknowledged "+
				"to this one, and is kept: keep a copy of its directory, find out which server is the true primary, and stream with an empty spool directory.")
	}
	return nil
}

// look finds a branch, which was recorded before any of its log was taken,
// and what the store holds of it.
func (dr *spoolDrain) look(ctx context.Context, id string) error {
	if dr.branches == nil {
		all, err := dr.lineage.Branches(ctx)
		if err != nil {
			return err
		}
		dr.branches = map[string]repo.Branch{}
		for _, b := range all {
			dr.branches[b.ID] = b
		}
	}
	if _, ok := dr.branches[id]; !ok {
		return fmt.Errorf("the spool holds log of branch %s: %w", id, repo.ErrNotFound)
	}
	if _, ok := dr.held[id]; ok {
		return nil
	}
	refs, err := dr.lineage.Segments(ctx, id, 0)
	if err != nil {
		return err
	}
	dr.held[id] = wal.Coverage(refs)
	return nil
}

func (dr *spoolDrain) begin(ctx context.Context, p spool.Piece) error {
	if err := dr.end(ctx); err != nil {
		return err
	}
	dr.arch = wal.NewArchiver(dr.lineage, wal.ArchiverOptions{Log: dr.d.Log, Clock: dr.d.Clock, Fence: dr.fence})
	dr.branch, dr.next = p.Branch, p.At
	return dr.arch.Begin(ctx, dr.branches[p.Branch], p.At, nil)
}

// end makes the stretch durable in the store.
func (dr *spoolDrain) end(ctx context.Context) error {
	if dr.arch == nil {
		return nil
	}
	arch := dr.arch
	dr.arch = nil
	return arch.Close(ctx, "spool")
}

// finish ends the last stretch and notes the heartbeats, which may be with
// segments of the store already; a beat that is noted twice counts once.
func (dr *spoolDrain) finish(ctx context.Context) error {
	if err := dr.end(ctx); err != nil {
		return err
	}
	for branch, beats := range dr.beats {
		if err := dr.lineage.PutNote(ctx, repo.Note{Branch: branch, Written: dr.d.Clock(), Beats: beats, Event: "spool"}); err != nil {
			return err
		}
	}
	return nil
}
