package stream

import (
	"github.com/holdfastdb/holdfast/internal/repo"
)

// work runs one worker until the jobs end or the pipeline stops.
func (w *Writer) work(enc *repo.Encoder) {
	defer enc.Close()
	press := press{enc: enc}
	for {
		select {
		case <-w.ctx.Done():
			return
		case j, ok := <-w.jobs:
			if !ok {
				return
			}
			if err := w.process(j, &press); err != nil {
				w.fail(err)
				return
			}
		}
	}
}

// process hashes a job's extents, stores the new ones and gives the buffer
// back.
func (w *Writer) process(j job, pr *press) error {
	b := j.part.block
	fresh := w.compare(j)
	for _, f := range fresh {
		w.newBytes.Add(int64(len(f.bytes(j))))
	}
	err := w.store(j, fresh, pr)
	w.buffers <- j.buf
	if err != nil {
		return err
	}
	w.unref(b)
	return w.relieve()
}

// stretch is consecutive new extents of one part.
type stretch struct {
	from, to int // extents of the part, [from, to)
}

// bytes are the stretch's plaintext in its job's buffer.
func (s stretch) bytes(j job) []byte {
	extent := j.part.block.item.extent
	return j.buf[s.from*extent : min(s.to*extent, j.n)]
}

// compare fills in the ids and returns the stretches that differ from the
// parent's block at the same position.
func (w *Writer) compare(j job) []stretch {
	p := j.part
	extent := p.block.item.extent
	var fresh []stretch
	for i := range p.ids {
		id := w.l.ExtentID(j.buf[i*extent : min((i+1)*extent, j.n)])
		p.ids[i] = id
		if old := p.block.old; old != nil && p.first+i < len(old.IDs) && old.IDs[p.first+i] == id {
			continue
		}
		if n := len(fresh); n > 0 && fresh[n-1].to == i {
			fresh[n-1].to++
		} else {
			fresh = append(fresh, stretch{i, i + 1})
		}
	}
	return fresh
}

// store puts new extents into frames: a buffer that is new from end to end
// and worth a frame becomes one as it is, anything less shares the
// collector's.
func (w *Writer) store(j job, fresh []stretch, pr *press) error {
	if len(fresh) == 1 && len(fresh[0].bytes(j)) >= repo.FrameSize/2 {
		s := fresh[0]
		plain := s.bytes(j)
		seg := segment{part: j.part, from: s.from, to: s.to}
		j.part.block.refs.Add(1)
		return w.data.add(w.ctx, pr.encode(plain), frame{raw: len(plain), segments: []segment{seg}})
	}
	for _, s := range fresh {
		if err := w.collect.add(w.ctx, j, s, pr); err != nil {
			return err
		}
	}
	return nil
}

// press is an encoder with the buffers it needs.
type press struct {
	enc     *repo.Encoder
	payload []byte
	spare   []byte // traded for the collector's full frame
}

// encode returns plain's payload, valid until the next call.
func (p *press) encode(plain []byte) []byte {
	p.payload = p.enc.Encode(p.payload[:0], plain)
	return p.payload
}
