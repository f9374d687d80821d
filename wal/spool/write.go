package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

const fileMode fs.FileMode = 0o600

// file is one spool file.
type file struct {
	number uint64
	used   int64 // bytes up to the end of the last frame
	size   int64 // bytes on disk
	facts  facts
	prev   link
	before error // *DamageError: what must precede the file is missing
	damage error // *DamageError at used: what follows is missing
}

// writer is the file being written. Its place in the file is its own: the
// file's facts change only when a sync has succeeded.
type writer struct {
	f       *file
	h       diskfs.File
	seal    *repo.SpoolFile
	last    link // the newest file that holds something
	next    uint64
	stored  []byte // scratch
	plain   []byte // scratch
	zeros   int64  // of the file, up to here
	written int64  // bytes of frames and header
}

func (w *writer) close() error {
	if w.h == nil {
		return nil
	}
	h := w.h
	w.h, w.f = nil, nil
	return h.Close() // all in it is durable, or the spool has failed
}

// write makes a batch durable: one write and one fsync, unless a new file is
// begun. It returns the file, its new end and its new size.
func (s *Spool) write(b *batch, ahead int64) (f *file, used, size int64, err error) {
	w := &s.w
	fresh := w.f == nil || w.written >= s.o.FileBytes
	if fresh {
		if err := s.cut(); err != nil {
			return nil, 0, 0, err
		}
	}
	if err := w.encode(b, fresh); err != nil {
		return nil, 0, 0, err
	}
	at, end := w.written, w.written+int64(len(w.stored))
	if end > w.zeros {
		w.zeros = end
		// Much at once is written without zeros: there the bandwidth counts.
		if more := ahead - int64(len(w.stored)); more > 0 {
			w.zeros += more
			w.stored = append(w.stored, make([]byte, more)...)
		}
	}
	if _, err := w.h.WriteAt(w.stored, at); err != nil {
		return nil, 0, 0, err
	}
	if err := w.h.Datasync(); err != nil {
		return nil, 0, 0, err
	}
	w.written = end
	w.last = link{w.f.number, uint64(end / unit)}
	if cap(w.stored) > 2*maxBatch {
		w.stored = nil
	}
	return w.f, end, w.zeros, nil
}

// encode seals a batch's frames into w.stored.
func (w *writer) encode(b *batch, fresh bool) (err error) {
	w.stored = w.stored[:0]
	for i, records := range b.frames[:b.used] {
		back := len(w.stored) / unit
		w.plain = binary.AppendUvarint(w.plain[:0], uint64(back))
		if fresh && i == 0 {
			w.plain = appendFile(w.plain, w.f.prev)
			if b.start.Branch != "" {
				w.plain = appendBegin(w.plain, b.start)
			}
		}
		w.plain = append(w.plain, records...)
		n := w.written/unit + int64(back)
		if w.stored, err = w.seal.Seal(w.stored, uint32(n), w.plain); err != nil {
			return err
		}
	}
	return nil
}

// cut begins a new file. What was written to the one before is durable, as
// the new one's first frame will say. The new file gets its name only once
// its header is durable, so a header that cannot be read is damage.
func (s *Spool) cut() (err error) {
	w := &s.w
	if err := w.close(); err != nil {
		return err
	}
	f := &file{number: w.next, used: unit, size: unit, prev: w.last}
	w.next++
	if w.seal, err = s.seal.NewSpoolFile(numberName(f.number)); err != nil {
		return err
	}
	name := s.name(f.number, suffixSpool)
	temp := s.name(f.number, suffixNew)
	h, err := s.fs.Create(temp, fileMode)
	if err != nil {
		return err
	}
	if err := s.publish(h, temp, name); err != nil {
		return errors.Join(err, h.Close())
	}
	w.h, w.f, w.written, w.zeros = h, f, unit, unit
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files, s.cur = append(s.files, f), f
	s.bytes += f.size
	s.flying -= unit
	return nil
}

func (s *Spool) publish(h diskfs.File, temp, name string) error {
	if _, err := h.WriteAt(s.w.seal.Header(), 0); err != nil {
		return err
	}
	if err := h.Datasync(); err != nil {
		return err
	}
	if err := s.fs.Rename(temp, name); err != nil {
		return err
	}
	return s.fs.SyncDir(".")
}

// Names of a spool's files.
const (
	suffixSpool   = ".spool"
	suffixNew     = ".new"     // being made, holds nothing
	suffixDamaged = ".damaged" // set aside
	lockName      = "lock"
)

func numberName(n uint64) string { return fmt.Sprintf("%016x", n) }

func (s *Spool) name(n uint64, suffix string) string {
	return s.seal.Info().ID + "." + numberName(n) + suffix
}
