package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// manifestPublic is the part of a manifest that the expirer reads without a
// key (F19).
type manifestPublic struct {
	Format   int        `json:"format"`
	ID       string     `json:"id"`
	Lineage  string     `json:"lineage"`
	Created  time.Time  `json:"created"`
	Parent   string     `json:"parent,omitempty"`
	MapBytes int64      `json:"map_bytes"`
	Packs    []PackInfo `json:"packs"`
}

func (m *Manifest) public() manifestPublic {
	return manifestPublic{
		Format: m.Format, ID: m.ID, Lineage: m.Lineage, Created: m.Created,
		Parent: m.Parent, MapBytes: m.MapBytes, Packs: m.Packs,
	}
}

// openManifest verifies and decodes manifest.json.
func (s *scope) openManifest(body []byte, id string) (*Manifest, error) {
	var pub manifestPublic
	m := &Manifest{}
	key := manifestKey(s.lineage, id)
	if err := s.openDocument(body, typeManifest, key, &pub, m); err != nil {
		return nil, err
	}
	if pub.Format != Format {
		return nil, fmt.Errorf("%s: %w: version %d", key, ErrFormat, pub.Format)
	}
	if pub.ID != id || pub.Lineage != s.lineage {
		return nil, fmt.Errorf("%s: %w: it is the manifest of %s in %s", key, ErrDamaged, pub.ID, pub.Lineage)
	}
	m.Format, m.ID, m.Lineage, m.Created = pub.Format, pub.ID, pub.Lineage, pub.Created
	m.Parent, m.MapBytes, m.Packs = pub.Parent, pub.MapBytes, pub.Packs
	return m, nil
}

// sameManifest compares two manifests as stored.
func sameManifest(a, b *Manifest) bool {
	return sameJSON(a.public(), b.public()) && sameJSON(a, b)
}

// Backup reads one manifest by id. ErrNotFound, ErrDamaged.
func (l *Lineage) Backup(ctx context.Context, id string) (*Manifest, error) {
	if err := checkName("backup", id); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	body, err := readAll(ctx, l.st, manifestKey(l.keys.lineage, id))
	if err != nil {
		return nil, err
	}
	return l.keys.openManifest(body, id)
}

// Backups lists committed backups, oldest first (by id, which begins with the
// time). A manifest that cannot be read is reported in the error joined at
// the end, never skipped silently; the others are returned all the same.
func (l *Lineage) Backups(ctx context.Context) ([]Manifest, error) {
	prefix := backupPrefix(l.keys.lineage)
	var ids []string
	err := l.st.List(ctx, prefix, blob.ListOptions{Dirs: true}, func(o blob.Object) error {
		if o.Dir {
			ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(o.Key, prefix), "/"))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	slices.Sort(ids)
	var out []Manifest
	var errs error
	for _, id := range ids {
		m, err := l.Backup(ctx, id)
		switch {
		case err == nil:
			out = append(out, *m)
		case errors.Is(err, ErrNotFound):
			// A map without a manifest: a backup that runs, or never committed.
		default:
			errs = errors.Join(errs, err)
		}
	}
	return out, errs
}

// check keeps a caller's broken JSON from failing only at the end of
// a long backup with an error about something else.
func (m *Manifest) check() error {
	if len(m.Details) > 0 && !json.Valid(m.Details) {
		return errors.New("the engine's details are not JSON")
	}
	seen := make(map[PackID]bool, len(m.Packs))
	for _, p := range m.Packs {
		if seen[p.ID] || p.Size <= 0 {
			return fmt.Errorf("pack %s stands twice or has no size", p.ID)
		}
		seen[p.ID] = true
	}
	return nil
}
