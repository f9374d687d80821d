package repo

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// A sealed stream (F11) is a header and frames, each behind its length. Frame
// numbers and the mark of the last frame are authenticated, so a dropped,
// repeated, reordered or cut-off frame does not open.

// sealWriter builds a sealed stream in memory. Write cuts plaintext into
// frames of FrameSize; Close seals the rest as the last frame.
type sealWriter struct {
	s       *scope
	c       *frameCipher
	enc     *Encoder
	body    []byte
	pending []byte
	n       uint32
}

func (s *scope) newSealWriter(typ objType, name string) (*sealWriter, error) {
	c, err := s.newCipher(typ, name)
	if err != nil {
		return nil, err
	}
	enc, err := s.coders.encoder()
	if err != nil {
		return nil, err
	}
	head := c.head.bytes()
	return &sealWriter{s: s, c: c, enc: enc, body: append([]byte(nil), head[:]...)}, nil
}

func (w *sealWriter) frame(plain []byte, last bool) {
	payload := w.enc.Encode(w.enc.payload[:0], plain)
	w.enc.payload = payload
	w.body = binary.BigEndian.AppendUint32(w.body, uint32(len(payload)+tagSize))
	w.body = w.c.seal(w.body, w.n, last, payload)
	w.n++
}

// reserve makes room for what rest bytes of plaintext will take if they
// compress like a frame that took so many bytes, and a little more: a body
// that grows by append leaves several times its size as garbage.
func (w *sealWriter) reserve(frame, rest int) {
	if cap(w.body)-len(w.body) < frame {
		w.body = slices.Grow(w.body, (rest/FrameSize+1)*(frame+frame/16))
	}
}

// Write never fails. A full frame is kept back until more follows, because
// it may be the last.
func (w *sealWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if len(w.pending) == FrameSize {
			w.frame(w.pending, false)
			w.pending = w.pending[:0]
		}
		k := min(FrameSize-len(w.pending), len(p))
		w.pending = append(w.pending, p[:k]...)
		p = p[k:]
	}
	return n, nil
}

// finish seals the last frame and returns the object's bytes.
func (w *sealWriter) finish() []byte {
	w.frame(w.pending, true)
	w.s.coders.enc.Put(w.enc)
	return w.body
}

// sealObject seals an object of a metadata frame (if meta is not nil) and
// data, for the key name.
func (s *scope) sealObject(typ objType, name string, meta, data []byte) ([]byte, error) {
	w, err := s.newSealWriter(typ, name)
	if err != nil {
		return nil, err
	}
	if len(meta) > MaxFrame {
		return nil, fmt.Errorf("seal %s: metadata of %d bytes exceeds %d", name, len(meta), MaxFrame)
	}
	if meta != nil {
		w.frame(meta, false)
	}
	for len(data) > FrameSize {
		before := len(w.body)
		w.frame(data[:FrameSize], false)
		data = data[FrameSize:]
		w.reserve(len(w.body)-before, len(data))
	}
	w.pending = data
	return w.finish(), nil
}

// sealReader reads a sealed stream frame by frame.
type sealReader struct {
	s      *scope
	c      *frameCipher
	dec    *Decoder
	src    io.Reader
	name   string
	n      uint32
	next   int // stored length of the next frame; 0 after the last
	stored []byte
	plain  []byte
	rest   []byte // of plain, not yet taken by Read
}

