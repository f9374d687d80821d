package postgres

import (
	"strconv"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// markOf is a record as something that a person can name; false for those
// that nobody names. A commit or abort has its transaction's id, a prepared
// one that of the transaction that was prepared. The end of a branch is the
// record that begins the next one: the end of recovery, or the checkpoint
// that stands for it.
func markOf(r *walrecord.Record, e *walrecord.Event) (repo.Mark, bool) {
	m := repo.Mark{Start: repo.Position(r.Start), End: repo.Position(r.Next), Time: e.Time}
	switch e.Kind {
	case walrecord.Commit:
		m.Kind, m.ID = repo.MarkCommit, formatXID(e.XID)
	case walrecord.Abort:
		m.Kind, m.ID = repo.MarkAbort, formatXID(e.XID)
	case walrecord.RestorePoint:
		m.Kind, m.Name = repo.MarkRestorePoint, e.Name
	case walrecord.CheckpointOnline, walrecord.CheckpointShutdown:
		m.Kind = repo.MarkCheckpoint
		if e.Timeline != e.PrevTLI {
			m.Kind = repo.MarkBranchEnd
		}
	case walrecord.EndOfRecovery:
		m.Kind = repo.MarkBranchEnd
	default:
		return repo.Mark{}, false
	}
	return m, true
}

// endsTransaction says that a mark is a commit or an abort.
func endsTransaction(m *repo.Mark) bool {
	return m.Kind == repo.MarkCommit || m.Kind == repo.MarkAbort
}

func formatXID(xid uint32) string { return strconv.FormatUint(uint64(xid), 10) }

// markList hands out the marks of a stretch of log.
type markList struct {
	from, to repo.Position
	all      bool // commits and aborts too
	fn       func(repo.Mark) error
	err      error         // of fn
	given    repo.Position // Start of the last one; pieces may overlap
}

// skip lists restore points from an index, if that is all there is to list.
func (l *markList) skip(p piece) bool {
	x := p.index
	switch {
	case p.to <= l.from:
		return true
	case l.all && x.Commits+x.Aborts > 0, len(x.Marks) >= maxMarks:
		return false
	}
	for _, m := range x.Marks {
		if m.Start < p.to && l.give(m) != nil {
			return false // the walk ends with the same error
		}
	}
	return true
}

func (l *markList) record(r *walrecord.Record, e *walrecord.Event) error {
	if repo.Position(r.Start) >= l.to {
		return errDone
	}
	if m, ok := markOf(r, e); ok {
		return l.give(m)
	}
	return nil
}

// give hands out a mark of the kinds and the stretch asked for.
func (l *markList) give(m repo.Mark) error {
	if l.err != nil {
		return errDone
	}
	wanted := m.Kind == repo.MarkRestorePoint || l.all && endsTransaction(&m)
	if !wanted || m.Start < l.from || m.Start >= l.to || m.Start <= l.given {
		return nil
	}
	l.given = m.Start
	if l.err = l.fn(m); l.err != nil {
		return errDone
	}
	return nil
}
