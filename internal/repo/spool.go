package repo

import (
	"encoding/binary"
	"fmt"
)

// A spool keeps log on the host until the store has it (F27; package
// wal/spool). Its files are not repository objects, but sealed like them.
const (
	// SpoolUnit is what a spool file's header and frames are padded to, bytes.
	// A frame's counter is its place in units, so that each frame can be
	// opened without the ones before it.
	SpoolUnit = 512
	// MaxSpoolFrame is the most a stored frame takes in a spool file, padding
	// included, bytes.
	MaxSpoolFrame = (4 + maxStoredFrame + SpoolUnit - 1) / SpoolUnit * SpoolUnit

	// spoolRaw: compressing less than this costs a commit more than it saves.
	spoolRaw = 4 << 10
)

// SpoolFile seals or opens the frames of one spool file. For one goroutine.
type SpoolFile struct {
	c       *frameCipher
	coders  *coders
	payload []byte
}

// NewSpoolFile makes the key of a new spool file, whose name (of the form of
// an id, F1) it is bound to. Each place in the file may be sealed only once.
func (l *Lineage) NewSpoolFile(name string) (*SpoolFile, error) {
	if err := l.writable(); err != nil {
		return nil, err
	}
	if err := checkName("spool file", name); err != nil {
		return nil, err
	}
	c, err := l.keys.newCipher(typeSpool, spoolKey(l.keys.lineage, name))
	if err != nil {
		return nil, err
	}
	return &SpoolFile{c: c, coders: &l.keys.coders}, nil
}

// OpenSpoolFile derives the key of an existing file from its first unit, and
// makes sure by it that the key is the right one: a file of other keys must
// not pass for one whose frames are all torn. ErrDamaged, ErrFormat; ErrKey
// when its epoch is not at hand.
func (l *Lineage) OpenSpoolFile(head []byte, name string) (*SpoolFile, error) {
	if err := checkName("spool file", name); err != nil {
		return nil, err
	}
	c, err := l.keys.openCipher(head, typeSpool, spoolKey(l.keys.lineage, name))
	if err != nil {
		return nil, fmt.Errorf("spool file %s: %w", name, err)
	}
	f := &SpoolFile{c: c, coders: &l.keys.coders}
	if _, err := f.Open(nil, 0, head[headerSize:]); err != nil {
		return nil, fmt.Errorf("spool file %s: its header was sealed with other keys, or: %w", name, err)
	}
	return f, nil
}

// Header is the file's first unit: F8's header and an empty frame 0, which
// authenticates it.
func (f *SpoolFile) Header() []byte {
	head := f.c.head.bytes()
	b := binary.BigEndian.AppendUint32(head[:], 1+tagSize)
	b = f.c.seal(b, 0, false, []byte{algRaw})
	return append(b, make([]byte, SpoolUnit-len(b))...)
}

// Seal appends to dst the frame for the place unit, padded to whole units.
// plain holds at most MaxFrame bytes.
func (f *SpoolFile) Seal(dst []byte, unit uint32, plain []byte) ([]byte, error) {
	if len(plain) < spoolRaw {
		f.payload = append(append(f.payload[:0], algRaw), plain...)
	} else {
		enc, err := f.coders.encoder()
		if err != nil {
			return nil, err
		}
		f.payload = enc.Encode(f.payload[:0], plain)
		f.coders.enc.Put(enc)
	}
	start := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(f.payload)+tagSize))
	dst = f.c.seal(dst, unit, false, f.payload)
	if pad := (len(dst) - start) % SpoolUnit; pad > 0 {
		dst = append(dst, make([]byte, SpoolUnit-pad)...)
	}
	return dst, nil
}

// SpoolFrameSize is what a frame that begins with first (4 bytes will do)
// takes in its file, bytes; 0 if none can begin so.
func SpoolFrameSize(first []byte) int {
	if len(first) < 4 {
		return 0
	}
	n := binary.BigEndian.Uint32(first)
	if n <= tagSize || n > maxStoredFrame {
		return 0
	}
	return (4 + int(n) + SpoolUnit - 1) / SpoolUnit * SpoolUnit
}

// Open authenticates the frame at the place unit and appends its plaintext to
// dst. frame may be longer. ErrDamaged.
func (f *SpoolFile) Open(dst []byte, unit uint32, frame []byte) ([]byte, error) {
	if SpoolFrameSize(frame) == 0 || int64(binary.BigEndian.Uint32(frame)) > int64(len(frame)-4) {
		return nil, fmt.Errorf("%w: no frame at unit %d", ErrDamaged, unit)
	}
	n := binary.BigEndian.Uint32(frame)
	dec, err := f.coders.decoder()
	if err != nil {
		return nil, err
	}
	defer f.coders.dec.Put(dec)
	return dec.openFrame(f.c, unit, false, frame[4:4+n], dst)
}
