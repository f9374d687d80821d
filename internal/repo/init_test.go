package repo

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"sync"
	"testing"

	"filippo.io/age"

	"github.com/holdfastdb/holdfast/docs"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

func TestInitAndOpen(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	user, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	o := initOptions()
	o.Recipients = []string{user.Recipient().String()}
	made, recovery, err := Init(ctx, st, o)
	if err != nil {
		t.Fatal(err)
	}
	if made.OpenedWith().Kind != slotPassphrase {
		t.Errorf("init opened with %+v", made.OpenedWith())
	}
	if got := st.Bytes("FORMAT.md"); !bytes.Equal(got, docs.Format()) || len(got) < 1000 {
		t.Errorf("FORMAT.md in the store has %d bytes", len(got))
	}
	for kind, u := range map[string]Unlock{
		slotPassphrase: {Passphrase: secret.New(testPass)},
		slotAge:        {Identity: secret.New(user.String())},
		slotRecovery:   {Identity: recovery},
	} {
		r, err := Open(ctx, st, u, testOptions())
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if r.OpenedWith().Kind != kind || !reflect.DeepEqual(r.Info(), made.Info()) || !reflect.DeepEqual(r.ring, made.ring) {
			t.Errorf("%s: opened %+v with %+v", kind, r.Info(), r.OpenedWith())
		}
		slots, err := r.Slots(ctx)
		if err != nil || len(slots) != 3 {
			t.Errorf("%d slots, %v", len(slots), err)
		}
	}
	for _, key := range st.Keys() {
		body := st.Bytes(key)
		if bytes.Contains(body, []byte(recovery.Reveal())) || bytes.Contains(body, []byte(testPass)) {
			t.Errorf("%s holds a secret", key)
		}
	}
}

func TestOpenWrongKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	_, recovery := makeRepo(t, st)
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	const mistyped = "AGE-SECRET-KEY-1MISTYPED"
	for name, u := range map[string]Unlock{
		"passphrase": {Passphrase: secret.New("wrong")},
		"identity":   {Identity: secret.New(stranger.String())},
		"mistyped":   {Identity: secret.New(mistyped)},
		"none":       {},
	} {
		_, err := Open(ctx, st, u, testOptions())
		if !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		hint := hferr.HintOf(err)
		if !strings.Contains(hint, "passphrase-") || !strings.Contains(hint, "recovery-") {
			t.Errorf("%s: the hint names no slots: %q", name, hint)
		}
		if text := err.Error() + hint; strings.Contains(text, mistyped) || strings.Contains(text, recovery.Reveal()) {
			t.Errorf("%s: the error quotes a key", name)
		}
	}
	if _, err := Open(ctx, newStore(), Unlock{}, testOptions()); !errors.Is(err, ErrNoRepository) {
		t.Errorf("no repository: %v", err)
	}
}

func TestInitRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, change := range map[string]func(*InitOptions){
		"no key":         func(o *InitOptions) { o.Passphrase = secret.Text{} },
		"both":           func(o *InitOptions) { o.Unencrypted = true },
		"bad recipient":  func(o *InitOptions) { o.Recipients = []string{"age1nonsense"} },
		"work factor":    func(o *InitOptions) { o.ScryptWork = 30 },
		"probe not JSON": func(o *InitOptions) { o.Probe = []byte("{") },
	} {
		st, o := newStore(), initOptions()
		change(&o)
		if _, _, err := Init(ctx, st, o); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if keys := st.Keys(); len(keys) != 0 {
			t.Errorf("%s: left %v", name, keys)
		}
	}
	st := newStore()
	makeRepo(t, st)
	if _, _, err := Init(ctx, st, initOptions()); !errors.Is(err, ErrExists) {
		t.Errorf("a second init: %v", err)
	}
	lost := newStore()
	makeLin(t, lost)
	if err := lost.Delete(ctx, keyRepo); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Init(ctx, lost, initOptions()); !errors.Is(err, ErrExists) {
		t.Errorf("init over the data of a repository that lost its repo.json: %v", err)
	}
}

