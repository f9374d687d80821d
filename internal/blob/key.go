package blob

import (
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxKey is the longest key, in bytes.
	MaxKey = 512
	// MaxSegment is the longest part of a key between slashes, in bytes:
	// what common file systems allow for one name.
	MaxSegment = 255
)

// ErrBadKey is returned for a key or prefix outside the key language, before
// any I/O.
var ErrBadKey = errors.New("invalid object key")

// CheckKey reports whether key is in the key language (see Store). The error
// wraps ErrBadKey. Every driver calls it first, so that no key can leave a
// directory, carry a control character, or mean something else to one store.
func CheckKey(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("%w: %d bytes long, at most %d", ErrBadKey, len(key), MaxKey)
	}
	for seg := range strings.SplitSeq(key, "/") {
		if why := segmentFault(seg, true); why != "" {
			return fmt.Errorf("%w %q: %s", ErrBadKey, key, why)
		}
	}
	return nil
}

// CheckPrefix reports whether some key can begin with prefix. The empty
// prefix is every key's. The error wraps ErrBadKey.
func CheckPrefix(prefix string) error {
	if len(prefix) > MaxKey {
		return fmt.Errorf("%w prefix: %d bytes long, at most %d", ErrBadKey, len(prefix), MaxKey)
	}
	rest := prefix
	for rest != "" {
		seg, after, whole := strings.Cut(rest, "/")
		if why := segmentFault(seg, whole); why != "" {
			return fmt.Errorf("%w prefix %q: %s", ErrBadKey, prefix, why)
		}
		rest = after
	}
	return nil
}

// segmentFault says what is wrong with one segment, or "". An unfinished
// segment (the end of a prefix) may still be empty.
func segmentFault(seg string, whole bool) string {
	switch {
	case seg == "" && whole:
		return "empty segment"
	case len(seg) > MaxSegment:
		return fmt.Sprintf("a segment of %d bytes, at most %d", len(seg), MaxSegment)
	case seg != "" && seg[0] == '.':
		return "a segment begins with a dot"
	}
	for i := range len(seg) {
		if !keyByte(seg[i]) {
			return fmt.Sprintf("byte %q", seg[i])
		}
	}
	return ""
}

func keyByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '.' || c == '_' || c == '-'
}
