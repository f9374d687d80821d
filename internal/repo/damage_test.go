package repo

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// world is a repository with one small object of every kind.
type world struct {
	st  *memstore.Store
	l   *Lineage
	m   *Manifest
	seg SegmentRef
	u   Unlock // with the recovery key, which is quicker than a passphrase
}

func makeWorld(t testing.TB, encrypted bool) *world {
	t.Helper()
	ctx := context.Background()
	st := newStore()
	o := initOptions()
	if !encrypted {
		o.Passphrase, o.Unencrypted = secret.Text{}, true
	}
	r, recovery, err := Init(ctx, st, o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.EnsureLineage(ctx, testInfo())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{st: st, l: l, seg: SegmentRef{Branch: "b1", Start: 0x10, End: 0x20}, u: Unlock{Identity: recovery}}
	w.m, _ = makeBackup(t, l, "")
	if _, err := l.BeginBackup(ctx, w.m.ID); err != nil { // leaves an intent
		t.Fatal(err)
	}
	for _, err := range []error{
		l.PutBranch(ctx, Branch{ID: "b1", Fork: 5, Proof: map[string]string{"history": "none"}}),
		l.PutSegment(ctx, &SegmentMeta{Branch: "b1", Start: 0x10, End: 0x20, Beats: []Beat{{N: 1}}}, text(16)),
		l.PutNote(ctx, Note{Branch: "b1", Event: "shutdown"}),
		l.PutRecord(ctx, "d1", []byte(`{"verdict":"pass"}`)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.SwapLease(ctx, "", testLease(1, "a")); err != nil {
		t.Fatal(err)
	}
	return w
}

// key finds the object whose key contains part.
func (w *world) key(t testing.TB, part string) string {
	t.Helper()
	for _, key := range w.st.Keys() {
		if strings.Contains(key, part) {
			return key
		}
	}
	t.Fatalf("no %s among %v", part, w.st.Keys())
	return ""
}

// readers open every kind of object the way the package does.
func (w *world) readers() map[string]func() error {
	ctx := context.Background()
	open := func() error {
		_, err := Open(ctx, w.st, w.u, testOptions())
		return err
	}
	readers := map[string]func() error{
		"repo.json":      open,
		"/lineage.json":  func() error { return w.l.load(ctx) },
		"/manifest.json": func() error { _, err := w.l.Backup(ctx, w.m.ID); return err },
		"/map":           func() error { _, err := collectItems(w.l, w.m); return err },
		"/branch/":       func() error { _, err := w.l.Branches(ctx); return err },
		"/log/":          func() error { _, _, err := w.l.ReadSegment(ctx, w.seg); return err },
		"/note/":         func() error { _, err := w.l.Notes(ctx); return err },
		"/record/":       func() error { _, err := w.l.Records(ctx); return err },
		"/lease.json":    func() error { _, _, err := w.l.ReadLease(ctx); return err },
		"/pack/":         w.checkPacks,
		"/intent/":       w.checkIntents,
	}
	if w.l.keys.cipher == cipherGCM {
		readers["keys/recovery"] = open
	}
	return readers
}

func (w *world) checkPacks() error {
	for _, key := range w.st.Keys() {
		if !strings.Contains(key, "/pack/") {
			continue
		}
		if err := w.l.CheckPack(w.st.Bytes(key), nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) checkIntents() error {
	for _, key := range w.st.Keys() {
		if !strings.Contains(key, "/intent/") {
			continue
		}
		var in Intent
		if err := w.l.keys.openDocument(w.st.Bytes(key), typeIntent, key, &in, nil); err != nil {
			return err
		}
	}
	return nil
}

// damages calls fn with a damaged body for a flip in every byte (in JSON also
// of the bit that changes the case of letters), every cut, and additions.
func damages(body []byte, fn func(what string, at int, bad []byte)) {
	for i := range body {
		bits := []byte{1 << (i % 8)}
		if body[0] == '{' {
			bits = append(bits, 0x20)
		}
		for _, bit := range bits {
			bad := bytes.Clone(body)
			bad[i] ^= bit
			fn("flipped", i, bad)
		}
		fn("cut", i, body[:i])
	}
	fn("added to", len(body), append(bytes.Clone(body), 0))
	fn("added to", len(body), append(bytes.Clone(body), '\n'))
}

func TestEveryDamageShows(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		w := makeWorld(t, encrypted)
		for part, read := range w.readers() {
			key := w.key(t, part)
			good := w.st.Bytes(key)
			if err := read(); err != nil {
				t.Fatalf("%s before any damage: %v", key, err)
			}
			damages(good, func(what string, at int, bad []byte) {
				w.st.Put(key, bad)
				err := read()
				if err == nil {
					t.Errorf("%s (encrypted %v) %s at %d of %d: not seen", key, encrypted, what, at, len(good))
				} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrFormat) && !errors.Is(err, ErrKey) {
					t.Errorf("%s %s at %d: untyped: %v", key, what, at, err)
				}
			})
			w.st.Put(key, good)
		}
	}
}

// An object under another object's key must not open, though it is genuine.
func TestRelocatedObjects(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := makeWorld(t, true)
	other, _ := makeBackup(t, w.l, "")
	for _, name := range []string{"/map", "/manifest.json"} {
		w.st.Put(backupPrefix("pg-7")+other.ID+name, w.st.Bytes(backupPrefix("pg-7")+w.m.ID+name))
	}
	if _, err := w.l.Backup(ctx, other.ID); !errors.Is(err, ErrDamaged) {
		t.Errorf("manifest: %v", err)
	}
	if err := w.l.Items(ctx, &Manifest{ID: other.ID, MapSHA256: w.m.MapSHA256, Packs: w.m.Packs}, func(Item) error { return nil }); !errors.Is(err, ErrDamaged) {
		t.Errorf("map: %v", err)
	}
	moved := SegmentRef{Branch: "b1", Start: 0x20, End: 0x30}
	w.st.Put(segmentKey("pg-7", moved), w.st.Bytes(segmentKey("pg-7", w.seg)))
	if _, _, err := w.l.ReadSegment(ctx, moved); !errors.Is(err, ErrDamaged) {
		t.Errorf("segment: %v", err)
	}
	if _, err := w.l.ReadSegmentMeta(ctx, moved); !errors.Is(err, ErrDamaged) {
		t.Errorf("segment metadata: %v", err)
	}
	w.st.Put(branchKey("pg-7", "b2"), w.st.Bytes(branchKey("pg-7", "b1")))
	if all, err := w.l.Branches(ctx); !errors.Is(err, ErrDamaged) || len(all) != 1 {
		t.Errorf("branch: %d, %v", len(all), err)
	}
}

// The keys of one lineage or repository open nothing of another.
func TestForeignKeys(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := makeWorld(t, true)
	r, err := Open(ctx, w.st, Unlock{Passphrase: secret.New(testPass)}, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	info := testInfo()
	info.ID = "pg-8"
	sibling, err := r.EnsureLineage(ctx, info)
	if err != nil {
		t.Fatal(err)
	}
	stranger := makeLin(t, newStore())
	pack := makePack(t, w.l, text(50))
	for name, l := range map[string]*Lineage{"sibling lineage": sibling, "same lineage of another repository": stranger} {
		if err := l.CheckPack(pack.body, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s opened a pack: %v", name, err)
		}
		if bytes.Equal(l.keys.epochs[1], w.l.keys.epochs[1]) {
			t.Errorf("%s has the same data key", name)
		}
		if l.ExtentID([]byte("x")) == w.l.ExtentID([]byte("x")) {
			t.Errorf("%s has the same extent ids", name)
		}
	}
}

// Frames of one stream, put together in any other way, do not open.
func TestFramePlaces(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, true)
	const key = "l/pg-7/log/b1/0/x"
	seal := func() []byte {
		sw, err := w.l.keys.newSealWriter(typeSegment, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range []string{"zero", "one!", "two."} {
			sw.frame([]byte(s), false)
		}
		sw.pending = []byte("last")
		return sw.finish()
	}
	body, twin := seal(), seal()
	head, size := body[:headerSize], 4+1+4+tagSize
	frame := func(b []byte, i int) []byte { return b[headerSize+i*size : headerSize+(i+1)*size] }
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f := func(i int) []byte { return frame(body, i) }
	if _, got, err := w.l.keys.openObject(join(head, f(0), f(1), f(2), f(3)), typeSegment, key, false); err != nil || string(got) != "zeroone!two.last" {
		t.Fatalf("the frames in place: %q, %v", got, err)
	}
	for name, bad := range map[string][]byte{
		"dropped first":   join(head, f(1), f(2), f(3)),
		"dropped middle":  join(head, f(0), f(2), f(3)),
		"dropped last":    join(head, f(0), f(1), f(2)),
		"swapped":         join(head, f(0), f(2), f(1), f(3)),
		"repeated":        join(head, f(0), f(1), f(1), f(2), f(3)),
		"repeated last":   join(head, f(0), f(1), f(2), f(3), f(3)),
		"of another":      join(head, f(0), frame(twin, 1), f(2), f(3)),
		"other header":    join(twin[:headerSize], f(0), f(1), f(2), f(3)),
		"header and last": join(head, f(3)),
		"none":            head,
	} {
		if _, _, err := w.l.keys.openObject(bad, typeSegment, key, false); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := w.l.keys.openObject(body, typeMap, key, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("as another type: %v", err)
	}
}

// An encrypted repository must not take objects that are not encrypted.
func TestCipherDowngrade(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, true)
	plain := &scope{epochs: w.l.keys.epochs, newest: 1, cipher: cipherSum}
	body, err := plain.sealObject(typeSegment, "k", nil, text(5))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := plain.openObject(body, typeSegment, "k", false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.l.keys.openObject(body, typeSegment, "k", false); !errors.Is(err, ErrDamaged) {
		t.Fatalf("accepted: %v", err)
	}
}