// An init that fails at any of its writes can be run again, and what it left
// behind opens nothing and disturbs nothing.
func TestInitInterrupted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, kind := range []faulty.Kind{faulty.Before, faulty.Lost} {
		for n := range 4 { // FORMAT.md, two slots, repo.json
			mem := newStore()
			o := initOptions()
			broken := faulty.Wrap(mem, faulty.Script(faulty.Rule{Op: faulty.Create, Skip: n, Fault: faulty.Fault{Kind: kind}}))
			r, recovery, err := Init(ctx, broken, o)
			if n == 3 { // repo.json is asked for again
				if err != nil {
					t.Fatalf("%v at repo.json: %v", kind, err)
				}
			} else {
				if err == nil {
					t.Fatalf("%v at write %d was not seen", kind, n)
				}
				if _, err := Open(ctx, mem, Unlock{Passphrase: secret.New(testPass)}, testOptions()); !errors.Is(err, ErrNoRepository) {
					t.Fatalf("%v at write %d: a repository exists: %v", kind, n, err)
				}
				o.Passphrase = secret.New("another")
				if r, recovery, err = Init(ctx, mem, o); err != nil {
					t.Fatalf("%v at write %d: again: %v", kind, n, err)
				}
			}
			for _, u := range []Unlock{{Passphrase: o.Passphrase}, {Identity: recovery}} {
				if _, err := Open(ctx, mem, u, testOptions()); err != nil {
					t.Fatal(err)
				}
			}
			if slots, err := r.Slots(ctx); err != nil || len(slots) != 2 {
				t.Fatalf("%d slots, %v", len(slots), err)
			}
			if n < 3 {
				if _, err := Open(ctx, mem, Unlock{Passphrase: secret.New(testPass)}, testOptions()); !errors.Is(err, ErrKey) {
					t.Fatalf("the interrupted init's passphrase: %v", err)
				}
			}
		}
	}
}

