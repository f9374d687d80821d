package repo

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// Kinds of key slots.
const (
	slotPassphrase = "passphrase"
	slotAge        = "age"
	slotRecovery   = "recovery"
)

const (
	// 64 MiB: a sidecar with a small memory limit must be able to open its
	// own repository, which 2^18 (256 MiB) would not let it.
	defaultScryptWork = 16
	minScryptWork     = 10
	maxScryptWork     = 22 // also the most Open is willing to compute
	maxSlotFile       = 1 << 20
)

// slot is keys/<name>.json (F4).
type slot struct {
	Format     int    `json:"format"`
	Repository string `json:"repository"`
	SlotInfo
	Recipient string `json:"recipient,omitempty"`
	Wrapped   string `json:"wrapped,omitempty"`
}

// wrapped is what a slot's age file holds: the ring, and the slot's clear
// fields over again, so that nobody can change them unseen.
type wrapped struct {
	Slot slot     `json:"slot"`
	Keys *keyring `json:"keys"`
}

// newSlot wraps the ring for one recipient. Names end in random digits: the
// leftovers of an interrupted init cannot stand in the way of the next.
func newSlot(k *keyring, kind string, recipient age.Recipient, shown string, now time.Time) (slot, error) {
	var tail [4]byte
	rand.Read(tail[:]) // never fails
	s := slot{
		Format:     Format,
		Repository: k.Repository,
		SlotInfo:   SlotInfo{Name: kind + "-" + hex.EncodeToString(tail[:]), Kind: kind, Created: now.UTC().Truncate(time.Second)},
		Recipient:  shown,
	}
	inner, err := json.Marshal(wrapped{Slot: s, Keys: k})
	if err != nil {
		return s, fmt.Errorf("encode key slot: %w", err)
	}
	var out bytes.Buffer
	arm := armor.NewWriter(&out)
	w, err := age.Encrypt(arm, recipient)
	if err != nil {
		return s, fmt.Errorf("wrap keys for slot %s: %w", s.Name, err)
	}
	_, err = w.Write(inner)
	if err = errors.Join(err, w.Close(), arm.Close()); err != nil {
		return s, fmt.Errorf("wrap keys for slot %s: %w", s.Name, err)
	}
	s.Wrapped = out.String()
	return s, nil
}

func (s slot) encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode key slot: %w", err)
	}
	return append(b, '\n'), nil
}

