package file_test

import (
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/blobtest/suite"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

func TestConformance(t *testing.T) {
	t.Run("disk", func(t *testing.T) {
		suite.Test(t, func(t *testing.T) blob.Store { return open(t, t.TempDir()) })
	})
	t.Run("crashfs", func(t *testing.T) {
		suite.Test(t, func(*testing.T) blob.Store {
			return file.New(crashfs.New(1, nil), "crashfs", file.Options{})
		})
	})
}

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := file.Open(dir, file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