func TestConcurrentInits(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	var wg sync.WaitGroup
	var mu sync.Mutex
	var won []secret.Text
	for range 8 {
		wg.Go(func() {
			_, recovery, err := Init(ctx, st, initOptions())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won = append(won, recovery)
			case !errors.Is(err, ErrExists):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d inits won", len(won))
	}
	for _, u := range []Unlock{{Passphrase: secret.New(testPass)}, {Identity: won[0]}} {
		r, err := Open(ctx, st, u, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if slots, err := r.Slots(ctx); err != nil || len(slots) != 2 {
			t.Fatalf("%d slots, %v", len(slots), err)
		}
	}
}

func TestUnencrypted(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	w := makeWorld(t, false)
	if r, err := Open(ctx, w.st, Unlock{}, testOptions()); err != nil || r.Info().Encrypted {
		t.Fatal(err)
	}
	if !bytes.Contains(w.st.Bytes(segmentKey("pg-7", w.seg)), text(16)) {
		t.Error("the log does not stand in clear")
	}
	if _, err := Open(ctx, w.st, Unlock{Passphrase: secret.New(testPass)}, testOptions()); !errors.Is(err, ErrKey) {
		t.Errorf("a key for a repository without: %v", err)
	}
}

// Whoever writes to the store must not be able to turn encryption off.
func TestForgedRepoFile(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	r, _ := makeRepo(t, st)
	u := Unlock{Passphrase: secret.New(testPass)}
	open, err := newRepo(st, publicKeyring(r.info.ID), Info{ID: r.info.ID}, testOptions())
	if err != nil {
		t.Fatal(err)
	}
	forged, err := open.root.sealDocument(typeRepo, keyRepo, repoFile{Info: open.info}, nil)
	if err != nil {
		t.Fatal(err)
	}
	st.Put(keyRepo, forged)
	if _, err := Open(ctx, st, u, testOptions()); !errors.Is(err, ErrKey) {
		t.Errorf("a repository turned unencrypted: %v", err)
	}
	st.Put(keyRepo, []byte(`{"public":{"format":1,"id":"x"},"new":"things"}`))
	if _, err := Open(ctx, st, u, testOptions()); !errors.Is(err, ErrFormat) || hferr.HintOf(err) == "" {
		t.Errorf("a newer format: %v", err)
	}
}

// A slot moved from another repository or edited does not open.
func TestForgedSlot(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	ours, theirs := newStore(), newStore()
	r, _ := makeRepo(t, ours)
	other, _ := makeRepo(t, theirs)
	key, foreign := slotKey(r.slot.Name), slotKey(other.slot.Name)
	body := bytes.ReplaceAll(theirs.Bytes(foreign), []byte(other.info.ID), []byte(r.info.ID))
	body = bytes.ReplaceAll(body, []byte(other.slot.Name), []byte(r.slot.Name))
	ours.Put(key, body)
	_, err := Open(ctx, ours, Unlock{Passphrase: secret.New(testPass)}, testOptions())
	if !errors.Is(err, ErrKey) || !errors.Is(err, ErrDamaged) {
		t.Errorf("another repository's slot: %v", err)
	}
}

func TestLineages(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	r, _ := makeRepo(t, st)
	l, err := r.EnsureLineage(ctx, testInfo())
	if err != nil {
		t.Fatal(err)
	}
	renamed := testInfo()
	renamed.Database = "other"
	again, err := r.EnsureLineage(ctx, renamed)
	if err != nil || !reflect.DeepEqual(again.Info(), l.Info()) || again.Info().Database != "orders" {
		t.Errorf("recorded %+v, then %+v, %v", l.Info(), again.Info(), err)
	}
	clone := testInfo()
	clone.Identity = map[string]string{"system": "8"}
	if _, err := r.EnsureLineage(ctx, clone); !errors.Is(err, ErrFork) {
		t.Errorf("another identity: %v", err)
	}
	second := testInfo()
	second.ID, second.Created = "a-later", testTime.Add(1)
	if _, err := r.EnsureLineage(ctx, second); err != nil {
		t.Fatal(err)
	}
	all, err := r.Lineages(ctx)
	if err != nil || len(all) != 2 || all[0].ID != "pg-7" || all[1].ID != "a-later" {
		t.Errorf("%+v, %v", all, err)
	}
	for _, id := range []string{"", "..", "a/b", "a b", ".x", strings.Repeat("x", 129)} {
		info := testInfo()
		info.ID = id
		if _, err := r.EnsureLineage(ctx, info); err == nil {
			t.Errorf("lineage %q was accepted", id)
		}
	}
	if _, err := r.Lineage(ctx, "none"); !errors.Is(err, ErrNotFound) {
		t.Errorf("a missing lineage: %v", err)
	}
}

func TestEnsureLineageLostReply(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	r, _ := makeRepo(t, faulty.Wrap(newStore(), faulty.Script(faulty.Rule{Op: faulty.Create, Key: "lineage.json", Fault: faulty.Fault{Kind: faulty.Lost}})))
	if _, err := r.EnsureLineage(ctx, testInfo()); err == nil {
		t.Fatal("the lost reply was not seen")
	}
	if _, err := r.EnsureLineage(ctx, testInfo()); err != nil {
		t.Fatal(err)
	}
}

func TestExportedKey(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for _, encrypted := range []bool{true, false} {
		w := makeWorld(t, encrypted)
		key := w.l.ExportKey()
		l, err := OpenLineage(ctx, w.st, "pg-7", key, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		if _, data, err := l.ReadSegment(ctx, w.seg); err != nil || !bytes.Equal(data, text(16)) {
			t.Errorf("segment: %q, %v", data, err)
		}
		if m, err := l.Backup(ctx, w.m.ID); err != nil || !reflect.DeepEqual(m, w.m) {
			t.Errorf("backup: %v", err)
		}
		_, pErr := l.NewPack()
		_, bErr := l.BeginBackup(ctx, "")
		for name, err := range map[string]error{
			"pack": pErr, "backup": bErr, "branch": l.PutBranch(ctx, Branch{ID: "x"}), "note": l.PutNote(ctx, Note{}),
			"segment": l.PutSegment(ctx, &SegmentMeta{Branch: "b1", End: 1}, nil), "record": l.PutRecord(ctx, "x", []byte("{}")),
			"put pack": l.PutPack(ctx, PackInfo{}, nil),
		} {
			if !errors.Is(err, errReadOnly) {
				t.Errorf("%s was written: %v", name, err)
			}
		}
		for name, bad := range map[string]string{
			"empty": "", "cut": key.Reveal()[:60], "long": key.Reveal() + "AA", "prefix only": exportPrefix,
		} {
			if _, err := OpenLineage(ctx, w.st, "pg-7", secret.New(bad), testOptions()); !errors.Is(err, ErrKey) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := OpenLineage(ctx, w.st, "pg-8", key, testOptions()); !errors.Is(err, ErrKey) {
			t.Errorf("for another lineage: %v", err)
		}
	}
}

// After a rotation old and new epochs both read; the newest one writes.
func TestEpochs(t *testing.T) {
	t.Parallel()
	ring := newKeyring()
	old, err := deriveScope(ring, "pg-7", cipherGCM)
	if err != nil {
		t.Fatal(err)
	}
	first, err := old.sealObject(typeSegment, "k", nil, []byte("first"))
	if err != nil {
		t.Fatal(err)
	}
	ring.Epochs = append(ring.Epochs, epochKey{N: 2, Key: bytes.Repeat([]byte{2}, keySize)})
	both, err := deriveScope(ring, "pg-7", cipherGCM)
	if err != nil {
		t.Fatal(err)
	}
	second, err := both.sealObject(typeSegment, "k", nil, []byte("second"))
	if err != nil {
		t.Fatal(err)
	}
	for want, body := range map[string][]byte{"first": first, "second": second} {
		if _, got, err := both.openObject(body, typeSegment, "k", false); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", want, got, err)
		}
	}
	if _, _, err := old.openObject(second, typeSegment, "k", false); !errors.Is(err, ErrKey) {
		t.Errorf("the old key alone opened the new epoch: %v", err)
	}
	if !bytes.Equal(old.idKey, both.idKey) {
		t.Error("the id key changed with the epoch")
	}
}
