package repo

import (
	"encoding/binary"
	"fmt"
)

// objType is what a sealed object is; its label separates the keys (F5).
type objType uint8

const (
	typePack     objType = 1
	typeMap      objType = 2
	typeSegment  objType = 3
	typeManifest objType = 4
	typeLineage  objType = 5
	typeBranch   objType = 6
	typeIntent   objType = 7
	typeNote     objType = 8
	typeRecord   objType = 9
	typeRepo     objType = 10
	typeSpool    objType = 11
	typeLease    objType = 12
)

func (t objType) label() string {
	labels := [...]string{"", "pack", "map", "segment", "manifest", "lineage", "branch", "intent", "note", "record", "repository", "spool", "lease"}
	if int(t) < len(labels) {
		return labels[t]
	}
	return ""
}

// cipherID says how frames are protected (F9).
type cipherID uint8

const (
	cipherSum cipherID = 0 // clear, with a truncated SHA-256 as tag
	cipherGCM cipherID = 1 // AES-256-GCM
)

// compressionMarked is the only compression id: every payload's first byte
// names its algorithm (F10).
const compressionMarked = 1

// header is the clear start of every sealed object (F8).
type header struct {
	typ    objType
	cipher cipherID
	epoch  uint32
	salt   [32]byte
}

const (
	headerSize = 48
	magic      = "HOLDFAST"
)

// bytes encodes the header (F8).
func (h header) bytes() [headerSize]byte {
	var b [headerSize]byte
	copy(b[:], magic)
	b[8], b[9], b[10], b[11] = Format, byte(h.typ), byte(h.cipher), compressionMarked
	binary.BigEndian.PutUint32(b[12:], h.epoch)
	copy(b[16:], h.salt[:])
	return b
}

// parseHeader decodes F8 and refuses what this version does not know.
func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize {
		return header{}, fmt.Errorf("%w: %d bytes are too short for a header", ErrDamaged, len(b))
	}
	if string(b[:8]) != magic {
		return header{}, fmt.Errorf("%w: no %s magic", ErrDamaged, magic)
	}
	if b[8] != Format {
		return header{}, fmt.Errorf("%w: version %d, this program reads %d", ErrFormat, b[8], Format)
	}
	h := header{typ: objType(b[9]), cipher: cipherID(b[10]), epoch: binary.BigEndian.Uint32(b[12:])}
	if h.typ.label() == "" || h.cipher > cipherGCM || b[11] != compressionMarked {
		return header{}, fmt.Errorf("%w: type %d, cipher %d, compression %d", ErrFormat, b[9], b[10], b[11])
	}
	copy(h.salt[:], b[16:])
	return h, nil
}