// openSealed reads the header. The caller closes the reader.
func (s *scope) openSealed(src io.Reader, typ objType, name string) (*sealReader, error) {
	var head [headerSize]byte
	if err := readFull(src, head[:]); err != nil {
		return nil, fmt.Errorf("%s: header: %w", name, err)
	}
	c, err := s.openCipher(head[:], typ, name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	dec, err := s.coders.decoder()
	if err != nil {
		return nil, err
	}
	r := &sealReader{s: s, c: c, dec: dec, src: src, name: name}
	if err = r.length(); err == nil && r.next == 0 {
		err = fmt.Errorf("%s: %w: no frame", name, ErrDamaged)
	}
	if err != nil {
		r.close()
		return nil, err
	}
	return r, nil
}

func (r *sealReader) close() { r.s.coders.dec.Put(r.dec) }

// length reads the next frame's length; the end of the object is length 0.
func (r *sealReader) length() error {
	var b [4]byte
	n, err := io.ReadFull(r.src, b[:])
	switch {
	case errors.Is(err, io.EOF) && n == 0:
		r.next = 0
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: %w: cut off behind frame %d", r.name, ErrDamaged, r.n)
	case err != nil:
		return fmt.Errorf("%s: %w", r.name, err)
	}
	l := binary.BigEndian.Uint32(b[:])
	if l <= tagSize || l > maxStoredFrame {
		return fmt.Errorf("%s: %w: frame %d has length %d", r.name, ErrDamaged, r.n, l)
	}
	r.next = int(l)
	return nil
}

// load reads the next frame's stored bytes into r.stored.
func (r *sealReader) load() error {
	if cap(r.stored) < r.next {
		r.stored = make([]byte, r.next)
	}
	r.stored = r.stored[:r.next]
	if err := readFull(r.src, r.stored); err != nil {
		return fmt.Errorf("%s: frame %d: %w", r.name, r.n, err)
	}
	return nil
}

// meta opens the first frame, which data always follows (F11). The bytes are
// valid until the next call.
func (r *sealReader) meta() ([]byte, error) {
	if err := r.load(); err != nil {
		return nil, err
	}
	return r.open(false)
}

func (r *sealReader) open(last bool) (plain []byte, err error) {
	r.plain, err = r.openInto(r.plain[:0], last)
	return r.plain, err
}

// openInto appends the loaded frame's plaintext to dst.
func (r *sealReader) openInto(dst []byte, last bool) ([]byte, error) {
	out, err := r.dec.openFrame(r.c, r.n, last, r.stored, dst)
	if err != nil {
		return dst, fmt.Errorf("%s: %w", r.name, err)
	}
	r.n++
	return out, nil
}

// frame opens the next frame; io.EOF after the last. The bytes are valid
// until the next call.
func (r *sealReader) frame() (plain []byte, err error) {
	r.plain, err = r.frameInto(r.plain[:0])
	return r.plain, err
}

// frameInto appends the next frame's plaintext to dst; io.EOF after the last.
func (r *sealReader) frameInto(dst []byte) ([]byte, error) {
	if r.next == 0 {
		return dst, io.EOF
	}
	if err := r.load(); err != nil {
		return dst, err
	}
	if err := r.length(); err != nil {
		return dst, err
	}
	return r.openInto(dst, r.next == 0)
}

// Read makes the frames one stream.
func (r *sealReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		plain, err := r.frame()
		if err != nil {
			return 0, err
		}
		r.rest = plain
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// openObject opens a whole sealed object from memory; withMeta says whether
// its first frame is metadata.
func (s *scope) openObject(body []byte, typ objType, name string, withMeta bool) (meta, data []byte, err error) {
	return s.openSized(body, typ, name, withMeta, 0)
}

// openSized is openObject for data of about so many bytes: growing a slice to
// megabytes costs more than decompressing into it.
func (s *scope) openSized(body []byte, typ objType, name string, withMeta bool, size int) (meta, data []byte, err error) {
	r, err := s.openSealed(bytes.NewReader(body), typ, name)
	if err != nil {
		return nil, nil, err
	}
	defer r.close()
	if withMeta {
		m, err := r.meta()
		if err != nil {
			return nil, nil, err
		}
		meta = bytes.Clone(m)
		if err := r.length(); err != nil {
			return nil, nil, err
		}
		if r.next == 0 {
			return nil, nil, fmt.Errorf("%s: %w: no data behind the metadata", name, ErrDamaged)
		}
	}
	if size > 0 {
		data = make([]byte, 0, size)
	}
	for {
		data, err = r.frameInto(data)
		if errors.Is(err, io.EOF) {
			return meta, data, nil
		}
		if err != nil {
			return nil, nil, err
		}
	}
}

// readFull fills b; an end before that is damage.
func readFull(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut off", ErrDamaged)
	}
	return err
}
