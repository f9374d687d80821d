package stream

import (
	"fmt"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// openFile is a file being restored: opened by its first piece, closed by its
// last.
type openFile struct {
	item repo.Item
	set  *openFiles

	mu   sync.Mutex
	f    File
	left int64 // bytes to write
}

// openFiles knows what is open, to close it on failure. How many are open is
// the planner's doing: windows × windowFiles, a file that spans two windows,
// and one a worker.
type openFiles struct {
	target Target
	mu     sync.Mutex
	open   map[*openFile]struct{}
}

func newOpenFiles(t Target) *openFiles {
	return &openFiles{target: t, open: make(map[*openFile]struct{})}
}

// create makes an empty file.
func (s *openFiles) create(item repo.Item) error {
	f, err := s.target.Create(item)
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		return fmt.Errorf("restore %s: %w", item.Path, err)
	}
	return nil
}

// writeAt writes one piece of the file.
func (of *openFile) writeAt(data []byte, off int64) error {
	f, err := of.file()
	if err == nil {
		_, err = f.WriteAt(data, off)
	}
	if err == nil {
		err = of.wrote(int64(len(data)))
	}
	if err != nil {
		return fmt.Errorf("restore %s at %d: %w", of.item.Path, off, err)
	}
	return nil
}

func (of *openFile) file() (File, error) {
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.f != nil {
		return of.f, nil
	}
	f, err := of.set.target.Create(of.item)
	if err != nil {
		return nil, err
	}
	of.f = f
	of.set.mu.Lock()
	of.set.open[of] = struct{}{}
	of.set.mu.Unlock()
	return f, nil
}

// wrote counts, and closes the file after its last byte.
func (of *openFile) wrote(n int64) error {
	of.mu.Lock()
	defer of.mu.Unlock()
	of.left -= n
	if of.left > 0 {
		return nil
	}
	of.set.mu.Lock()
	delete(of.set.open, of)
	of.set.mu.Unlock()
	return of.f.Close()
}

// abandon closes what a failure left open. No writes may be under way.
func (s *openFiles) abandon() {
	for of := range s.open {
		_ = of.f.Close() // the restore has failed already
	}
	clear(s.open)
}
