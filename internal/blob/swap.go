package blob

import (
	"context"
	"fmt"
)

// MaxSwap is the largest body of a mutable object, bytes.
const MaxSwap = 1 << 20

// Version names one state of a mutable object. It is opaque. The zero Version
// means that there is no object. Other bodies have other versions; equal
// bodies may have equal ones (an ETag is a hash), so a caller for whom A, B
// and A again are three states makes every body unique.
type Version string

// Swapper replaces small objects as a whole, by compare-and-swap. Which keys
// are mutable is the caller's rule, not the store's: to Create, Read, Stat,
// List and Delete such an object is like any other, and Create on its key
// answers ErrExists. It must carry no retention, and must not be deleted while
// somebody may swap it.
//
// All calls for one key are linearizable, Read and Stat included, between all
// processes that reach the store: once a Swap has returned nil, every read
// that begins afterwards sees its body or a later one. Fencing stands on that
// (package wal).
//
// In S3, Swap is PUT with If-Match: <version>, or If-None-Match: * for the
// zero Version, and 412 (and 404, and 409 for a conflicting request under way)
// is ErrChanged; ReadVersion is GET, and the version its ETag.
type Swapper interface {
	// Swap stores body under key if and only if the object is in state old,
	// and returns the new state. When it returns nil, the object is durable
	// and visible as after Create. ErrChanged: nothing was changed. After any
	// other error the object is in the old state or the new one, never torn,
	// and may still go over to the new one later (a request under way), as
	// long as nobody else has swapped it: read it back and compare bodies. So
	// a retry must be ready to find its own earlier attempt. body is not kept
	// and holds at most MaxSwap bytes.
	Swap(ctx context.Context, key string, old Version, body []byte) (Version, error)

	// ReadVersion reads a whole object of at most MaxSwap bytes and the state
	// it was in. ErrNotFound.
	ReadVersion(ctx context.Context, key string) ([]byte, Version, error)
}

// CheckSwap refuses what no driver takes, before any I/O.
func CheckSwap(key string, body []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if len(body) > MaxSwap {
		return fmt.Errorf("%s: a mutable object of %d bytes, at most %d", key, len(body), MaxSwap)
	}
	return nil
}
