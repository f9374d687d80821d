package repo

import "github.com/zeebo/blake3"

// idHasher is a keyed BLAKE3 with room for its output, pooled so that an id
// costs no allocation.
type idHasher struct {
	h   *blake3.Hasher
	out [32]byte
}

func newIDHasher(key []byte) *idHasher {
	// NewKeyed fails for a key of another length than 32 only, which
	// checkKeys and HKDF rule out; a nil hasher would crash, never mislead.
	h, _ := blake3.NewKeyed(key)
	return &idHasher{h: h}
}

// ExtentID computes an extent's id (F15). Safe for concurrent use, no
// allocation in steady state.
func (l *Lineage) ExtentID(plain []byte) (id ExtentID) {
	x := l.hashers.Get().(*idHasher)
	x.h.Reset()
	_, _ = x.h.Write(plain) // a hash never fails
	copy(id[:], x.h.Sum(x.out[:0]))
	l.hashers.Put(x)
	return id
}
