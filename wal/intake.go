package wal

import (
	"context"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Position is an exact place in one branch's log: see repo.
type Position = repo.Position

// Chunk is a contiguous piece of log as received.
type Chunk struct {
	Pos      Position  // of the first byte
	Data     []byte    // valid only during the call
	SentTime time.Time // source's clock when it was sent
}

// Indexer follows the log of one branch and says what it saw; an engine's. It
// is used by one goroutine at a time.
type Indexer interface {
	// Add takes log that follows what was added before. Bytes before the
	// position given to Begin only lead up to it (the record that runs into
	// it) and are cut off first.
	Add(at Position, data []byte)
	// Cut says what was added since the last Cut, up to the end of the last
	// Add. Nothing in it is shared.
	Cut() repo.LogIndex
}

// Intake is what an engine's tail writes into. One goroutine calls it.
type Intake interface {
	// Begin says on which branch and where the log continues. It records the
	// branch, seals what an earlier branch left open and waits until that is
	// durable, and returns a *GapError if the position does not continue what
	// was written (a hole). A position before the end of what was written is
	// allowed: the bytes sent again are stored again. It may be called again
	// after ctx ended it; nothing has changed then but that the open segment
	// is sealed. From then on ix (nil: none) is the intake's to call, with the
	// bytes that are written.
	Begin(ctx context.Context, b repo.Branch, at Position, ix Indexer) error
	// Write takes the next chunk, which must start where the last one ended.
	// It blocks while too much is waiting for the store (back pressure), so
	// the caller must keep answering its server's keepalives from elsewhere
	// or pass a ctx with a deadline and retry: nothing is taken on ctx errors.
	Write(ctx context.Context, c Chunk) error
	// Tick tells the source's clock at a good round trip without data.
	Tick(source time.Time)
	// Durable is the position up to which every byte since Begin is durable
	// where the user wants it: in the store, or in the local spool. What it
	// returns may be acknowledged to the server; nothing beyond it, ever. Safe
	// for concurrent use.
	Durable() Position
	// Stored is the same for the store alone: what the server keeps for us
	// may be given up to here, and no further. At most Durable.
	Stored() Position
	// Err is the archiver's failure, nil while it works. After an error
	// nothing more becomes durable.
	Err() error
	// Changed is closed when Durable, Stored or Err changed since it was called. It
	// may be closed for other progress too: look, then ask for the next one.
	Changed() <-chan struct{}
}

var _ Intake = (*Archiver)(nil)
