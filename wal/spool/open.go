package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// Open opens the spool in a directory for the lineage that seal belongs to,
// and reads what earlier runs left; Held tells it, Replay gives it. New log
// goes into new files. Damage does not keep it from opening: Held and Replay
// report it. ErrInUse, ErrForeign; repo.ErrKey if files need a key that seal
// lacks. fsys must stay open until after Close. where names the directory in
// messages.
func Open(ctx context.Context, fsys diskfs.FS, where string, seal Sealer, o Options) (*Spool, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, hferr.NewUsage("open the spool in "+where, err, "raise the spool's limit")
	}
	s := &Spool{
		fs: fsys, seal: seal, o: o, where: where, changed: make(chan struct{}),
		batch: &batch{frame: o.frame}, spare: &batch{frame: o.frame}, stored: map[string]Position{},
	}
	if _, err := s.list(); err != nil {
		return nil, s.opening(err) // before anything is touched
	}
	if s.unlock, err = fsys.Lock(lockName); err != nil {
		if errors.Is(err, diskfs.ErrLocked) {
			err = fmt.Errorf("%w: %w", ErrInUse, err)
			return nil, hferr.New("open the spool in "+where, err,
				"another holdfast process streams this database into the same spool: stop it, or give this one a directory of its own")
		}
		return nil, s.opening(err)
	}
	if err := s.load(ctx); err != nil {
		return nil, errors.Join(s.opening(err), s.unlock())
	}
	return s, nil
}

func (s *Spool) opening(err error) error {
	if hferr.HintOf(err) != "" {
		return err
	}
	return hferr.New("open the spool in "+s.where, err, s.hint(err))
}

// load takes stock of the directory.
func (s *Spool) load(ctx context.Context) error {
	there, err := s.list()
	if err != nil {
		return err
	}
	if len(there.aside) > 0 {
		s.o.Log.Warn("the spool's directory holds damaged files that were set aside; remove them when they have been examined",
			"directory", s.where, "files", there.aside)
	}
	s.w.next = there.newest + 1
	litter := there.litter
	for _, n := range there.numbers {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := s.examine(n)
		if err != nil {
			return err
		}
		s.files = append(s.files, f)
	}
	s.checkEnds()
	s.files = slices.DeleteFunc(s.files, func(f *file) bool {
		empty := f.used <= unit && f.damage == nil
		if empty {
			litter = append(litter, s.name(f.number, suffixSpool))
		} else {
			s.bytes += f.size
		}
		return empty
	})
	s.left = len(s.files)
	s.checkMissing()
	if err := s.settle(); err != nil {
		return err
	}
	// What holds nothing may come back after a crash: it is found again then.
	for _, name := range litter {
		if err := s.fs.Unlink(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// listing is what a spool's directory holds.
type listing struct {
	numbers []uint64 // of files, in order
	litter  []string // names that hold nothing
	aside   []string
	newest  uint64 // number of any of them
}

// list refuses a directory that is not a spool's, and touches nothing.
func (s *Spool) list() (l listing, err error) {
	err = s.fs.Entries(".", func(e fs.DirEntry) error {
		name := e.Name()
		if name == lockName || name == "lost+found" {
			return nil
		}
		n, suffix, ok := s.parseName(name)
		if !ok || !e.Type().IsRegular() {
			return hferr.New("open the spool in "+s.where, fmt.Errorf("%w: it holds %q", ErrForeign, name),
				"give the spool of each database a directory of its own, with nothing else in it")
		}
		l.newest = max(l.newest, n)
		switch suffix {
		case suffixSpool:
			l.numbers = append(l.numbers, n)
		case suffixNew:
			l.litter = append(l.litter, name)
		case suffixDamaged:
			l.aside = append(l.aside, name)
		}
		return nil
	})
	slices.Sort(l.numbers)
	return l, err
}

// parseName is the inverse of name.
func (s *Spool) parseName(name string) (n uint64, suffix string, ok bool) {
	rest, ok := strings.CutPrefix(name, s.seal.Info().ID+".")
	if !ok || len(rest) < 16 {
		return 0, "", false
	}
	n, err := strconv.ParseUint(rest[:16], 16, 64)
	suffix = rest[16:]
	known := suffix == suffixSpool || suffix == suffixNew || suffix == suffixDamaged
	return n, suffix, err == nil && known && n > 0 && n < 1<<63 && rest[:16] == numberName(n)
}

// examine scans one file.
func (s *Spool) examine(n uint64) (*file, error) {
	f := &file{number: n}
	r, err := s.openFile(n)
	if r != nil {
		f.size = r.size
	}
	if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrFormat) {
		f.damage = &DamageError{s.name(n, suffixSpool), 0, err}
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.close()
	found, err := scan(r)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", s.name(n, suffixSpool), err)
	}
	f.used, f.facts, f.prev = found.end, found.facts, found.prev
	if found.damage != nil {
		f.damage = &DamageError{s.name(n, suffixSpool), f.used, found.damage}
	}
	return f, nil
}

// openFile opens a file for reading from its first frame on. On damage to its
// header only the size of what it returns is of use.
func (s *Spool) openFile(n uint64) (*frames, error) {
	h, err := s.fs.Open(s.name(n, suffixSpool))
	if err != nil {
		return nil, err
	}
	r, err := func() (*frames, error) {
		info, err := h.Stat()
		if err != nil {
			return nil, err
		}
		r := &frames{src: h, size: info.Size(), at: unit, close: func() { h.Close() }}
		head := make([]byte, min(unit, r.size))
		if _, err := h.ReadAt(head, 0); err != nil {
			return nil, err
		}
		r.open, err = s.seal.OpenSpoolFile(head, numberName(n))
		return r, err
	}()
	if err != nil {
		h.Close()
	}
	return r, err
}

// checkEnds compares what each file says of the one before it with what can
// be read of that (F27).
func (s *Spool) checkEnds() {
	for _, f := range s.files {
		p := s.find(f.prev.number)
		if p != nil && p.damage == nil && uint64(p.used/unit) < f.prev.units {
			p.damage = &DamageError{s.name(p.number, suffixSpool), p.used,
				fmt.Errorf("%d bytes of it were durable", f.prev.units*unit)}
		}
	}
}

// checkMissing finds files that must have been there (F27).
func (s *Spool) checkMissing() {
	for i, f := range s.files {
		if i > 0 && f.prev.number > 0 && s.find(f.prev.number) == nil {
			f.before = &DamageError{s.name(f.prev.number, suffixSpool), 0, errors.New("the file is missing")}
		}
	}
}

func (s *Spool) find(number uint64) *file {
	for _, f := range s.files {
		if f.number == number {
			return f
		}
	}
	return nil
}

// settle makes durable what was found: an earlier run that was killed may not
// have come to it, and the next file will say that it is.
func (s *Spool) settle() error {
	if n := len(s.files); n > 0 {
		f := s.files[n-1]
		s.w.last = link{f.number, uint64(f.used / unit)}
		h, err := s.fs.Open(s.name(f.number, suffixSpool))
		if err != nil {
			return err
		}
		if err := errors.Join(h.Datasync(), h.Close()); err != nil {
			return err
		}
	}
	return s.fs.SyncDir(".")
}
