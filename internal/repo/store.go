package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// maxDocument bounds what is read whole into memory from an object whose size
// nothing else limits, bytes.
const maxDocument = 1 << 30

// readAll reads a whole object. ErrNotFound.
func readAll(ctx context.Context, st blob.Store, key string) ([]byte, error) {
	return readSized(ctx, st, key, 0)
}

// readSized is readAll for an object of about size bytes; 0: unknown.
func readSized(ctx context.Context, st blob.Store, key string, size int64) ([]byte, error) {
	rc, err := st.Read(ctx, key, 0, -1)
	if err != nil {
		return nil, storeErr(key, err)
	}
	var buf bytes.Buffer
	buf.Grow(int(min(max(size, 0), maxSegmentPlain)) + bytes.MinRead) // ReadFrom wants that much room at the end
	_, err = buf.ReadFrom(io.LimitReader(rc, maxDocument+1))
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	body := buf.Bytes()
	if len(body) > maxDocument {
		return nil, fmt.Errorf("%s: %w: longer than %d bytes", key, ErrDamaged, maxDocument)
	}
	return body, nil
}

// storeErr gives a store's error the key and, for a missing object, this
// package's type beside the store's.
func storeErr(key string, err error) error {
	if errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("%s: %w: %w", key, ErrNotFound, err)
	}
	return fmt.Errorf("%s: %w", key, err)
}

// create stores body under a free key. A taken key is a question (F3): the
// object is read back, and same decides whether it is our own earlier attempt
// whose reply was lost. Ciphertexts never repeat, so same compares content.
func create(ctx context.Context, st blob.Store, key string, body []byte, same func(existing []byte) error) error {
	err := st.Create(ctx, key, body, blob.CreateOptions{})
	if !errors.Is(err, blob.ErrExists) {
		if err != nil {
			return fmt.Errorf("create %s: %w", key, err)
		}
		return nil
	}
	existing, err := readAll(ctx, st, key)
	if err != nil {
		return fmt.Errorf("%s exists and cannot be read back: %w", key, err)
	}
	return same(existing)
}

// readBounded reads at most n bytes and closes rc.
func readBounded(rc io.ReadCloser, n int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(rc, n))
	return body, errors.Join(err, rc.Close())
}
