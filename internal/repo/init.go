package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/docs"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// repoFile is the clear part of repo.json (F2).
type repoFile struct {
	Info
	Tool  string          `json:"tool"`
	Probe json.RawMessage `json:"probe,omitempty"`
}

// Init makes a repository in an empty store prefix and returns the recovery
// key, which is stored nowhere (none for an unencrypted one). repo.json is written last: a repository whose
// init was interrupted does not exist, and init can be run again.
// ErrExists if there is one already.
func Init(ctx context.Context, st blob.Store, o InitOptions) (*Repo, secret.Text, error) {
	o.Options = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, secret.Text{}, err
	}
	if err := checkVacant(ctx, st); err != nil {
		return nil, secret.Text{}, err
	}
	now := o.Clock()
	ring := newKeyring()
	var slots []slot
	var recovery secret.Text
	if o.Unencrypted {
		ring = publicKeyring(ring.Repository)
	} else {
		var err error
		if slots, recovery, err = userSlots(ring, o, now); err != nil {
			return nil, secret.Text{}, err
		}
	}
	err := st.Create(ctx, keyFormat, docs.Format(), blob.CreateOptions{})
	if err != nil && !errors.Is(err, blob.ErrExists) { // an earlier init's copy will do
		return nil, secret.Text{}, fmt.Errorf("create %s: %w", keyFormat, err)
	}
	if err := putSlots(ctx, st, slots); err != nil {
		return nil, secret.Text{}, err
	}
	file := repoFile{
		Info: Info{Format: Format, ID: ring.Repository, Created: now.UTC(), Encrypted: !o.Unencrypted, Capabilities: o.Capabilities},
		Tool: o.Tool, Probe: o.Probe,
	}
	r, err := newRepo(st, ring, file.Info, o.Options)
	if err != nil {
		return nil, secret.Text{}, err
	}
	if err := r.commitInit(ctx, file); err != nil {
		if errors.Is(err, ErrExists) { // another init won, and these slots open nothing
			removeSlots(ctx, st, slots, o)
		}
		return nil, secret.Text{}, err
	}
	if len(slots) > 0 {
		r.slot = slots[0].SlotInfo
	}
	return r, recovery, nil
}

func (o InitOptions) check() error {
	const what = "make a repository"
	keyed := !o.Passphrase.Empty() || len(o.Recipients) > 0
	switch {
	case keyed && o.Unencrypted:
		return hferr.NewUsage(what, errors.New("both a key and no encryption were asked for"), "leave out one of the two")
	case !keyed && !o.Unencrypted:
		return hferr.NewUsage(what, errors.New("no key was given"), "give a passphrase or an age recipient; backups are encrypted unless that is refused on purpose")
	case o.ScryptWork != 0 && (o.ScryptWork < minScryptWork || o.ScryptWork > maxScryptWork):
		return hferr.NewUsage(what, fmt.Errorf("scrypt work factor %d", o.ScryptWork), fmt.Sprintf("choose %d to %d; 0 means %d", minScryptWork, maxScryptWork, defaultScryptWork))
	case len(o.Probe) > 0 && !json.Valid(o.Probe):
		return errors.New("make a repository: the probe result is not JSON")
	}
	return nil
}

// checkVacant refuses a prefix with a repository, or with the data of one
// whose repo.json is gone: new keys beside old data would hide the loss.
func checkVacant(ctx context.Context, st blob.Store) error {
	const what = "make a repository"
	switch _, err := st.Stat(ctx, keyRepo); {
	case err == nil:
		return hferr.New(what, fmt.Errorf("%s: %w", keyRepo, ErrExists), "use the repository that is there, or choose another prefix")
	case !errors.Is(err, blob.ErrNotFound):
		return fmt.Errorf("%s: %w", what, storeErr(keyRepo, err))
	}
	found := errors.New("found")
	err := st.List(ctx, prefixLins, blob.ListOptions{Dirs: true}, func(blob.Object) error { return found })
	if errors.Is(err, found) {
		return hferr.New(what, fmt.Errorf("%w: data without a %s", ErrExists, keyRepo), "a repository lost its "+keyRepo+": bring that file back from a copy, or choose another prefix")
	}
	return err
}

func putSlots(ctx context.Context, st blob.Store, slots []slot) error {
	for _, s := range slots {
		body, err := s.encode()
		if err != nil {
			return err
		}
		err = create(ctx, st, slotKey(s.Name), body, func(existing []byte) error {
			if !bytes.Equal(existing, body) {
				return fmt.Errorf("%s: %w", slotKey(s.Name), ErrExists)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// commitInit writes repo.json. A failed reply is followed by one more try
// with the same bytes: if the first had arrived after all, giving up would
// leave a repository whose recovery key nobody has seen.
func (r *Repo) commitInit(ctx context.Context, file repoFile) error {
	body, err := r.root.sealDocument(typeRepo, keyRepo, file, nil)
	if err != nil {
		return err
	}
	same := func(existing []byte) error {
		if !bytes.Equal(existing, body) {
			return hferr.New("make a repository", fmt.Errorf("%s: %w", keyRepo, ErrExists), "another init was faster; use its repository, or choose another prefix")
		}
		return nil
	}
	if err = create(ctx, r.st, keyRepo, body, same); err == nil || errors.Is(err, ErrExists) {
		return err
	}
	r.o.Log.Warn("no good answer for repo.json, asking again", "error", err)
	return create(ctx, r.st, keyRepo, body, same)
}

// removeSlots takes back a losing init's own slots. That is a courtesy (a
// writer may lack the permission): slots of another id are ignored anyway.
func removeSlots(ctx context.Context, st blob.Store, slots []slot, o InitOptions) {
	for _, s := range slots {
		if err := st.Delete(ctx, slotKey(s.Name)); err != nil {
			o.Log.Debug("leftover key slot not removed", "slot", s.Name, "error", err)
		}
	}
}
