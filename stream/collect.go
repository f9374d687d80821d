package stream

import (
	"context"
	"sync"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// segment is consecutive extents of one part that stand consecutively in a
// frame. Until its pack has a name it holds a reference to its block.
type segment struct {
	part     *part
	from, to int // extents of the part, [from, to)
	skip     int // plaintext offset in the frame
}

// collector gathers small stretches of many items into one shared frame, so
// that thousands of small files or scattered pages become few frames. Workers
// copy into it under its lock and compress outside.
type collector struct {
	data *packer

	mu       sync.Mutex
	buf      []byte // up to repo.FrameSize
	segments []segment

	relief sync.Mutex // guards press, for flushes that no worker makes
	press  press
}

func newCollector(data *packer) (*collector, error) {
	enc, err := repo.NewEncoder()
	if err != nil {
		return nil, err
	}
	return &collector{data: data, press: press{enc: enc}}, nil
}

func (c *collector) close() { c.press.enc.Close() }

// add copies one stretch of a job. A frame that gets full on the way is
// encoded with pr and packed.
func (c *collector) add(ctx context.Context, j job, s stretch, pr *press) error {
	extent := j.part.block.item.extent
	for s.from < s.to {
		c.mu.Lock()
		fit := min((repo.FrameSize-len(c.buf))/extent, s.to-s.from)
		// The item's last extent may be short enough where a whole one is not.
		if rest := s.bytes(j); fit < s.to-s.from && len(c.buf)+len(rest) <= repo.FrameSize {
			fit = s.to - s.from
		}
		if fit == 0 {
			f, plain := c.swap(pr)
			c.mu.Unlock()
			if err := c.data.add(ctx, pr.encode(plain), f); err != nil {
				return err
			}
			continue
		}
		if c.buf == nil {
			c.buf = make([]byte, 0, repo.FrameSize)
		}
		head := stretch{s.from, s.from + fit}
		j.part.block.refs.Add(1)
		c.segments = append(c.segments, segment{part: j.part, from: head.from, to: head.to, skip: len(c.buf)})
		c.buf = append(c.buf, head.bytes(j)...)
		s.from = head.to
		c.mu.Unlock()
	}
	return nil
}

// flush packs what has been gathered.
func (c *collector) flush(ctx context.Context) error {
	c.relief.Lock()
	defer c.relief.Unlock()
	c.mu.Lock()
	if len(c.buf) == 0 {
		c.mu.Unlock()
		return nil
	}
	f, plain := c.swap(&c.press)
	c.mu.Unlock()
	return c.data.add(ctx, c.press.encode(plain), f)
}

// swap takes the gathered frame out, leaving pr's spare buffer in its place.
// The plaintext is valid until pr is used again.
func (c *collector) swap(pr *press) (frame, []byte) {
	plain := c.buf
	f := frame{raw: len(plain), segments: c.segments}
	c.buf, pr.spare = pr.spare[:0], plain
	c.segments = nil
	if cap(c.buf) == 0 {
		c.buf = nil
	}
	return f, plain
}
