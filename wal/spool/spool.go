// Package spool keeps acknowledged log on a local disk until the store has
// it: what answers for `durability: spool`. It takes log and heartbeats,
// makes them durable (Sync), gives up what the store holds (Trim), and hands
// over at the next start what it still holds (Replay). One directory is one
// lineage's, used by one process at a time. It knows nothing of what the log
// means; docs/FORMAT.md F27 is its format, internal/repo seals it.
//
// A newcomer reads this file, then write.go (the way to disk), scan.go and
// open.go (what a crash left), trim.go, replay.go.
package spool

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

const (
	defaultFile = 16 << 20
	// MinLimit is the least that Options.Limit may be, bytes.
	MinLimit = 64 << 10

	// maxBatch is how much may wait for a Sync before Append makes one, bytes.
	maxBatch = 4 << 20
	// maxAhead is how far zeros are written ahead of the log, so that most
	// syncs only replace bytes and need no journal of the file system.
	maxAhead = 256 << 10

	unit = repo.SpoolUnit
)

// Position is an exact place in one branch's log: see repo.
type Position = repo.Position

// Point is a position on its branch.
type Point = wal.Point

// Sealer makes and opens the keys of spool files; *repo.Lineage is one.
type Sealer interface {
	Info() repo.LineageInfo
	NewSpoolFile(name string) (*repo.SpoolFile, error)
	OpenSpoolFile(head []byte, name string) (*repo.SpoolFile, error)
}

var _ Sealer = (*repo.Lineage)(nil)

// Options bound a spool.
type Options struct {
	Limit int64 // bytes all its files may take on disk; at least MinLimit
	// FileBytes is where a file is cut, and with it the grain of Trim: 0 is
	// 16 MiB. A quarter of Limit is the most.
	FileBytes int64
	Log       *slog.Logger // nil: nothing is logged

	frame int // most plaintext of a frame, bytes; 0: repo.FrameSize
}

