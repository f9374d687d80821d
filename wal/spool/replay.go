package spool

import (
	"context"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Piece is a stretch of log, or one heartbeat.
type Piece struct {
	Branch string
	At     Position  // of the first byte; of a heartbeat: the end of the log taken before it
	Data   []byte    // valid only during the call
	Sent   time.Time // source's clock when the log was sent
	Beat   *repo.Beat
}

// Replay gives fn, in the order it was taken, all that earlier runs left: at
// least what Sync returned and Trim did not release, perhaps a little more of
// either. Log may be given twice where it was taken twice. A jump of position
// or branch was in the log as taken, or is what Trim released. On damage it
// returns a *DamageError (repo.ErrDamaged) after all that precedes it; what
// follows is not given. An error of fn ends it.
func (s *Spool) Replay(ctx context.Context, fn func(Piece) error) error {
	s.mu.Lock()
	left := append([]*file(nil), s.files[:s.left]...)
	err := s.usable()
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for _, f := range left {
		if f.before != nil {
			return s.damaged(f.before)
		}
		if err := s.replay(ctx, f, fn); err != nil {
			return err
		}
		if f.damage != nil {
			return s.damaged(f.damage)
		}
	}
	return nil
}

// replay reads one file up to the end that opening found.
func (s *Spool) replay(ctx context.Context, f *file, fn func(Piece) error) error {
	if f.used <= unit {
		return nil
	}
	r, err := s.openFile(f.number)
	if err != nil {
		return err
	}
	defer r.close()
	d := &decoder{}
	for r.at < f.used {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := r.at
		plain, err := r.next()
		if err != nil { // it could be read when the spool was opened
			return s.damaged(&DamageError{s.name(f.number, suffixSpool), at, err})
		}
		if _, err := d.frame(plain, fn); err != nil {
			return err
		}
	}
	return nil
}

// Held is what a spool holds at one moment.
type Held struct {
	Bytes, Limit   int64     // on disk
	Ranges         []Range   // durable, in the order taken, joined where they meet; the store may hold some of it
	Beats          int       // heartbeats
	Oldest, Newest time.Time // source's clock when the log was sent; zero: no log
	Durable        Point     // as Sync returned it; zero before the first
	Damage         error     // *DamageError: what earlier runs left is damaged; nil: it is not
	Err            error     // final failure
}

// Held is a snapshot.
func (s *Spool) Held() Held {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Held{Bytes: s.bytes, Limit: s.o.Limit, Durable: s.durable, Damage: s.damage(), Err: s.err}
	var all facts
	for _, f := range s.files {
		all.add(f.facts)
	}
	h.Ranges, h.Beats, h.Oldest, h.Newest = all.ranges, all.beats, all.first, all.last
	return h
}

// damage is the first there is.
func (s *Spool) damage() error {
	for _, f := range s.files {
		if f.before != nil {
			return f.before
		}
		if f.damage != nil {
			return f.damage
		}
	}
	return nil
}
