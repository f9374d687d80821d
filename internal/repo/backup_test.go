package repo

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/faulty"
)

func collectItems(l *Lineage, m *Manifest) ([]Item, error) {
	var out []Item
	err := l.Items(context.Background(), m, func(it Item) error {
		out = append(out, it)
		return nil
	})
	return out, err
}

func TestBackupRoundTrip(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	l := makeLin(t, newStore())
	m, items := makeBackup(t, l, "")
	got, err := l.Backup(ctx, m.ID)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Fatalf("manifest changed on the way:\n%+v\n%+v", got, m)
	}
	o, err := l.st.Stat(ctx, mapKey("pg-7", m.ID))
	if err != nil || o.Size != m.MapBytes {
		t.Fatalf("map of %d bytes, recorded %d, %v", o.Size, m.MapBytes, err)
	}
	read, err := collectItems(l, got)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(read, items) { // Commit has sorted them
		t.Fatalf("items changed on the way:\n%+v\n%+v", read, items)
	}
	child, _ := makeBackup(t, l, m.ID)
	all, err := l.Backups(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%d backups, %v", len(all), err)
	}
	if child.Parent != m.ID || !strings.HasPrefix(m.ID, "20261122T120000Z-") {
		t.Fatalf("ids: %s, parent %s", m.ID, child.Parent)
	}
	for _, key := range l.st.(interface{ Keys() []string }).Keys() {
		if strings.Contains(key, "/intent/") {
			t.Fatalf("%s was left behind", key)
		}
	}
}

// plainCommit is the least a backup can be.
func plainCommit(ctx context.Context, b *BackupWriter) (*Manifest, error) {
	m := &Manifest{Engine: "postgres", Branch: "b1"}
	return m, b.Commit(ctx, m, []Item{{Path: "a", ModTime: testTime}})
}

func TestCommitLostReplies(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"/map", "/manifest.json"} {
		ctx := context.Background()
		mem := newStore()
		l := makeLin(t, faulty.Wrap(mem, faulty.Script(faulty.Rule{Op: faulty.Create, Key: key, Fault: faulty.Fault{Kind: faulty.Lost}})))
		b, err := l.BeginBackup(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := plainCommit(ctx, b); err == nil {
			t.Fatal("the lost reply was not seen")
		}
		m, err := plainCommit(ctx, b)
		if err != nil {
			t.Fatalf("%s: retry: %v", key, err)
		}
		if items, err := collectItems(l, m); err != nil || len(items) != 1 {
			t.Fatalf("%s: %d items, %v", key, len(items), err)
		}
		if _, err := l.Backup(ctx, m.ID); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCommitRefusals(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		spoil func(l *Lineage, b *BackupWriter, m *Manifest)
		want  error
	}{
		"missing pack": {func(_ *Lineage, _ *BackupWriter, m *Manifest) {
			m.Packs = []PackInfo{{ID: PackID{1}, Size: 5}}
		}, ErrNotFound},
		"pack of other size": {func(l *Lineage, _ *BackupWriter, m *Manifest) {
			p := makePack(t, l, text(100))
			if err := l.PutPack(ctx, p.info, p.body); err != nil {
				t.Fatal(err)
			}
			m.Packs = []PackInfo{{ID: p.info.ID, Size: p.info.Size + 1}}
		}, ErrDamaged},
		"intent gone": {func(l *Lineage, b *BackupWriter, _ *Manifest) {
			if err := l.st.Delete(ctx, intentKey("pg-7", b.ID())); err != nil {
				t.Fatal(err)
			}
		}, ErrNotFound},
		"parent marked": {func(l *Lineage, b *BackupWriter, _ *Manifest) {
			if err := l.st.Create(ctx, tombKey("pg-7", b.parent), []byte("{}"), blob.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		l := makeLin(t, newStore())
		parent, _ := makeBackup(t, l, "")
		b, err := l.BeginBackup(ctx, parent.ID)
		if err != nil {
			t.Fatal(err)
		}
		m := &Manifest{Branch: "b1"}
		c.spoil(l, b, m)
		err = b.Commit(ctx, m, nil)
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := l.Backup(ctx, b.ID()); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: the backup exists all the same: %v", name, err)
		}
	}
}

func TestBeginBackupParents(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	l := makeLin(t, st)
	if _, err := l.BeginBackup(ctx, "20200101T000000Z-000000"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("a missing parent: %v", err)
	}
	m, _ := makeBackup(t, l, "")
	st.Put(tombKey("pg-7", m.ID), []byte("{}"))
	if _, err := l.BeginBackup(ctx, m.ID); err == nil {
		t.Fatal("a parent marked for expiry was accepted")
	}
	for _, key := range st.Keys() {
		if strings.Contains(key, "/intent/") {
			t.Fatalf("%s was left behind", key)
		}
	}
}

func TestBackupsReportsDamage(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	l := makeLin(t, st)
	bad, _ := makeBackup(t, l, "")
	good, _ := makeBackup(t, l, "")
	st.Put(manifestKey("pg-7", bad.ID), []byte("{}"))
	all, err := l.Backups(ctx)
	if !errors.Is(err, ErrDamaged) || len(all) != 1 || all[0].ID != good.ID {
		t.Fatalf("%d backups, %v", len(all), err)
	}
}

// A backup whose map was replaced by another valid one must not restore.
func TestMapIsBoundToManifest(t *testing.T) {
	t.Parallel()
	l := makeLin(t, newStore())
	m, items := makeBackup(t, l, "")
	body, _, err := l.keys.sealMap(mapKey("pg-7", m.ID), items[:1], len(m.Packs))
	if err != nil {
		t.Fatal(err)
	}
	l.st.(interface{ Put(string, []byte) }).Put(mapKey("pg-7", m.ID), body)
	if _, err := collectItems(l, m); !errors.Is(err, ErrDamaged) {
		t.Fatalf("another map was accepted: %v", err)
	}
}
