package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// cutOff yields some bytes and then says that it was cut off.
type cutOff struct {
	r   io.Reader
	err error
}

func (c cutOff) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if errors.Is(err, io.EOF) {
		err = c.err
	}
	return n, err
}

// A reader that is cut off in the middle of a file fails the item: what came
// before must never look like a whole file. archive/tar and network readers
// say so with io.ErrUnexpectedEOF, or with an error that wraps io.EOF.
func TestCutOffReaderIsNotTheEnd(t *testing.T) {
	for _, cut := range []error{io.ErrUnexpectedEOF, fmt.Errorf("connection lost: %w", io.EOF)} {
		for _, size := range []int{1, 100_000, repo.FrameSize, repo.FrameSize + 5} {
			b := newBench(t)
			w, err := NewWriter(t.Context(), b.l, nil, options(t, 128<<20))
			if err != nil {
				t.Fatal(err)
			}
			r := cutOff{bytes.NewReader(make([]byte, size)), cut}
			err = w.Put(t.Context(), repo.Item{Path: "f", Extent: 8192, Mode: 0o600}, r)
			if !errors.Is(err, cut) {
				t.Errorf("%d bytes, then %v: Put says %v", size, cut, err)
			}
			if _, _, _, err := w.Finish(t.Context()); err == nil {
				t.Errorf("%d bytes, then %v: Finish succeeds", size, cut)
			}
			if err := w.Close(); err != nil && !errors.Is(err, cut) {
				t.Error(err)
			}
		}
	}
}
