package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// maxSegmentPlain bounds one segment's log bytes, so that reading it whole is
// bounded too.
const maxSegmentPlain = 256 << 20

// metaGuess is what ReadSegmentMeta fetches first: the header and, but for a
// segment with thousands of beats, the whole metadata frame.
const metaGuess = 16 << 10

// PutSegment seals and stores data as log range [m.Start, m.End) (F24), durable
// when it returns nil. If the key exists, it is read back: equal range and
// plaintext hash count as stored, anything else is ErrFork.
// len(data) == m.End-m.Start for byte logs; the caller keeps data unchanged
// until it returns. m.Hash is set.
func (l *Lineage) PutSegment(ctx context.Context, m *SegmentMeta, data []byte) error {
	if err := l.writable(); err != nil {
		return err
	}
	if err := checkName("branch", m.Branch); err != nil {
		return err
	}
	if m.Start >= m.End || len(data) > maxSegmentPlain {
		return fmt.Errorf("put segment: range [%s, %s) of %d bytes is outside the format", m.Start.Key(), m.End.Key(), len(data))
	}
	sum := sha256.Sum256(data)
	m.Hash = hex.EncodeToString(sum[:])
	meta, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode segment metadata: %w", err)
	}
	ref := SegmentRef{Branch: m.Branch, Start: m.Start, End: m.End}
	key := segmentKey(l.keys.lineage, ref)
	body, err := l.keys.sealObject(typeSegment, key, meta, data)
	if err != nil {
		return err
	}
	return create(ctx, l.st, key, body, func(existing []byte) error {
		was, _, err := l.openSegment(existing, ref)
		if err != nil { // what cannot be read is not known to be ours
			return fmt.Errorf("%w: %w", ErrFork, err)
		}
		if was.Hash != m.Hash {
			return fmt.Errorf("%s: %w: it holds log with hash %s, this one has %s", key, ErrFork, was.Hash, m.Hash)
		}
		return nil
	})
}

// openSegment authenticates a segment's bytes and checks them against its key
// and its own hash.
func (l *Lineage) openSegment(body []byte, ref SegmentRef) (*SegmentMeta, []byte, error) {
	key := segmentKey(l.keys.lineage, ref)
	// Not more than the body may well hold: a position need not be a byte.
	size := min(uint64(ref.End-ref.Start), maxSegmentPlain, 64*uint64(len(body)))
	raw, data, err := l.keys.openSized(body, typeSegment, key, true, int(size))
	if err != nil {
		return nil, nil, err
	}
	m, err := parseSegmentMeta(raw, ref)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", key, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != m.Hash {
		return nil, nil, fmt.Errorf("%s: %w: the log does not match its hash", key, ErrDamaged)
	}
	return m, data, nil
}

func parseSegmentMeta(raw []byte, ref SegmentRef) (*SegmentMeta, error) {
	m := &SegmentMeta{}
	if err := json.Unmarshal(raw, m); err != nil {
		return nil, fmt.Errorf("%w: metadata: %w", ErrDamaged, err)
	}
	if m.Branch != ref.Branch || m.Start != ref.Start || m.End != ref.End {
		return nil, fmt.Errorf("%w: metadata of [%s, %s) on %s", ErrDamaged, m.Start.Key(), m.End.Key(), m.Branch)
	}
	return m, nil
}

// Segments lists a branch's segments ordered by start, then end. from > 0
// leaves out those that end at or before it. A key that is no segment's is an
// error: what stands in the log's place must not be passed over.
func (l *Lineage) Segments(ctx context.Context, branch string, from Position) ([]SegmentRef, error) {
	if err := checkName("branch", branch); err != nil {
		return nil, err
	}
	prefix := logPrefix(l.keys.lineage, branch)
	var refs []SegmentRef
	err := l.st.List(ctx, prefix, blob.ListOptions{}, func(o blob.Object) error {
		level, start, end, err := parseSegmentKey(strings.TrimPrefix(o.Key, prefix))
		if err != nil {
			return err
		}
		if from == 0 || end > from {
			refs = append(refs, SegmentRef{Branch: branch, Level: level, Start: start, End: end, Stored: o.Size})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list log of branch %s: %w", branch, err)
	}
	slices.SortStableFunc(refs, func(a, b SegmentRef) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
	})
	return refs, nil
}

// ReadSegment reads and authenticates a whole segment. ErrNotFound, ErrDamaged.
func (l *Lineage) ReadSegment(ctx context.Context, ref SegmentRef) (*SegmentMeta, []byte, error) {
	body, err := readSized(ctx, l.st, segmentKey(l.keys.lineage, ref), ref.Stored)
	if err != nil {
		return nil, nil, err
	}
	return l.openSegment(body, ref)
}

// ReadSegmentMeta reads only the header. It does not prove that the log bytes
// behind it are whole; ReadSegment does. ErrNotFound, ErrDamaged.
func (l *Lineage) ReadSegmentMeta(ctx context.Context, ref SegmentRef) (*SegmentMeta, error) {
	key := segmentKey(l.keys.lineage, ref)
	m, err := l.readMeta(ctx, key, ref, metaGuess)
	if errors.Is(err, errShort) {
		m, err = l.readMeta(ctx, key, ref, headerSize+4+maxStoredFrame)
	}
	return m, err
}

// errShort: the metadata frame is longer than what was fetched.
var errShort = errors.New("metadata frame not fetched whole")

func (l *Lineage) readMeta(ctx context.Context, key string, ref SegmentRef, n int64) (*SegmentMeta, error) {
	rc, err := l.st.Read(ctx, key, 0, n)
	if err != nil {
		return nil, storeErr(key, err)
	}
	body, err := readBounded(rc, n)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	r, err := l.keys.openSealed(bytes.NewReader(body), typeSegment, key)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if int64(len(body)) == n && int64(headerSize+4+r.next) > n {
		return nil, errShort
	}
	raw, err := r.meta()
	if err != nil {
		return nil, err
	}
	m, err := parseSegmentMeta(raw, ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	return m, nil
}
