package faulty

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// spoil wraps the body of a Read. A range without bytes has nothing to spoil.
func (s *Store) spoil(ctx context.Context, key string, off, n int64, f Fault, r io.ReadCloser) (io.ReadCloser, error) {
	o, err := s.inner.Stat(ctx, key)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	size := max(0, o.Size-off)
	if n >= 0 {
		size = min(size, n)
	}
	if size == 0 {
		return r, nil
	}
	return &body{ReadCloser: r, ctx: ctx, key: key, fault: f, left: f.At % size}, nil
}

// body passes left bytes and then does what the fault says.
type body struct {
	io.ReadCloser
	ctx   context.Context
	key   string
	fault Fault
	left  int64
	done  bool // a Flip is behind us
}

func (b *body) Read(p []byte) (int, error) {
	if len(p) == 0 || b.done {
		return b.ReadCloser.Read(p)
	}
	if b.left > 0 {
		n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
		b.left -= int64(n)
		return n, err
	}
	switch b.fault.Kind {
	case Cut:
		return 0, failure(Read, b.key, b.fault)
	case Short:
		return 0, io.EOF
	case StallBody:
		<-b.ctx.Done()
		return 0, fmt.Errorf("read %q: %w", b.key, b.ctx.Err())
	}
	n, err := b.ReadCloser.Read(p[:1])
	if n == 1 {
		p[0] ^= 1 << (b.fault.At % 8)
		b.done = true
	}
	return n, err
}
