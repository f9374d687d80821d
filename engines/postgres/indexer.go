package postgres

import (
	"encoding/binary"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// maxMarks bounds the marks of one segment. Where there are more, restore
// points stay, and checkpoints and branch ends go; where a list is full, it
// does not prove that a restore point is not there.
const maxMarks = 256

// indexer is the wal.Indexer of one branch. A record counts for the piece
// that holds its last byte.
type indexer struct {
	segment int64
	begin   repo.Position // log before it is not counted
	record  repo.Position // a record begins here: the branch's fork
	walker  *walrecord.Walker
	visit   func(*walrecord.Record) error // ix.take, made once

	piece repo.Position // where the piece begins that the next Cut ends
	lost  bool          // something that ends in this piece may not have been seen
	index repo.LogIndex
	first uint32 // transaction of index.FirstCommit
	last  uint32 // of index.LastCommit
}

var _ wal.Indexer = (*indexer)(nil)

// newIndexer follows a branch from begin on, the position given to
// wal.Intake.Begin, in log of a server with segments of so many bytes. Log
// that leads up to begin may be added first, ideally from a block's start on
// in front of the record that runs into it; a segment's start always is one.
// Without it the pieces up to the first block are not complete, unless the
// branch forks exactly at begin, where a record begins.
func newIndexer(b repo.Branch, segmentSize int64, begin repo.Position) wal.Indexer {
	ix := &indexer{segment: segmentSize, begin: begin, record: b.Fork, piece: begin}
	ix.visit = ix.take
	return ix
}

// Add: see wal.Indexer.
func (ix *indexer) Add(at repo.Position, data []byte) {
	if ix.walker == nil || ix.walker.Pos() != uint64(at) {
		ix.from(at, at == ix.record)
	}
	end := at + repo.Position(len(data))
	for ix.walker != nil && len(data) > 0 && ix.walker.Walk(data, ix.visit) != nil {
		// Get in step again at the next block.
		next := (repo.Position(ix.walker.Pos())/walrecord.BlockSize + 1) * walrecord.BlockSize
		next = min(next, end)
		ix.lost = ix.lost || next > ix.piece
		data = data[len(data)-int(end-next):]
		ix.from(next, false)
	}
}

// from starts a new walk. A first one misses nothing that counts as long as it
// comes in step before begin.
func (ix *indexer) from(at repo.Position, atRecord bool) {
	follows := ix.piece
	if ix.walker != nil {
		follows = repo.Position(ix.walker.Pos())
		ix.lost = ix.lost || ix.unseen()
	}
	ix.lost = ix.lost || at > ix.piece && at != follows
	w, err := walrecord.New(ix.segment, uint64(at), atRecord)
	if err != nil {
		ix.lost = true
		w = nil
	}
	ix.walker = w
}

// unseen says that something that counts may have ended unseen.
func (ix *indexer) unseen() bool { return repo.Position(ix.walker.Unseen()) > ix.piece }

// take counts a record.
func (ix *indexer) take(r *walrecord.Record) error {
	if repo.Position(r.Last) < ix.begin {
		return nil
	}
	if ix.index.First == 0 && repo.Position(r.Start) >= ix.piece {
		ix.index.First = repo.Position(r.Start)
	}
	if r.Kind() == walrecord.Other {
		return nil
	}
	e, err := r.Decode(0)
	if err != nil || e.Truncated {
		ix.lost = true
	}
	if err != nil {
		return nil
	}
	if e.Kind == walrecord.Commit || e.Kind == walrecord.Abort {
		ix.transaction(r, &e)
	} else if m, ok := markOf(r, &e); ok {
		ix.mark(m)
	}
	return nil
}

// transaction counts a commit or an abort. The ids of its subtransactions
// count for the range of ids too, so that they can be looked for.
func (ix *indexer) transaction(r *walrecord.Record, e *walrecord.Event) {
	x := &ix.index
	m := repo.Mark{Kind: repo.MarkCommit, Start: repo.Position(r.Start), End: repo.Position(r.Next), Time: e.Time}
	if e.Kind == walrecord.Commit {
		x.Commits++
		if x.FirstCommit == nil {
			x.FirstCommit, x.LastCommit = &repo.Mark{}, &repo.Mark{}
			*x.FirstCommit, ix.first = m, e.XID
		}
		*x.LastCommit, ix.last = m, e.XID // no garbage, however many there are
	} else {
		x.Aborts++
	}
	if x.MinTime.IsZero() || m.Time.Before(x.MinTime) {
		x.MinTime = m.Time
	}
	if m.Time.After(x.MaxTime) {
		x.MaxTime = m.Time
	}
	ix.id(e.XID)
	for s := e.Subs; len(s) >= 4; s = s[4:] {
		ix.id(binary.LittleEndian.Uint32(s))
	}
}

func (ix *indexer) id(xid uint32) {
	id := uint64(xid)
	if ix.index.MinID == 0 || id < ix.index.MinID {
		ix.index.MinID = id
	}
	ix.index.MaxID = max(ix.index.MaxID, id)
}

// mark keeps a mark if there is room, and a restore point as long as another
// kind can give way.
func (ix *indexer) mark(m repo.Mark) {
	marks := ix.index.Marks
	if len(marks) == maxMarks {
		if m.Kind != repo.MarkRestorePoint {
			return
		}
		i := len(marks) - 1
		for i >= 0 && marks[i].Kind == repo.MarkRestorePoint {
			i--
		}
		if i < 0 {
			return
		}
		marks = append(marks[:i], marks[i+1:]...)
	}
	ix.index.Marks = append(marks, m)
}

// Cut: see wal.Indexer.
func (ix *indexer) Cut() repo.LogIndex {
	out := ix.index
	if out.FirstCommit != nil {
		out.FirstCommit.ID, out.LastCommit.ID = formatXID(ix.first), formatXID(ix.last)
	}
	out.Complete = !ix.lost && ix.walker != nil && !ix.unseen()
	if ix.walker != nil {
		if start, ok := ix.walker.Pending(); ok && out.First == 0 && repo.Position(start) >= ix.piece {
			out.First = repo.Position(start)
		}
		ix.piece = max(ix.begin, repo.Position(ix.walker.Pos()))
	}
	ix.index, ix.lost = repo.LogIndex{}, false
	return out
}
