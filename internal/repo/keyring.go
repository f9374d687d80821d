package repo

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/holdfastdb/holdfast/internal/secret"
)

// keyring is the repository's secret: what every key slot wraps (F4).
type keyring struct {
	Repository string     `json:"repository"`
	IDKey      []byte     `json:"id_key"`
	Epochs     []epochKey `json:"epochs"`
}

// epochKey is one epoch's data key; a lineage's derived one in an export.
type epochKey struct {
	N   uint32 `json:"n"`
	Key []byte `json:"key"`
}

// newKeyring draws a repository id and its keys.
func newKeyring() *keyring {
	id, k := make([]byte, 16), &keyring{IDKey: make([]byte, keySize), Epochs: []epochKey{{N: 1, Key: make([]byte, keySize)}}}
	for _, b := range [][]byte{id, k.IDKey, k.Epochs[0].Key} {
		rand.Read(b) // never fails
	}
	k.Repository = hex.EncodeToString(id)
	return k
}

// publicKeyring is the ring of an unencrypted repository (F6): its keys are
// known to all and keep only the ids of different repositories apart.
func publicKeyring(repository string) *keyring {
	sum := sha256.Sum256([]byte("holdfast/0 unencrypted " + repository))
	return &keyring{Repository: repository, IDKey: sum[:], Epochs: []epochKey{{N: 1, Key: sum[:]}}}
}

// check refuses a ring no derivation may start from.
func (k *keyring) check() error {
	return checkKeys(k.IDKey, k.Epochs)
}

func checkKeys(idKey []byte, epochs []epochKey) error {
	if len(idKey) != keySize || len(epochs) == 0 {
		return fmt.Errorf("%w: keys are incomplete", ErrFormat)
	}
	seen := map[uint32]bool{}
	for _, e := range epochs {
		if len(e.Key) != keySize || e.N == 0 || seen[e.N] {
			return fmt.Errorf("%w: epoch %d has a bad key or stands twice", ErrFormat, e.N)
		}
		seen[e.N] = true
	}
	return nil
}

// exportPrefix begins an exported lineage key (F7).
const exportPrefix = "HOLDFAST-LINEAGE-KEY-0-"

// exportedKey is F7: a scope as it travels.
type exportedKey struct {
	Lineage   string     `json:"lineage"`
	Encrypted bool       `json:"encrypted"`
	IDKey     []byte     `json:"id_key"`
	Epochs    []epochKey `json:"epochs"`
}

// export encodes the scope. By hand rather than by json.Marshal, since it
// then cannot fail: lineage ids need no escaping.
func (s *scope) export() secret.Text {
	var b strings.Builder
	fmt.Fprintf(&b, `{"lineage":%q,"encrypted":%t,"id_key":%q,"epochs":[`,
		s.lineage, s.cipher != cipherSum, base64.StdEncoding.EncodeToString(s.idKey))
	for i, n := range slices.Sorted(maps.Keys(s.epochs)) {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"n":%d,"key":%q}`, n, base64.StdEncoding.EncodeToString(s.epochs[n]))
	}
	b.WriteString("]}")
	return secret.New(exportPrefix + base64.RawURLEncoding.EncodeToString([]byte(b.String())))
}

// importScope is the inverse of export. Errors never quote the key.
func importScope(lineage string, key secret.Text) (*scope, error) {
	enc, ok := strings.CutPrefix(strings.TrimSpace(key.Reveal()), exportPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: not an exported lineage key", ErrKey)
	}
	body, err := base64.RawURLEncoding.Strict().DecodeString(enc)
	if err != nil {
		return nil, fmt.Errorf("%w: the exported lineage key is cut or mistyped", ErrKey)
	}
	var e exportedKey
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, fmt.Errorf("%w: the exported lineage key is cut or mistyped", ErrKey)
	}
	if e.Lineage != lineage {
		return nil, fmt.Errorf("%w: it was exported for lineage %q, not %q", ErrKey, e.Lineage, lineage)
	}
	if err := checkKeys(e.IDKey, e.Epochs); err != nil {
		return nil, fmt.Errorf("%w: exported key: %w", ErrKey, err)
	}
	s := &scope{lineage: lineage, cipher: cipherSum, idKey: e.IDKey, epochs: map[uint32][]byte{}}
	if e.Encrypted {
		s.cipher = cipherGCM
	}
	for _, ep := range e.Epochs {
		s.epochs[ep.N] = ep.Key
		s.newest = max(s.newest, ep.N)
	}
	return s, nil
}
