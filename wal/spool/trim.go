package spool

import (
	"errors"
	"fmt"
	"io/fs"
)

// Trim says that the store holds everything of a branch before upTo, and
// removes files that are no longer needed, oldest first. An error says that a
// file could not be removed: its log is safe, only its space is not free. If
// the directory could not be made durable, the spool has failed.
func (s *Spool) Trim(branch string, upTo Position) error {
	s.removing.Lock()
	defer s.removing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	s.stored[branch] = max(s.stored[branch], upTo)
	n := 0
	for n < len(s.files) && s.files[n] != s.cur && s.disposable(n+1) {
		n++
	}
	return s.remove(n)
}

// disposable reports whether the n oldest files hold nothing the store lacks.
func (s *Spool) disposable(n int) bool {
	for _, f := range s.files[:n] {
		if f.before != nil || f.damage != nil || !f.facts.gone(s.stored) {
			return false
		}
	}
	return true
}

// Forget removes all that earlier runs left: the caller has made durable in
// the store what Replay gave it. It refuses while there is damage.
func (s *Spool) Forget() error {
	s.removing.Lock()
	defer s.removing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	if err := s.damage(); err != nil {
		return s.damaged(err)
	}
	return s.remove(s.left)
}

// SetAside takes what earlier runs left out of the spool without removing it:
// the files stay in the directory, named *.damaged, for whoever examines
// them. It is the way on after Replay has met damage.
func (s *Spool) SetAside() error {
	s.removing.Lock()
	defer s.removing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	return s.drop(s.left, func(f *file) error {
		return s.fs.Rename(s.name(f.number, suffixSpool), s.name(f.number, suffixDamaged))
	})
}

// remove unlinks the n oldest files.
func (s *Spool) remove(n int) error {
	return s.drop(n, func(f *file) error {
		err := s.fs.Unlink(s.name(f.number, suffixSpool))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// drop takes the n oldest files away. Each is durably gone before the next
// goes (F27): so a file that is missing behind an older one was not removed
// by us. It gives up the lock meanwhile; removing is held.
func (s *Spool) drop(n int, away func(*file) error) error {
	for range n {
		f := s.files[0]
		s.mu.Unlock()
		err := away(f)
		var serr error
		if err == nil {
			serr = s.fs.SyncDir(".")
		}
		s.mu.Lock()
		if err != nil {
			return fmt.Errorf("remove a file from the spool in %s: %w", s.where, err)
		}
		if serr != nil {
			s.fail("remove a file of the spool", serr)
			return s.err
		}
		s.files = s.files[1:]
		s.left = max(0, s.left-1)
		s.bytes -= f.size
	}
	return nil
}
