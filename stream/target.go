package stream

import (
	"context"
	"io"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Target receives a restored backup. Directories and links come before the
// files below them. Methods may be called concurrently for different paths.
type Target interface {
	// Mkdir and Symlink make an item of that kind.
	Mkdir(item repo.Item) error
	Symlink(item repo.Item) error
	// Create opens a file for positional writes by several goroutines.
	Create(item repo.Item) (File, error)
}

// File is one file being restored. Close makes its bytes as durable as the
// target promises; it is called once, after the last WriteAt.
type File interface {
	io.WriterAt
	Close() error
}

// Finisher is a Target with something left to do when all files are closed:
// Restore calls Finish once, at its successful end.
type Finisher interface {
	Finish(ctx context.Context) error
}
