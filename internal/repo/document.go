package repo

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
)

// A document (F12) is valid JSON with a part anybody can read and a part only
// a key opens; the sealed part authenticates the clear one.
type document struct {
	Public json.RawMessage `json:"public"`
	Sealed string          `json:"sealed"`
}

// docName is what a document's sealed part is bound to: its key and the exact
// bytes of its public value.
func docName(key string, public []byte) string {
	sum := sha256.Sum256(public)
	return key + "\n" + hex.EncodeToString(sum[:])
}

// layout writes a document's only valid form.
func (d document) layout() []byte {
	out := make([]byte, 0, len(d.Public)+len(d.Sealed)+32)
	out = append(out, `{"public":`...)
	out = append(out, d.Public...)
	out = append(out, `,"sealed":"`...)
	out = append(out, d.Sealed...)
	return append(out, "\"}\n"...)
}

// parseDocument is the inverse of layout; anything else is damage, so that no
// byte of a document is free to change.
func parseDocument(body []byte) (document, error) {
	var d document
	if err := json.Unmarshal(body, &d); err != nil {
		return d, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if d.Public == nil || !bytes.Equal(d.layout(), body) {
		return d, fmt.Errorf("%w: not in the form of a document", ErrDamaged)
	}
	return d, nil
}

// sealDocument makes a document. public must marshal to a JSON object;
// secret nil seals nothing but the binding.
func (s *scope) sealDocument(typ objType, key string, public, secret any) ([]byte, error) {
	pub, err := json.Marshal(public)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	var sec []byte
	if secret != nil {
		if sec, err = json.Marshal(secret); err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
	}
	sealed, err := s.sealObject(typ, docName(key, pub), nil, sec)
	if err != nil {
		return nil, err
	}
	return document{Public: pub, Sealed: base64.StdEncoding.EncodeToString(sealed)}.layout(), nil
}

// openDocument verifies a document and decodes its parts; a nil public or
// secret is not decoded.
func (s *scope) openDocument(body []byte, typ objType, key string, public, secret any) error {
	d, err := parseDocument(body)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(d.Sealed)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", key, ErrDamaged, err)
	}
	_, sec, err := s.openObject(sealed, typ, docName(key, d.Public), false)
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	if public != nil {
		if err := json.Unmarshal(d.Public, public); err != nil {
			return fmt.Errorf("%s: %w: %w", key, ErrDamaged, err)
		}
	}
	if secret != nil {
		if err := json.Unmarshal(sec, secret); err != nil {
			return fmt.Errorf("%s: %w: %w", key, ErrDamaged, err)
		}
	}
	return nil
}