// parseSlot decodes keys/<name>.json. Foreign bytes: it checks everything
// that is used before a key has vouched for them.
func parseSlot(name string, body []byte) (slot, error) {
	var s slot
	if len(body) > maxSlotFile {
		return s, fmt.Errorf("%w: key slot of %d bytes", ErrDamaged, len(body))
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if s.Format != Format {
		return s, fmt.Errorf("%w: version %d, this program reads %d", ErrFormat, s.Format, Format)
	}
	if canonical, err := s.encode(); err != nil || !bytes.Equal(canonical, body) {
		return s, fmt.Errorf("%w: not in the form of a key slot", ErrDamaged)
	}
	if s.Name != name {
		return s, fmt.Errorf("%w: the slot calls itself %q", ErrDamaged, s.Name)
	}
	return s, nil
}

// readSlots reads every slot of one repository, by name. Slots of other ids
// are leftovers of interrupted inits: ignored here, and never removed, since
// a wrong guess would throw away somebody's only key. Unreadable ones are
// joined in the error; the others are returned all the same.
func readSlots(ctx context.Context, st blob.Store, repository string) ([]slot, error) {
	var keys []string
	err := st.List(ctx, prefixKeys, blob.ListOptions{}, func(o blob.Object) error {
		if strings.HasSuffix(o.Key, ".json") {
			keys = append(keys, o.Key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list key slots: %w", err)
	}
	var slots []slot
	var errs error
	for _, key := range keys {
		body, err := readAll(ctx, st, key)
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		s, err := parseSlot(strings.TrimSuffix(strings.TrimPrefix(key, prefixKeys), ".json"), body)
		switch {
		case err != nil:
			errs = errors.Join(errs, fmt.Errorf("%s: %w", key, err))
		case s.Repository == repository:
			slots = append(slots, s)
		}
	}
	slices.SortFunc(slots, func(a, b slot) int { return cmp.Compare(a.Name, b.Name) })
	return slots, errs
}

// identities turns an Unlock into age identities and says which kinds of
// slots they may fit.
func (u Unlock) identities() ([]age.Identity, []string, error) {
	if !u.Passphrase.Empty() {
		id, err := age.NewScryptIdentity(u.Passphrase.Reveal())
		if err != nil {
			return nil, nil, fmt.Errorf("passphrase: %w", err)
		}
		id.SetMaxWorkFactor(maxScryptWork)
		return []age.Identity{id}, []string{slotPassphrase}, nil
	}
	ids, err := age.ParseIdentities(strings.NewReader(u.Identity.Reveal()))
	if err != nil {
		// age quotes the bad line in its error, which may be a mistyped key.
		return nil, nil, fmt.Errorf("%w: not an age identity (AGE-SECRET-KEY-1…)", ErrKey)
	}
	return ids, []string{slotAge, slotRecovery}, nil
}

// unwrap opens one slot.
func (s slot) unwrap(ids []age.Identity) (*keyring, error) {
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(s.Wrapped)), ids...)
	if err != nil {
		return nil, err
	}
	inner, err := io.ReadAll(io.LimitReader(r, maxSlotFile))
	if err != nil {
		return nil, err
	}
	var w wrapped
	if err := json.Unmarshal(inner, &w); err != nil || w.Keys == nil {
		return nil, fmt.Errorf("%w: its content is not a key ring", ErrDamaged)
	}
	clear := s
	clear.Wrapped = ""
	if !sameJSON(clear, w.Slot) || w.Keys.Repository != s.Repository {
		return nil, fmt.Errorf("%w: its clear fields were changed", ErrDamaged)
	}
	return w.Keys, w.Keys.check()
}

// openSlots tries every slot that u may fit. ErrKey names those there are.
func openSlots(ctx context.Context, st blob.Store, repository string, u Unlock, log *slog.Logger) (*keyring, SlotInfo, error) {
	slots, damaged := readSlots(ctx, st, repository)
	ids, kinds, err := u.identities()
	if err != nil {
		return nil, SlotInfo{}, keyError(err, slots)
	}
	for _, s := range slots {
		if !slices.Contains(kinds, s.Kind) {
			continue
		}
		k, err := s.unwrap(ids)
		if err == nil {
			if damaged != nil {
				log.Warn("some key slots cannot be read", "error", damaged)
			}
			return k, s.SlotInfo, nil
		}
		if errors.Is(err, ErrDamaged) || errors.Is(err, ErrFormat) {
			damaged = errors.Join(damaged, fmt.Errorf("key slot %s: %w", s.Name, err))
		}
	}
	if damaged != nil {
		return nil, SlotInfo{}, keyError(fmt.Errorf("%w; %w", ErrKey, damaged), slots)
	}
	return nil, SlotInfo{}, keyError(ErrKey, slots)
}

func keyError(err error, slots []slot) error {
	if len(slots) == 0 {
		return hferr.New("open the repository", err, "the repository has no readable key slot under keys/: bring the files back from a copy of the store")
	}
	names := make([]string, len(slots))
	for n, s := range slots {
		names[n] = s.Name
		if s.Recipient != "" {
			names[n] += " (" + s.Recipient + ")"
		}
	}
	return hferr.New("open the repository", err, "this repository opens with: "+strings.Join(names, ", ")+
		"; check the passphrase or identity, or use the recovery key that init printed")
}

// userSlots makes the slots asked for at init, and the recovery slot with the
// identity that opens it.
func userSlots(k *keyring, o InitOptions, now time.Time) ([]slot, secret.Text, error) {
	var slots []slot
	add := func(kind string, r age.Recipient, shown string) error {
		s, err := newSlot(k, kind, r, shown, now)
		slots = append(slots, s)
		return err
	}
	if !o.Passphrase.Empty() {
		r, err := age.NewScryptRecipient(o.Passphrase.Reveal())
		if err != nil {
			return nil, secret.Text{}, fmt.Errorf("passphrase: %w", err)
		}
		r.SetWorkFactor(cmp.Or(o.ScryptWork, defaultScryptWork))
		if err := add(slotPassphrase, r, ""); err != nil {
			return nil, secret.Text{}, err
		}
	}
	for n, text := range o.Recipients {
		rs, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil || len(rs) != 1 {
			return nil, secret.Text{}, hferr.NewUsage("make the repository's keys", fmt.Errorf("recipient %d is not an age recipient", n+1), "give a public key that begins with age1, as age-keygen prints it")
		}
		if err := add(slotAge, rs[0], strings.TrimSpace(text)); err != nil {
			return nil, secret.Text{}, err
		}
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, secret.Text{}, fmt.Errorf("make the recovery key: %w", err)
	}
	if err := add(slotRecovery, id.Recipient(), id.Recipient().String()); err != nil {
		return nil, secret.Text{}, err
	}
	return slots, secret.New(id.String()), nil
}

// sameJSON compares two values as stored.
func sameJSON(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}
