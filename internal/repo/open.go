package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// Repo is an opened repository. Safe for concurrent use.
type Repo struct {
	st   blob.Store
	o    Options
	info Info
	slot SlotInfo
	ring *keyring
	root *scope // seals repo.json
}

func newRepo(st blob.Store, ring *keyring, info Info, o Options) (*Repo, error) {
	r := &Repo{st: st, o: o, info: info, ring: ring}
	root, err := deriveScope(ring, "", r.cipher())
	if err != nil {
		return nil, err
	}
	r.root = root
	return r, nil
}

func (r *Repo) cipher() cipherID {
	if r.info.Encrypted {
		return cipherGCM
	}
	return cipherSum
}

// Open opens a repository with a key. ErrNoRepository, ErrFormat, ErrKey.
func Open(ctx context.Context, st blob.Store, u Unlock, o Options) (*Repo, error) {
	const what = "open the repository"
	o = o.withDefaults()
	body, err := readAll(ctx, st, keyRepo)
	if errors.Is(err, ErrNotFound) {
		return nil, hferr.New(what, ErrNoRepository, "make one with holdfast init, or check the repository's URL")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	info, err := peekInfo(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", what, keyRepo, err)
	}
	ring, slot, err := unlock(ctx, st, info, u, o)
	if err != nil {
		return nil, err
	}
	r, err := newRepo(st, ring, info, o)
	if err != nil {
		return nil, err
	}
	r.slot = slot
	if err := r.root.openDocument(body, typeRepo, keyRepo, nil, nil); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return r, nil
}

// peekInfo reads repo.json before any key can vouch for it.
func peekInfo(body []byte) (Info, error) {
	var versioned struct {
		Public struct {
			Format *int `json:"format"`
		} `json:"public"`
	}
	if err := json.Unmarshal(body, &versioned); err != nil || versioned.Public.Format == nil {
		return Info{}, fmt.Errorf("%w: no format version in it", ErrDamaged)
	}
	if v := *versioned.Public.Format; v != Format {
		return Info{}, hferr.New("", fmt.Errorf("%w: version %d, this program reads %d", ErrFormat, v, Format), "use a holdfast of the version that wrote it, or a newer one")
	}
	d, err := parseDocument(body)
	if err != nil {
		return Info{}, err
	}
	var info Info
	if err := json.Unmarshal(d.Public, &info); err != nil {
		return Info{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return info, nil
}

// unlock finds the ring. A key given for a repository that says it needs none
// is refused: whoever can write the store could have swapped repo.json to be
// handed the next backup in clear (F6).
func unlock(ctx context.Context, st blob.Store, info Info, u Unlock, o Options) (*keyring, SlotInfo, error) {
	given := !u.Passphrase.Empty() || !u.Identity.Empty()
	switch {
	case info.Encrypted && !given:
		slots, err := readSlots(ctx, st, info.ID)
		return nil, SlotInfo{}, keyError(errors.Join(fmt.Errorf("%w: none was given", ErrKey), err), slots)
	case info.Encrypted:
		return openSlots(ctx, st, info.ID, u, o.Log)
	case given:
		return nil, SlotInfo{}, hferr.New("open the repository", fmt.Errorf("%w: the repository is not encrypted", ErrKey),
			"if it was made without encryption, leave out the key; if not, somebody changed "+keyRepo)
	}
	return publicKeyring(info.ID), SlotInfo{}, nil
}

// Info is what repo.json says.
func (r *Repo) Info() Info { return r.info }

// OpenedWith is the slot Open used; after Init, the user's first. Zero for an
// unencrypted repository.
func (r *Repo) OpenedWith() SlotInfo { return r.slot }

// Slots lists the key slots by name. Unreadable ones are in the error; the
// others are returned all the same.
func (r *Repo) Slots(ctx context.Context) ([]SlotInfo, error) {
	slots, err := readSlots(ctx, r.st, r.info.ID)
	infos := make([]SlotInfo, len(slots))
	for n, s := range slots {
		infos[n] = s.SlotInfo
	}
	return infos, err
}
