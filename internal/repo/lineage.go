package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// errReadOnly answers writes through an exported key.
var errReadOnly = errors.New("an exported lineage key opens a lineage for reading only")

// Lineage is one physical history with its keys derived. Safe for concurrent use.
type Lineage struct {
	st       blob.Store
	o        Options
	info     LineageInfo
	keys     *scope
	readOnly bool

	hashers sync.Pool // *idHasher
	packs   sync.Pool // *[]byte, pack buffers
}

// EnsureLineage records a lineage (F22, create-only) or returns the recorded one.
// A recorded lineage with the same id but another database name is returned
// as recorded. ErrFork if engine or identity differ.
func (r *Repo) EnsureLineage(ctx context.Context, info LineageInfo) (*Lineage, error) {
	if err := checkName("lineage", info.ID); err != nil {
		return nil, err
	}
	l, err := r.Lineage(ctx, info.ID)
	if err == nil {
		if err := l.sameHistory(info); err != nil {
			return nil, err
		}
		return l, nil
	}
	if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	info.Created = cmp.Or(info.Created, r.o.Clock()).UTC()
	if l, err = r.newLineage(info); err != nil {
		return nil, err
	}
	key := lineageKey(info.ID)
	body, err := l.keys.sealDocument(typeLineage, key, info, nil)
	if err != nil {
		return nil, err
	}
	err = create(ctx, r.st, key, body, func(existing []byte) error {
		var recorded LineageInfo
		if err := l.keys.openDocument(existing, typeLineage, key, &recorded, nil); err != nil {
			return err
		}
		l.info = recorded
		return l.sameHistory(info)
	})
	if err != nil {
		return nil, err
	}
	return l, nil
}

// sameHistory compares what makes a history itself.
func (l *Lineage) sameHistory(info LineageInfo) error {
	if l.info.Engine == info.Engine && maps.Equal(l.info.Identity, info.Identity) {
		return nil
	}
	return hferr.New("open lineage "+info.ID,
		fmt.Errorf("%w: recorded as %s %v, the server says %s %v", ErrFork, l.info.Engine, l.info.Identity, info.Engine, info.Identity),
		"this is not the server whose backups are here: check the URL, or use another repository")
}

func (r *Repo) newLineage(info LineageInfo) (*Lineage, error) {
	keys, err := deriveScope(r.ring, info.ID, r.cipher())
	if err != nil {
		return nil, err
	}
	return makeLineage(r.st, keys, info, r.o), nil
}

func makeLineage(st blob.Store, keys *scope, info LineageInfo, o Options) *Lineage {
	l := &Lineage{st: st, o: o, info: info, keys: keys}
	l.hashers.New = func() any { return newIDHasher(keys.idKey) }
	return l
}

// Lineage opens one lineage by id. ErrNotFound.
func (r *Repo) Lineage(ctx context.Context, id string) (*Lineage, error) {
	if err := checkName("lineage", id); err != nil {
		return nil, err
	}
	l, err := r.newLineage(LineageInfo{ID: id})
	if err != nil {
		return nil, err
	}
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// load reads lineage.json.
func (l *Lineage) load(ctx context.Context) error {
	id, key := l.keys.lineage, lineageKey(l.keys.lineage)
	body, err := readAll(ctx, l.st, key)
	if err != nil {
		return err
	}
	if err := l.keys.openDocument(body, typeLineage, key, &l.info, nil); err != nil {
		return err
	}
	if l.info.ID != id {
		return fmt.Errorf("%s: %w: it calls itself %q", key, ErrDamaged, l.info.ID)
	}
	return nil
}

// Lineages lists all, ordered by creation. Those whose record cannot be read
// are in the error; the others are returned all the same.
func (r *Repo) Lineages(ctx context.Context) ([]LineageInfo, error) {
	var ids []string
	err := r.st.List(ctx, prefixLins, blob.ListOptions{Dirs: true}, func(o blob.Object) error {
		if o.Dir {
			ids = append(ids, strings.TrimSuffix(strings.TrimPrefix(o.Key, prefixLins), "/"))
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list lineages: %w", err)
	}
	var infos []LineageInfo
	var errs error
	for _, id := range ids {
		l, err := r.Lineage(ctx, id)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		infos = append(infos, l.info)
	}
	slices.SortFunc(infos, func(a, b LineageInfo) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return infos, errs
}

// Info returns lineage.json.
func (l *Lineage) Info() LineageInfo { return l.info }

// ExportKey returns a key that opens this lineage alone, read-only, for a
// restored server's restore_command: what it opens stands in plain text in
// that server's data directory anyway. OpenLineage takes it. It opens the
// epochs there are now, not later ones.
func (l *Lineage) ExportKey() secret.Text { return l.keys.export() }

// OpenLineage opens a lineage with an exported key, without key slots.
// Everything that writes answers with an error. ErrKey, ErrNotFound.
func OpenLineage(ctx context.Context, st blob.Store, id string, key secret.Text, o Options) (*Lineage, error) {
	if err := checkName("lineage", id); err != nil {
		return nil, err
	}
	keys, err := importScope(id, key)
	if err != nil {
		return nil, hferr.New("open lineage "+id, err, "use the key file that restore wrote beside this server's configuration, or run the restore again")
	}
	l := makeLineage(st, keys, LineageInfo{ID: id}, o.withDefaults())
	l.readOnly = true
	if err := l.load(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// writable guards every writing method.
func (l *Lineage) writable() error {
	if l.readOnly {
		return errReadOnly
	}
	return nil
}
