package repo

import (
	"crypto/hkdf"
	"crypto/sha256"
	"fmt"
)

// A scope is the derived keys of one lineage, or of the repository itself
// (the empty lineage). It is all that sealing and opening need, and all that
// an exported key holds (F5). Its keys never change; safe for concurrent use.
type scope struct {
	lineage string
	cipher  cipherID
	newest  uint32            // epoch that seals
	epochs  map[uint32][]byte // lineage key of each epoch
	idKey   []byte            // keys extent ids; never rotates

	coders coders
}

const keySize = 32

// deriveScope is F5: the lineage's keys from the repository's.
func deriveScope(k *keyring, lineage string, id cipherID) (*scope, error) {
	s := &scope{lineage: lineage, cipher: id, epochs: make(map[uint32][]byte, len(k.Epochs))}
	for _, e := range k.Epochs {
		key, err := hkdf.Key(sha256.New, e.Key, nil, "holdfast/0 lineage "+lineage, keySize)
		if err != nil {
			return nil, fmt.Errorf("derive lineage key: %w", err)
		}
		s.epochs[e.N] = key
		s.newest = max(s.newest, e.N)
	}
	idKey, err := hkdf.Key(sha256.New, k.IDKey, nil, "holdfast/0 ids "+lineage, keySize)
	if err != nil {
		return nil, fmt.Errorf("derive id key: %w", err)
	}
	s.idKey = idKey
	return s, nil
}

// objectKey is F5: the key of one object, from its salt and type.
func (s *scope) objectKey(h header) ([]byte, error) {
	lk, ok := s.epochs[h.epoch]
	if !ok {
		return nil, fmt.Errorf("%w: key epoch %d is not among the keys this slot opens", ErrKey, h.epoch)
	}
	return hkdf.Key(sha256.New, lk, h.salt[:], "holdfast/0 object "+h.typ.label(), keySize)
}
