package repo

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// MaxFrame is the most plaintext a frame may hold, bytes. It bounds what a
// hostile frame can make a reader allocate.
const MaxFrame = 8 << 20

const (
	tagSize = 16
	// maxStoredFrame bounds a stored frame: raw plaintext, algorithm byte, tag.
	maxStoredFrame = MaxFrame + 1 + tagSize
)

// frameCipher seals and opens the frames of one object (F9). Its nonces are
// counters, so one frameCipher seals one object only, once per counter.
// Safe for concurrent use.
type frameCipher struct {
	head header
	aead cipher.AEAD
	aad  []byte // header, space for counter and flag, name
}

// newCipher makes the cipher of a new object: newest epoch, fresh salt. The
// salt is drawn for every attempt, so that no key ever seals two objects.
func (s *scope) newCipher(typ objType, name string) (*frameCipher, error) {
	h := header{typ: typ, cipher: s.cipher, epoch: s.newest}
	rand.Read(h.salt[:]) // never fails: crypto/rand aborts the process instead
	return s.cipherFor(h, name)
}

// openCipher makes the cipher of a stored object from its first bytes. An
// object whose cipher is not the repository's is refused: a store must not be
// able to pass off unencrypted objects as ours (F6).
func (s *scope) openCipher(head []byte, typ objType, name string) (*frameCipher, error) {
	h, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	if h.typ != typ {
		return nil, fmt.Errorf("%w: it is a %s, not a %s", ErrDamaged, h.typ.label(), typ.label())
	}
	if h.cipher != s.cipher {
		return nil, fmt.Errorf("%w: sealed with cipher %d, the repository uses %d", ErrDamaged, h.cipher, s.cipher)
	}
	return s.cipherFor(h, name)
}

func (s *scope) cipherFor(h header, name string) (*frameCipher, error) {
	key, err := s.objectKey(h)
	if err != nil {
		return nil, err
	}
	c := &frameCipher{head: h, aead: sumAEAD{}}
	if h.cipher == cipherGCM {
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("object cipher: %w", err)
		}
		if c.aead, err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("object cipher: %w", err)
		}
	}
	hb := h.bytes()
	c.aad = append(append(hb[:], 0, 0, 0, 0, 0), name...)
	return c, nil
}

// place is the nonce and the additional data of frame n (F9).
func (c *frameCipher) place(n uint32, last bool) (nonce [12]byte, aad []byte) {
	binary.BigEndian.PutUint32(nonce[8:], n)
	aad = append(make([]byte, 0, 256), c.aad...)
	binary.BigEndian.PutUint32(aad[headerSize:], n)
	if last {
		aad[headerSize+4] = 1
	}
	return nonce, aad
}

// seal appends the stored form of payload, tagSize bytes longer, to dst.
func (c *frameCipher) seal(dst []byte, n uint32, last bool, payload []byte) []byte {
	nonce, aad := c.place(n, last)
	return c.aead.Seal(dst, nonce[:], payload, aad)
}

// open authenticates frame n and appends its payload to dst.
func (c *frameCipher) open(dst []byte, n uint32, last bool, stored []byte) ([]byte, error) {
	nonce, aad := c.place(n, last)
	out, err := c.aead.Open(dst, nonce[:], stored, aad)
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d does not authenticate", ErrDamaged, n)
	}
	return out, nil
}

// sumAEAD is cipher id 0: no secrecy, but every frame still carries a tag
// over its bytes and its place, so that damage shows (F6, F9).
type sumAEAD struct{}

func (sumAEAD) NonceSize() int { return 12 }
func (sumAEAD) Overhead() int  { return tagSize }

func (sumAEAD) tag(plain, aad []byte) []byte {
	h := sha256.New()
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(aad)))
	h.Write(n[:])
	h.Write(aad)
	h.Write(plain)
	return h.Sum(nil)[:tagSize]
}

func (a sumAEAD) Seal(dst, _, plain, aad []byte) []byte {
	tag := a.tag(plain, aad)
	return append(append(dst, plain...), tag...)
}

func (a sumAEAD) Open(dst, _, stored, aad []byte) ([]byte, error) {
	if len(stored) < tagSize {
		return nil, errors.New("shorter than a tag")
	}
	plain, tag := stored[:len(stored)-tagSize], stored[len(stored)-tagSize:]
	if subtle.ConstantTimeCompare(tag, a.tag(plain, aad)) != 1 {
		return nil, errors.New("sum differs")
	}
	return append(dst, plain...), nil
}
