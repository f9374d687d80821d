package wal

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/fnv"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// epoch is the source's clock at position 0; it runs a millisecond a byte.
var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(p Position) time.Time { return epoch.Add(time.Duration(p) * time.Millisecond) }

// logBytes is what the log of a branch holds in [from, to).
func logBytes(branch string, from, to Position) []byte {
	h := fnv.New64a()
	h.Write([]byte(branch))
	seed := h.Sum64()
	out := make([]byte, 0, to-from)
	for p := from; p < to; p++ {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], (seed^uint64(p))*0x9e3779b97f4a7c15)
		out = append(out, b[0])
	}
	return out
}

func chunk(branch string, from, to Position) Chunk {
	return Chunk{Pos: from, Data: logBytes(branch, from, to), SentTime: at(to)}
}

// switchable is a store whose faults are turned on after the lineage is made.
type switchable struct {
	mu   sync.Mutex
	plan faulty.Plan
}

func (s *switchable) set(p faulty.Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plan = p
}

func (s *switchable) decide(c faulty.Call) faulty.Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.plan == nil {
		return faulty.Fault{}
	}
	return s.plan(c)
}

// lineage makes a repository in memory; faults set on the switch hit it.
func lineage(t *testing.T) (*repo.Lineage, *switchable) {
	t.Helper()
	sw := &switchable{}
	var st blob.Store = faulty.Wrap(file.New(crashfs.New(1, nil), "memory", file.Options{}), sw.decide)
	r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Unencrypted: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "db"})
	if err != nil {
		t.Fatal(err)
	}
	return l, sw
}

// put stores a segment directly.
func put(t *testing.T, l *repo.Lineage, branch string, from, to Position, beats ...repo.Beat) {
	t.Helper()
	m := &repo.SegmentMeta{Branch: branch, Start: from, End: to, FirstTime: at(from), LastTime: at(to), SourceTime: at(to), Beats: beats}
	if err := l.PutSegment(t.Context(), m, logBytes(branch, from, to)); err != nil {
		t.Fatal(err)
	}
}

func branch(t *testing.T, l *repo.Lineage, id, parent string, fork Position, number uint64) repo.Branch {
	t.Helper()
	b := repo.Branch{ID: id, Parent: parent, Fork: fork, Number: number}
	if err := l.PutBranch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	return b
}

func beat(n int64, p Position) repo.Beat { return repo.Beat{N: n, At: at(p), Pos: p} }

// held asserts that a branch's log is in the store, byte for byte.
func held(t *testing.T, l *repo.Lineage, id string, from, to Position) {
	t.Helper()
	p, err := MakePlan(t.Context(), l, id, from, id, to)
	if err != nil {
		t.Fatalf("plan %d to %d: %v", from, to, err)
	}
	r, err := NewReader(t.Context(), l, p)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var buf bytes.Buffer
	if err := r.Copy(t.Context(), id, from, to, &buf); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(buf.Bytes(), logBytes(id, from, to)) {
		t.Fatalf("branch %s: bytes %d to %d differ from what was written", id, from, to)
	}
}

func metas(t *testing.T, l *repo.Lineage, id string) []*repo.SegmentMeta {
	t.Helper()
	refs, err := l.Segments(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []*repo.SegmentMeta
	for _, ref := range refs {
		m, err := l.ReadSegmentMeta(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// copyFeed answers from a map.
type copyFeed map[string]func(ctx context.Context, w io.Writer) error

func (f copyFeed) Fetch(ctx context.Context, name string, w io.Writer) error {
	fn, ok := f[name]
	if !ok {
		return ErrBeyondPlan
	}
	return fn(ctx, w)
}
