// Package blob is the object store: the small interface that the repository
// format is written against, and nothing about that format. Each driver is a
// folder below (file; S3 follows), and every driver must pass the conformance
// suite in blobtest, which `holdfast init` also runs against the user's own
// store. Only internal/repo may write repository objects through a Store.
package blob

import (
	"context"
	"errors"
	"io"
	"time"
)

var (
	// ErrExists is returned by Create when the key is taken. It is a
	// question, not an answer: the object may be the caller's own earlier
	// attempt whose reply was lost. Read it back and compare.
	ErrExists = errors.New("object already exists")
	// ErrNotFound is returned by Read, Stat and Retain for a missing key.
	ErrNotFound = errors.New("object not found")
	// ErrRetained is returned by Delete while an object's retention lasts.
	ErrRetained = errors.New("object is under retention")
	// ErrChanged is returned by Swap when the object is not in the state that
	// the caller named: somebody else was there first, or the caller's own
	// earlier attempt whose reply was lost. Read it back and compare.
	ErrChanged = errors.New("object changed meanwhile")
	// ErrUnsupported is returned by Retain (and by Create with RetainUntil)
	// where Capabilities().Retention is RetentionNone, and by Swap and
	// ReadVersion where Capabilities().Swap is false.
	ErrUnsupported = errors.New("not supported by this store")
	// ErrPrefix is returned by Create where a store maps keys onto
	// directories and the key is also the beginning of another ("a" beside
	// "a/b"). A format must never use both.
	ErrPrefix = errors.New("key and a prefix of other keys at once")
)

// Object describes one stored object.
type Object struct {
	Key      string    // full key, slash-separated
	Size     int64     // bytes
	Modified time.Time // by the store's clock; zero for a Dir entry
	Dir      bool      // a common prefix (ListOptions.Dirs); Key ends in "/"
}

// CreateOptions go with one Create.
type CreateOptions struct {
	// RetainUntil forbids deletion before this moment by the store's clock.
	// Zero means no retention.
	RetainUntil time.Time
}

// ListOptions narrow a List.
type ListOptions struct {
	After string // only entries whose Key is strictly greater than this, Dir entries included
	Dirs  bool   // do not descend: report common prefixes up to the next "/" as Dir entries
}

// Retention says how a store enforces Retain.
type Retention string

const (
	RetentionNone     Retention = "none"     // Retain answers ErrUnsupported
	RetentionAdvisory Retention = "advisory" // this driver refuses to delete; the medium itself would allow it
	RetentionEnforced Retention = "enforced" // the store refuses whoever asks (object lock)
)

// Capabilities is what a driver offers. They are probed by the conformance
// suite at `init`, never assumed.
type Capabilities struct {
	Retention   Retention `json:"retention"`
	MaxObject   int64     `json:"max_object"`   // largest body Create accepts, bytes
	CreateOnly  bool      `json:"create_only"`  // Create is exclusive between processes and hosts
	SortedLists bool      `json:"sorted_lists"` // List answers in key order
	Swap        bool      `json:"swap"`         // Swap is exclusive between processes and hosts
}

// Store keeps objects under slash-separated keys: immutable ones (Create), and
// a few that are replaced as a whole (Swapper, in swap.go). Keys match
// [A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*, no segment begins with a dot (drivers
// keep their own files under such names) or exceeds 255 bytes, and a key has
// at most 512; a driver refuses others before any I/O (CheckKey). All methods
// may be called concurrently, honour ctx, and wrap the errors above with the
// key.
type Store interface {
	// Create stores body under key if and only if the key is free. When it
	// returns nil, the object and every directory entry that leads to it are
	// durable and visible to all readers. When it returns ErrExists, nothing
	// was changed. On any other error the object either does not exist or is
	// complete; a torn object is never visible. body is not kept.
	Create(ctx context.Context, key string, body []byte, opt CreateOptions) error

	// Read opens bytes [off, off+n) of an object; n < 0 means to its end.
	// A range that starts at or beyond the end yields no bytes; one that
	// reaches beyond it is cut short. The caller closes the reader.
	Read(ctx context.Context, key string, off, n int64) (io.ReadCloser, error)

	// Stat describes one object.
	Stat(ctx context.Context, key string) (Object, error)

	// List calls fn for every object whose key has the prefix, in ascending
	// byte order of keys. A missing prefix is an empty list. It stops at
	// fn's first error and returns it.
	List(ctx context.Context, prefix string, opt ListOptions, fn func(Object) error) error

	// Delete removes an object durably. Deleting a missing key succeeds.
	Delete(ctx context.Context, key string) error

	// Retain extends the object's retention to until. It never shortens one.
	Retain(ctx context.Context, key string, until time.Time) error

	Swapper

	// Capabilities says what this store offers, as far as the driver knows.
	Capabilities() Capabilities
}
