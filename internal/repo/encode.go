package repo

import (
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Algorithm byte of a payload (F10).
const (
	algRaw  = 0
	algZstd = 1
)

// Encoder turns plaintext into a frame payload: zstd at its fastest level, or
// raw where that does not gain. One per goroutine.
type Encoder struct {
	z       *zstd.Encoder
	payload []byte // scratch of who borrowed it
}

// NewEncoder returns an encoder; Close frees it.
func NewEncoder() (*Encoder, error) {
	z, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithSingleSegment(true),   // states the content size of frames below 256 bytes too: decompress demands it
		zstd.WithWindowSize(FrameSize), // frames are compressed alone: a larger window only costs memory
		zstd.WithEncoderCRC(false))     // frames carry an authentication tag
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	return &Encoder{z: z}, nil
}

// Close frees the encoder.
func (e *Encoder) Close() {
	// Without a writer behind it there is nothing to flush that could fail.
	_ = e.z.Close()
}

// Encode appends the payload (algorithm byte, then data) for plain to dst.
// plain holds at most MaxFrame bytes.
func (e *Encoder) Encode(dst, plain []byte) []byte {
	start := len(dst)
	dst = e.z.EncodeAll(plain, append(dst, algZstd))
	// A gain below 1/32 does not pay for decompressing at restore.
	if len(dst)-start-1 <= len(plain)-len(plain)/32-1 {
		return dst
	}
	return append(append(dst[:start], algRaw), plain...)
}

// Decoder decompresses. One per goroutine.
type Decoder struct {
	z       *zstd.Decoder
	payload []byte // scratch between decrypting and decompressing
}

// NewDecoder returns a decoder; Close frees it.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil,
		zstd.WithDecoderConcurrency(1),
		zstd.WithDecoderMaxMemory(MaxFrame),
		zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Decoder{z: z}, nil
}

// Close frees the decoder.
func (d *Decoder) Close() { d.z.Close() }

// decode appends the plaintext of a payload to dst (F10).
func (d *Decoder) decode(dst, payload []byte) ([]byte, error) {
	if len(payload) == 0 {
		return nil, fmt.Errorf("%w: payload without an algorithm byte", ErrDamaged)
	}
	switch body := payload[1:]; payload[0] {
	case algRaw:
		if len(body) > MaxFrame {
			return nil, fmt.Errorf("%w: frame of %d bytes exceeds %d", ErrDamaged, len(body), MaxFrame)
		}
		return append(dst, body...), nil
	case algZstd:
		return d.decompress(dst, body)
	default:
		return nil, fmt.Errorf("%w: compression %d", ErrFormat, payload[0])
	}
}

// decompress appends the content of one zstd frame to dst. The frame must
// state its content size: nothing is allocated before that is checked.
func (d *Decoder) decompress(dst, body []byte) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(body); err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrDamaged, err)
	}
	if !h.HasFCS || h.FrameContentSize > MaxFrame {
		return nil, fmt.Errorf("%w: zstd frame of unknown size or more than %d bytes", ErrDamaged, MaxFrame)
	}
	// The decoder counts what stands in dst against its limit, so it gets
	// only the room behind it.
	n := len(dst)
	dst = slices.Grow(dst, int(h.FrameContentSize))
	out, err := d.z.DecodeAll(body, dst[n:n:cap(dst)])
	if err != nil {
		return nil, fmt.Errorf("%w: zstd: %w", ErrDamaged, err)
	}
	if uint64(len(out)) != h.FrameContentSize {
		return nil, fmt.Errorf("%w: zstd: %d bytes, %d stated", ErrDamaged, len(out), h.FrameContentSize)
	}
	if n+len(out) <= cap(dst) && (len(out) == 0 || &out[0] == &dst[:n+1][n]) {
		return dst[:n+len(out)], nil
	}
	return append(dst, out...), nil // the decoder took a buffer of its own
}

// openFrame authenticates and decompresses one stored frame, appending to dst.
func (d *Decoder) openFrame(c *frameCipher, n uint32, last bool, stored, dst []byte) ([]byte, error) {
	payload, err := c.open(d.payload[:0], n, last, stored)
	if err != nil {
		return nil, err
	}
	d.payload = payload
	out, err := d.decode(dst, payload)
	if err != nil {
		return nil, fmt.Errorf("frame %d: %w", n, err)
	}
	return out, nil
}

// coders lends encoders and decoders, whose tables cost more to make than a
// small object costs to seal.
type coders struct{ enc, dec sync.Pool }

func (c *coders) encoder() (*Encoder, error) {
	if e, ok := c.enc.Get().(*Encoder); ok {
		return e, nil
	}
	return NewEncoder()
}

func (c *coders) decoder() (*Decoder, error) {
	if d, ok := c.dec.Get().(*Decoder); ok {
		return d, nil
	}
	return NewDecoder()
}
