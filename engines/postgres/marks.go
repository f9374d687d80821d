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
