package repo

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/secret"
)

const testPass = "correct horse"

var testTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func testOptions() Options { return Options{Clock: func() time.Time { return testTime }} }

func newStore() *memstore.Store { return memstore.New(func() time.Time { return testTime }) }

func initOptions() InitOptions {
	return InitOptions{
		Options: testOptions(), Passphrase: secret.New(testPass), ScryptWork: minScryptWork,
		Capabilities: blob.Capabilities{CreateOnly: true}, Probe: []byte(`{"ok":true}`), Tool: "test",
	}
}

func makeRepo(t testing.TB, st blob.Store) (*Repo, secret.Text) {
	t.Helper()
	r, recovery, err := Init(context.Background(), st, initOptions())
	if err != nil {
		t.Fatal(err)
	}
	return r, recovery
}

func testInfo() LineageInfo {
	return LineageInfo{ID: "pg-7", Engine: "postgres", Database: "orders", Identity: map[string]string{"system": "7"}}
}

func makeLin(t testing.TB, st blob.Store) *Lineage {
	t.Helper()
	r, _ := makeRepo(t, st)
	l, err := r.EnsureLineage(context.Background(), testInfo())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// noise and text are plaintexts that do and do not compress.
func noise(seed uint64, n int) []byte {
	b := make([]byte, 0, n+8)
	rng := rand.New(rand.NewPCG(seed, 1))
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, rng.Uint64())
	}
	return b[:n]
}

func text(n int) []byte { return bytes.Repeat([]byte("holdfast "), n/9+1)[:n] }

// packed is a pack of one frame a plaintext.
type packed struct {
	info PackInfo
	body []byte
	refs []FrameRef
}

func makePack(t testing.TB, l *Lineage, plains ...[]byte) packed {
	t.Helper()
	enc, err := NewEncoder()
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	p, err := l.NewPack()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Release()
	var out packed
	for _, plain := range plains {
		ref, err := p.Add(enc.Encode(nil, plain), len(plain))
		if err != nil {
			t.Fatal(err)
		}
		out.refs = append(out.refs, ref)
	}
	info, body, err := p.Finish()
	if err != nil {
		t.Fatal(err)
	}
	out.info, out.body = info, bytes.Clone(body)
	return out
}

// makeBackup commits a small backup of two files, a directory and a link.
func makeBackup(t testing.TB, l *Lineage, parent string) (*Manifest, []Item) {
	t.Helper()
	ctx := context.Background()
	data := noise(3, 9000)
	first := makePack(t, l, data[:8192], data[8192:])
	if err := l.PutPack(ctx, first.info, first.body); err != nil {
		t.Fatal(err)
	}
	block := AppendBlock(nil, &Block{
		Packs: []PackID{first.info.ID},
		Runs:  []Run{{Frame: first.refs[0], Count: 1}, {Frame: first.refs[1], Count: 1}},
		IDs:   []ExtentID{l.ExtentID(data[:8192]), l.ExtentID(data[8192:])},
	})
	second := makePack(t, l, block)
	if err := l.PutPack(ctx, second.info, second.body); err != nil {
		t.Fatal(err)
	}
	ref := BlockRef{Pack: 1, Frame: second.refs[0], Len: uint32(len(block)), ID: l.ExtentID(block)}
	items := []Item{
		{Path: "base/1", Kind: KindFile, Mode: 0o600, ModTime: testTime, Size: 9000, Extent: 8192, Blocks: []BlockRef{ref}, Attrs: map[string]string{"relkind": "r"}},
		{Path: "base", Kind: KindDir, Mode: 0o700, ModTime: testTime},
		{Path: "link", Kind: KindSymlink, Link: "/srv/ts", ModTime: testTime},
		{Path: "empty", Kind: KindFile, ModTime: testTime},
	}
	b, err := l.BeginBackup(ctx, parent)
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{
		Engine: "postgres", Database: "orders", Branch: "b1", Start: 0x100, LogFrom: 0x80, Stop: 0x200, Items: 4, Bytes: 9000,
		Packs: []PackInfo{first.info, second.info}, Details: json.RawMessage(`{"label":"x"}`), Tool: "test",
	}
	if err := b.Commit(ctx, m, items); err != nil {
		t.Fatal(err)
	}
	return m, items
}