func (o Options) withDefaults() (Options, error) {
	if o.Limit < MinLimit {
		return o, fmt.Errorf("a spool of at most %d bytes is too small: give it at least %d", o.Limit, MinLimit)
	}
	if o.FileBytes <= 0 {
		o.FileBytes = defaultFile
	}
	o.FileBytes = min(o.FileBytes, o.Limit/4)
	if o.frame == 0 {
		o.frame = repo.FrameSize
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o, nil
}

// ahead is how far zeros are written ahead, bytes.
func (o Options) ahead() int64 { return min(maxAhead, o.FileBytes/8/unit*unit) }

var _ wal.Spool = (*Spool)(nil)

// Spool is an open spool. Safe for concurrent use; Begin, Append and Beat
// keep the order in which they are called.
type Spool struct {
	fs     diskfs.FS
	seal   Sealer
	o      Options
	where  string // for messages
	unlock func() error
	owned  bool // fs is closed with the spool

	removing sync.Mutex // held by who removes files, before mu

	mu      sync.Mutex
	changed chan struct{} // closed when a sync has ended
	err     error         // final
	closed  bool
	at      Point  // end of what was taken
	durable Point  // end of what is durable
	taken   uint64 // records taken …
	synced  uint64 // … and durable
	batch   *batch // taken, not being written yet
	spare   *batch
	syncing bool
	flying  int64   // most bytes the batch being written adds on disk
	files   []*file // oldest first, those of earlier runs (left) before ours
	cur     *file   // the one being written: the last
	left    int
	bytes   int64 // on disk
	stored  map[string]Position

	w writer // only used by who set syncing
}

// Begin says on which branch and where the log continues. ErrFull.
func (s *Spool) Begin(branch string, at Position) error {
	if branch == "" || len(branch) > 128 {
		return fmt.Errorf("branch %q is no id", branch)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(len(branch) + maxRecord); err != nil {
		return err
	}
	s.at = Point{Branch: branch, Pos: at}
	s.batch.begin(s.at)
	s.took()
	return nil
}

// Append takes log that follows what was taken before; sent is the source's
// clock when it was sent. Nothing is durable before Sync. It keeps no
// reference to data. ErrFull: nothing was taken.
func (s *Spool) Append(at Position, data []byte, sent time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.batch.plain > 0 && s.batch.plain+len(data) > maxBatch {
		if err := s.sync(); err != nil { // back pressure
			return err
		}
	}
	if err := s.room(len(data) + (len(data)/s.o.frame+1)*2*maxRecord); err != nil {
		return err
	}
	if err := s.follows(at); err != nil {
		return err
	}
	s.batch.log(s.at, data, sent)
	s.at.Pos += Position(len(data))
	s.took()
	return nil
}

func (s *Spool) follows(at Position) error {
	if s.at.Branch == "" {
		return errors.New("log given to the spool before Begin")
	}
	if at != s.at.Pos {
		return fmt.Errorf("log of branch %s given to the spool from %s, expected from %s", s.at.Branch, at.Key(), s.at.Pos.Key())
	}
	return nil
}

// Beat takes an acknowledged heartbeat. The spool keeps it until the store
// holds log beyond what the spool had taken before the beat: the segment with
// such log was sealed after it. ErrFull.
func (s *Spool) Beat(b repo.Beat) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.room(maxRecord); err != nil {
		return err
	}
	if s.at.Branch == "" {
		return errors.New("heartbeat given to the spool before Begin")
	}
	s.batch.beat(s.at, b)
	s.took()
	return nil
}

func (s *Spool) took() { s.taken++ }

// room refuses what would pass the limit, n bytes of records.
func (s *Spool) room(n int) error {
	if err := s.usable(); err != nil {
		return err
	}
	if s.bytes+s.flying+s.batch.bound()+bound(n, n/s.o.frame+2)+s.o.ahead() > s.o.Limit {
		return s.full()
	}
	return nil
}

// Sync makes durable all that was taken before the call, and returns the end
// of what is durable: what may be acknowledged. Concurrent calls share one
// fsync. An error is final (ErrFailed): what was not durable never becomes
// so, whatever is written or synced later.
func (s *Spool) Sync() (Point, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.sync()
	return s.durable, err
}

func (s *Spool) sync() error {
	for want := s.taken; ; {
		switch {
		case s.closed:
			return ErrClosed
		case s.err != nil:
			return s.err
		case s.synced >= want:
			return nil
		case s.syncing:
			s.wait()
		default:
			s.flush()
		}
	}
}

// wait gives up the lock until a sync has ended.
func (s *Spool) wait() {
	ch := s.changed
	s.mu.Unlock()
	<-ch
	s.mu.Lock()
}

// flush writes the batch. It gives up the lock meanwhile.
func (s *Spool) flush() {
	b, upTo := s.batch, s.taken
	s.batch, s.spare = s.spare, nil
	s.syncing, s.flying = true, b.bound()
	var ahead int64
	if s.bytes+s.flying+s.o.ahead() <= s.o.Limit {
		ahead = s.o.ahead()
	}
	s.mu.Unlock()
	f, used, size, err := s.write(b, ahead)
	s.mu.Lock()
	s.syncing, s.flying = false, 0
	if err != nil {
		s.fail("write the spool", err)
	} else {
		s.bytes += size - f.size
		f.used, f.size = used, size
		f.facts.add(b.facts)
		s.durable, s.synced = b.end, upTo
	}
	b.reset()
	s.spare = b
	s.broadcast()
}

func (s *Spool) broadcast() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Spool) usable() error {
	if s.closed {
		return ErrClosed
	}
	return s.err
}

// Close makes durable what was taken, removes the spool's files if the store
// holds all of them (Trim), and lets another process open it. The spool must
// not be used after it; a second Close returns ErrClosed.
func (s *Spool) Close() error {
	s.removing.Lock()
	defer s.removing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	err := s.sync()
	for s.syncing { // of another caller, after a failure
		s.wait()
	}
	s.closed = true
	if cerr := s.w.close(); err == nil {
		err = cerr
	}
	if err == nil && s.disposable(len(s.files)) {
		err = s.remove(len(s.files))
	}
	err = errors.Join(err, s.unlock())
	if s.owned {
		err = errors.Join(err, s.fs.Close())
	}
	return err
}
