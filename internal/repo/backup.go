package repo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// packChecks is how many packs are looked up at a time.
const packChecks = 16

// BackupWriter commits one backup: map, checks, manifest, in that order (F20).
// One goroutine uses it.
type BackupWriter struct {
	l       *Lineage
	id      string
	parent  string
	created time.Time // commit time, the same at every attempt
	done    bool      // committed or aborted
}

// BeginBackup writes the intent of a backup (F21) and returns its handle. A parent
// must be committed and not marked for expiry. ErrNotFound.
func (l *Lineage) BeginBackup(ctx context.Context, parent string) (*BackupWriter, error) {
	if err := l.writable(); err != nil {
		return nil, err
	}
	var tail [3]byte
	rand.Read(tail[:]) // never fails
	now := l.o.Clock().UTC()
	b := &BackupWriter{l: l, parent: parent, id: now.Format("20060102T150405Z") + "-" + hex.EncodeToString(tail[:])}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	key := intentKey(l.keys.lineage, b.id)
	body, err := l.keys.sealDocument(typeIntent, key, Intent{ID: b.id, Parent: parent, Host: host, PID: os.Getpid(), Started: now}, nil)
	if err != nil {
		return nil, err
	}
	err = create(ctx, l.st, key, body, func([]byte) error {
		return fmt.Errorf("%s: %w: another backup took this id", key, ErrExists)
	})
	if err != nil {
		return nil, err
	}
	// Only now: the expirer that marks the parent later sees the intent first.
	if err := b.checkParent(ctx); err != nil {
		return nil, errors.Join(err, b.Abort(ctx))
	}
	return b, nil
}

// ID is the backup's id.
func (b *BackupWriter) ID() string { return b.id }

// checkParent refuses a parent that is gone or going.
func (b *BackupWriter) checkParent(ctx context.Context) error {
	if b.parent == "" {
		return nil
	}
	if _, err := b.l.Backup(ctx, b.parent); err != nil {
		return fmt.Errorf("parent backup: %w", err)
	}
	key := tombKey(b.l.keys.lineage, b.parent)
	switch _, err := b.l.st.Stat(ctx, key); {
	case err == nil:
		return hferr.New("take a backup", fmt.Errorf("parent backup %s is marked for expiry", b.parent), "run it again: it will choose another parent, or take a full backup")
	case !errors.Is(err, blob.ErrNotFound):
		return storeErr(key, err)
	}
	return nil
}

// Commit stores the map of the items (which it sorts by path), checks that
// every pack the manifest names exists, and writes the manifest last. It sets
// Format, ID, Lineage, Created, Parent, MapBytes and MapSHA256.
// The backup exists if and only if Commit returned nil (or the manifest is
// found afterwards). The intent is removed. After an error Commit may be
// called again with the same arguments.
func (b *BackupWriter) Commit(ctx context.Context, m *Manifest, items []Item) error {
	if b.done {
		return fmt.Errorf("commit backup %s: it is committed or aborted already", b.id)
	}
	if err := b.commit(ctx, m, items); err != nil {
		return fmt.Errorf("commit backup %s: %w", b.id, err)
	}
	b.done = true
	b.dropIntent(ctx)
	return nil
}

func (b *BackupWriter) commit(ctx context.Context, m *Manifest, items []Item) error {
	if b.created.IsZero() {
		b.created = b.l.o.Clock().UTC()
	}
	m.Format, m.ID, m.Lineage, m.Parent, m.Created = Format, b.id, b.l.keys.lineage, b.parent, b.created
	if m.Packs == nil {
		m.Packs = []PackInfo{}
	}
	if err := m.check(); err != nil {
		return err
	}
	if err := b.statPacks(ctx, m.Packs); err != nil {
		return err
	}
	if err := b.putMap(ctx, m, items); err != nil {
		return err
	}
	if err := b.recheck(ctx); err != nil {
		return err
	}
	if err := b.putManifest(ctx, m); err != nil {
		return err
	}
	if err := b.statPacks(ctx, m.Packs); err != nil {
		return hferr.New("", fmt.Errorf("a pack vanished while the backup was committed: %w", err),
			"the manifest is stored but this backup cannot be restored: take another with --full, and find out what deletes from the store")
	}
	return nil
}

// statPacks looks every pack up, packChecks at a time.
func (b *BackupWriter) statPacks(ctx context.Context, packs []PackInfo) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(packChecks)
	for _, p := range packs {
		g.Go(func() error { return b.l.StatPack(ctx, p) })
	}
	return g.Wait()
}

// putMap stores the map and notes its size and hash in m. A map that is there
// already, from an attempt whose reply was lost, is adopted if its plaintext
// is the same.
func (b *BackupWriter) putMap(ctx context.Context, m *Manifest, items []Item) error {
	key := mapKey(b.l.keys.lineage, b.id)
	body, plain, err := b.l.keys.sealMap(key, items, len(m.Packs))
	if err != nil {
		return err
	}
	err = create(ctx, b.l.st, key, body, func(existing []byte) error {
		_, data, err := b.l.keys.openObject(existing, typeMap, key, false)
		if err != nil {
			return err
		}
		if sha256.Sum256(data) != plain {
			return fmt.Errorf("%s: %w", key, ErrFork)
		}
		body = existing
		return nil
	})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	m.MapBytes, m.MapSHA256 = int64(len(body)), hex.EncodeToString(sum[:])
	return nil
}

// recheck proves that the expirer still honours this backup: the intent is
// there and the parent is not marked.
func (b *BackupWriter) recheck(ctx context.Context) error {
	key := intentKey(b.l.keys.lineage, b.id)
	if _, err := b.l.st.Stat(ctx, key); err != nil {
		return hferr.New("", fmt.Errorf("the intent is gone: %w", storeErr(key, err)), "the backup ran longer than the expirer's grace period, or somebody cleaned the store: run it again")
	}
	return b.checkParent(ctx)
}

func (b *BackupWriter) putManifest(ctx context.Context, m *Manifest) error {
	key := manifestKey(b.l.keys.lineage, b.id)
	body, err := b.l.keys.sealDocument(typeManifest, key, m.public(), m)
	if err != nil {
		return err
	}
	return create(ctx, b.l.st, key, body, func(existing []byte) error {
		was, err := b.l.keys.openManifest(existing, b.id)
		if err != nil {
			return err
		}
		if !sameManifest(was, m) {
			return fmt.Errorf("%s: %w", key, ErrFork)
		}
		return nil
	})
}

// Abort removes the intent. Packs stay for reuse or collection. Idempotent;
// a no-op after Commit.
func (b *BackupWriter) Abort(ctx context.Context) error {
	if b.done {
		return nil
	}
	b.done = true
	b.dropIntent(ctx)
	return nil
}

// dropIntent tidies up. A writer need not be allowed to delete: an intent
// left behind only delays expiry by the grace period, so it is no failure.
func (b *BackupWriter) dropIntent(ctx context.Context) {
	if err := b.l.st.Delete(ctx, intentKey(b.l.keys.lineage, b.id)); err != nil {
		b.l.o.Log.Info("intent left for the expirer", "backup", b.id, "error", err)
	}
}
