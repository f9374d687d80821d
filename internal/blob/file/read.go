package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/diskfs"
)

// Read implements blob.Store. The reader fails with io.ErrUnexpectedEOF when
// the file turns out shorter than it was when opened.
func (s *Store) Read(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	const op = "read object"
	if err := s.begin(ctx, op, key); err != nil {
		return nil, err
	}
	if off < 0 {
		return nil, s.fail(op, key, fmt.Errorf("negative offset %d", off))
	}
	info, err := s.stat(op, key)
	if err != nil {
		return nil, err
	}
	left := max(0, info.Size()-off)
	if n >= 0 {
		left = min(left, n)
	}
	if left == 0 {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	f, err := s.fs.Open(key)
	if isMissing(err) {
		return nil, s.notFound(op, key)
	}
	if err != nil {
		return nil, s.fail(op, key, err)
	}
	return &reader{ctx: ctx, s: s, key: key, f: f, off: off, left: left}, nil
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, key string) (blob.Object, error) {
	const op = "look at object"
	if err := s.begin(ctx, op, key); err != nil {
		return blob.Object{}, err
	}
	info, err := s.stat(op, key)
	if err != nil {
		return blob.Object{}, err
	}
	return object(key, info), nil
}

// stat describes a key's file. Whatever is no plain file is no object.
func (s *Store) stat(op, key string) (fs.FileInfo, error) {
	info, err := s.fs.Lstat(key)
	if isMissing(err) || err == nil && !info.Mode().IsRegular() {
		return nil, s.notFound(op, key)
	}
	if err != nil {
		return nil, s.fail(op, key, err)
	}
	return info, nil
}

func object(key string, info fs.FileInfo) blob.Object {
	return blob.Object{Key: key, Size: info.Size(), Modified: info.ModTime()}
}

// reader reads one range of an object.
type reader struct {
	ctx  context.Context // of the Read call, as the contract has it
	s    *Store
	key  string
	f    diskfs.File
	off  int64
	left int64
}

func (r *reader) Read(p []byte) (int, error) {
	const op = "read object"
	if err := r.ctx.Err(); err != nil {
		return 0, r.s.fail(op, r.key, err)
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.f.ReadAt(p[:min(int64(len(p)), r.left)], r.off)
	r.off += int64(n)
	r.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if r.left > 0 && n == 0 && len(p) > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, r.s.fail(op, r.key, err)
}

func (r *reader) Close() error { return r.f.Close() }
