package spool

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// outsider reads a spool file by docs/FORMAT.md alone (F5, F7 to F10, F27): it
// uses nothing of this package or of internal/repo.
func outsider(t *testing.T, exported, number string, body []byte) (said []string) {
	t.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(exported, "HOLDFAST-LINEAGE-KEY-0-"))
	must(t, err)
	var key struct {
		Epochs []struct {
			N   uint32
			Key []byte
		}
	}
	must(t, json.Unmarshal(raw, &key))
	head := body[:48]
	if string(head[:8]) != "HOLDFAST" || head[9] != 11 || key.Epochs[0].N != binary.BigEndian.Uint32(head[12:]) {
		t.Fatalf("header %x", head)
	}
	object, err := hkdf.Key(sha256.New, key.Epochs[0].Key, head[16:48], "holdfast/0 object spool", 32)
	must(t, err)
	block, err := aes.NewCipher(object)
	must(t, err)
	gcm, err := cipher.NewGCM(block)
	must(t, err)
	z, err := zstd.NewReader(nil)
	must(t, err)
	defer z.Close()
	at, r := 48, &reader{}
	for {
		n, size := uint32(at/512), int(binary.BigEndian.Uint32(body[at:]))
		if size == 0 {
			return said
		}
		nonce := binary.BigEndian.AppendUint32(make([]byte, 8), n)
		aad := append(append(binary.BigEndian.AppendUint32(bytes.Clone(head), n), 0), "spool/pg-7/"+number...)
		plain, err := gcm.Open(nil, nonce, body[at+4:at+4+size], aad)
		must(t, err)
		at = (at + 4 + size + 511) / 512 * 512
		if plain[0] == 1 {
			plain, err = z.DecodeAll(plain[1:], nil)
			must(t, err)
		} else {
			plain = plain[1:]
		}
		if n == 0 {
			said = append(said, fmt.Sprintf("%d bytes", len(plain)))
			continue
		}
		said = append(said, r.records(plain)...)
	}
}

// reader is where an outsider stands in the log.
type reader struct {
	branch string
	pos    uint64
}

// records is F27's table.
func (r *reader) records(plain []byte) (said []string) {
	varint := func() uint64 {
		v, k := binary.Uvarint(plain)
		plain = plain[k:]
		return v
	}
	signed := func() int64 { v := varint(); return int64(v>>1) ^ -int64(v&1) }
	take := func() string { k := varint(); out := plain[:k]; plain = plain[k:]; return string(out) }
	varint() // back
	for len(plain) > 0 {
		kind := plain[0]
		plain = plain[1:]
		switch kind {
		case 1:
			said = append(said, fmt.Sprintf("after file %d, %d units", varint(), varint()))
		case 2:
			r.branch, r.pos = take(), varint()
			said = append(said, fmt.Sprintf("branch %s at %d", r.branch, r.pos))
		case 3:
			sent, data := signed(), take()
			ours := data == string(text(r.branch, Position(r.pos), len(data)))
			said = append(said, fmt.Sprintf("%s at %d, sent %d: %d bytes, %t", r.branch, r.pos, sent, len(data), ours))
			r.pos += uint64(len(data))
		case 4:
			said = append(said, fmt.Sprintf("beat %d at %d, pos %d", varint(), signed(), varint()))
		}
	}
	return said
}

func TestFormatPage(t *testing.T) {
	disk, seal := crashfs.New(1, nil), lineage(t, true)
	s := open(t, disk, seal, Options{Limit: 1 << 20, FileBytes: 1536})
	must(t, s.Begin("b1", 100))
	add(t, s, 30)
	add(t, s, 10000)
	must(t, s.Beat(repo.Beat{N: 5, At: epoch, Pos: 99}))
	add(t, s, 1)
	kill(s)
	sec := epoch.UnixMicro()
	for number, want := range map[string][]string{
		"0000000000000001": {"0 bytes", "after file 0, 0 units", "branch b1 at 100",
			fmt.Sprintf("b1 at 100, sent %d: 30 bytes, true", sec+1e6), fmt.Sprintf("b1 at 130, sent %d: 10000 bytes, true", sec+2e6)},
		"0000000000000002": {"0 bytes", "after file 1, %d units", "branch b1 at 10130",
			fmt.Sprintf("beat 5 at %d, pos 99", sec), fmt.Sprintf("b1 at 10130, sent %d: 1 bytes, true", sec+4e6)},
	} {
		want[1] = strings.Replace(want[1], "%d", fmt.Sprint(s.files[0].used/512), 1)
		body := contents(t, disk, "pg-7."+number+".spool")
		if got := outsider(t, seal.ExportKey().Reveal(), number, append(body, 0, 0, 0, 0)); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("file %s:\n%s\nwant\n%s", number, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}
