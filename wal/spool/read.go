package spool

import (
	"errors"
	"fmt"
	"io/fs"
)

// Read returns [from, to) of a branch's log, which this run must have taken
// and not trimmed. It makes durable first what is not yet on disk. Where log
// was taken twice, either may be returned. ErrClosed, or the spool's failure,
// or a *DamageError.
func (s *Spool) Read(branch string, from, to Position) ([]byte, error) {
	s.mu.Lock()
	err := s.sync()
	var files []*file
	var ends []int64
	for _, f := range s.files[s.left:] {
		if f.facts.holds(branch, from, to) {
			files, ends = append(files, f), append(ends, f.used)
		}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := make([]byte, to-from)
	missing := len(out)
	for i, f := range files {
		if err := s.collect(f, ends[i], branch, from, out, &missing); err != nil {
			return nil, err
		}
	}
	if missing > 0 {
		return nil, fmt.Errorf("the spool in %s holds %d of %d bytes of branch %s from %s", s.where, len(out)-missing, len(out), branch, from.Key())
	}
	return out, nil
}

func (f *facts) holds(branch string, from, to Position) bool {
	for _, r := range f.ranges {
		if r.Branch == branch && r.Start < to && from < r.End {
			return true
		}
	}
	return false
}

// collect copies what a file holds of a branch from a position on into out;
// missing counts down the bytes that out lacks, which come in order.
func (s *Spool) collect(f *file, end int64, branch string, from Position, out []byte, missing *int) error {
	r, err := s.openFile(f.number)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // trimmed since: what it held was taken twice, or is missed below
	}
	if err != nil {
		return err
	}
	defer r.close()
	d := &decoder{}
	for r.at < end && *missing > 0 {
		at := r.at
		plain, err := r.next()
		if err != nil {
			return s.damaged(&DamageError{s.name(f.number, suffixSpool), at, err})
		}
		_, err = d.frame(plain, func(p Piece) error {
			next := from + Position(len(out)-*missing)
			pieceEnd := p.At + Position(len(p.Data))
			if p.Branch == branch && p.At <= next && next < pieceEnd {
				*missing -= copy(out[next-from:], p.Data[next-p.At:])
			}
			return nil
		})
		if err != nil {
			return s.damaged(&DamageError{s.name(f.number, suffixSpool), at, err})
		}
	}
	return nil
}
