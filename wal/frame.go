package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The feed's protocol. A client says
//
//	"HFFEED" version(1 byte) length(1 byte) name
//
// and the server answers with frames
//
//	kind(1 byte) length(4 bytes, big endian) payload
//
// of which the last is an end, a "beyond" or a failure: a stream that stops
// before one of these was cut off.
const (
	helloMagic   = "HFFEED"
	helloVersion = 1
	maxName      = 255
	maxFrame     = 256 << 10
	maxMessage   = 4 << 10
)

const (
	frameData   byte = 'D' // bytes of the piece
	frameEnd    byte = 'E' // the piece is complete; no payload
	frameBeyond byte = 'B' // ErrBeyondPlan; only as the first frame, no payload
	frameFailed byte = 'F' // any other error, payload: its text
)

// errProtocol: the other side does not speak this protocol.
var errProtocol = errors.New("not a log feed of this version")

func writeHello(w io.Writer, name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("a name of %d bytes: 1 to %d are allowed", len(name), maxName)
	}
	b := append([]byte(helloMagic), helloVersion, byte(len(name)))
	_, err := w.Write(append(b, name...))
	return err
}

func readHello(r io.Reader) (string, error) {
	head := make([]byte, len(helloMagic)+2)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", cut(err)
	}
	if string(head[:len(helloMagic)]) != helloMagic {
		return "", errProtocol
	}
	if v := head[len(helloMagic)]; v != helloVersion {
		return "", fmt.Errorf("version %d: %w", v, errProtocol)
	}
	name := make([]byte, head[len(helloMagic)+1])
	if len(name) == 0 {
		return "", fmt.Errorf("an empty name: %w", errProtocol)
	}
	if _, err := io.ReadFull(r, name); err != nil {
		return "", cut(err)
	}
	return string(name), nil
}

// writeFrame writes one frame; a failure's text is cut to maxMessage.
func writeFrame(w io.Writer, kind byte, payload []byte) error {
	if kind == frameFailed {
		payload = payload[:min(len(payload), maxMessage)]
	}
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	_, err := w.Write(append(b, payload...))
	return err
}

// readFrame reads one frame; the payload is valid until buf is used again.
func readFrame(r io.Reader, buf []byte) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, cut(err)
	}
	kind = head[0]
	size := binary.BigEndian.Uint32(head[1:])
	var limit uint32
	switch kind {
	case frameData:
		limit = maxFrame
	case frameFailed:
		limit = maxMessage
	case frameEnd, frameBeyond:
	default:
		return 0, nil, fmt.Errorf("frame kind %#x: %w", kind, errProtocol)
	}
	if size > limit {
		return 0, nil, fmt.Errorf("frame of %d bytes: %w", size, errProtocol)
	}
	if cap(buf) < int(size) {
		buf = make([]byte, size)
	}
	payload = buf[:size]
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, cut(err)
	}
	return kind, payload, nil
}

// cut makes a stream that ended early an error of its own: io.EOF reads like
// a regular end.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// frameWriter puts written bytes into data frames.
type frameWriter struct {
	w    io.Writer
	buf  []byte
	used bool // a byte was written
}

func (f *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	f.used = f.used || n > 0
	for len(p) > 0 {
		take := min(len(p), maxFrame-len(f.buf))
		f.buf = append(f.buf, p[:take]...)
		p = p[take:]
		if len(f.buf) == maxFrame {
			if err := f.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (f *frameWriter) flush() error {
	if len(f.buf) == 0 {
		return nil
	}
	err := writeFrame(f.w, frameData, f.buf)
	f.buf = f.buf[:0]
	return err
}
