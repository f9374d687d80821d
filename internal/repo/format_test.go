package repo

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/holdfastdb/holdfast/docs"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// outsider reads a repository by docs/FORMAT.md alone: it uses no function,
// constant or type of this package. What it cannot read, the page describes
// wrongly.
type outsider struct {
	t      *testing.T
	st     *memstore.Store
	lin    string
	epochs map[uint32][]byte
	idKey  []byte
}

func (o *outsider) derive(key, salt []byte, info string) []byte {
	out, err := hkdf.Key(sha256.New, key, salt, info, 32)
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// unlock is F4 and F5.
func (o *outsider) unlock(id age.Identity, kind string) {
	var slot struct {
		Kind, Wrapped string
	}
	for _, key := range o.st.Keys() {
		if strings.HasPrefix(key, "keys/"+kind) {
			o.must(json.Unmarshal(o.st.Bytes(key), &slot))
		}
	}
	r, err := age.Decrypt(armor.NewReader(strings.NewReader(slot.Wrapped)), id)
	o.must(err)
	var inner struct {
		Keys struct {
			IDKey  []byte `json:"id_key"`
			Epochs []struct {
				N   uint32
				Key []byte
			}
		}
	}
	o.must(json.NewDecoder(r).Decode(&inner))
	o.idKey = o.derive(inner.Keys.IDKey, nil, "holdfast/0 ids "+o.lin)
	o.epochs = map[uint32][]byte{}
	for _, e := range inner.Keys.Epochs {
		o.epochs[e.N] = o.derive(e.Key, nil, "holdfast/0 lineage "+o.lin)
	}
}

func (o *outsider) must(err error) {
	o.t.Helper()
	if err != nil {
		o.t.Fatal(err)
	}
}

// frame is F8 and F9.
func (o *outsider) frame(head []byte, name string, n uint32, last byte, stored []byte) []byte {
	o.t.Helper()
	labels := strings.Fields("- pack map segment manifest lineage branch intent note record repository spool lease")
	key := o.derive(o.epochs[binary.BigEndian.Uint32(head[12:16])], head[16:48], "holdfast/0 object "+labels[head[9]])
	block, err := aes.NewCipher(key)
	o.must(err)
	gcm, err := cipher.NewGCM(block)
	o.must(err)
	nonce := binary.BigEndian.AppendUint32(make([]byte, 8), n)
	aad := append(binary.BigEndian.AppendUint32(bytes.Clone(head), n), last)
	out, err := gcm.Open(nil, nonce, stored, append(aad, name...))
	o.must(err)
	return out
}

// plain is F10.
func (o *outsider) plain(payload []byte) []byte {
	if payload[0] == 0 {
		return payload[1:]
	}
	z, err := zstd.NewReader(bytes.NewReader(payload[1:]))
	o.must(err)
	defer z.Close()
	out, err := io.ReadAll(z)
	o.must(err)
	return out
}

// stream is F11: the plaintext of each frame.
func (o *outsider) stream(body []byte, name string) (frames [][]byte) {
	head, rest := body[:48], body[48:]
	for n := uint32(0); len(rest) > 0; n++ {
		size := binary.BigEndian.Uint32(rest)
		stored := rest[4 : 4+size]
		rest = rest[4+size:]
		var last byte
		if len(rest) == 0 {
			last = 1
		}
		frames = append(frames, o.plain(o.frame(head, name, n, last, stored)))
	}
	return frames
}

// document is F12.
func (o *outsider) document(key string) (public, sealed []byte) {
	var d struct {
		Public json.RawMessage
		Sealed []byte
	}
	o.must(json.Unmarshal(o.st.Bytes(key), &d))
	sum := sha256.Sum256(d.Public)
	return d.Public, bytes.Join(o.stream(d.Sealed, key+"\n"+hex.EncodeToString(sum[:])), nil)
}

// packFrame is F13 for one frame.
func (o *outsider) packFrame(pack string, n, off, size uint64) []byte {
	body := o.st.Bytes("l/" + o.lin + "/pack/" + pack[:2] + "/" + pack)
	return o.plain(o.frame(body[:48], "l/"+o.lin+"/pack", uint32(n), 0, body[off:off+size]))
}

func (o *outsider) extentID(b []byte) string {
	h, err := blake3.NewKeyed(o.idKey)
	o.must(err)
	_, err = h.Write(b)
	o.must(err)
	return string(h.Sum(nil)[:16])
}

// scanner takes the binary forms apart.
type scanner struct{ b []byte }

func (s *scanner) varint() uint64 {
	v, n := binary.Uvarint(s.b)
	s.b = s.b[n:]
	return v
}

func (s *scanner) bytes(n uint64) []byte {
	out := s.b[:n]
	s.b = s.b[n:]
	return out
}

// restore is the page's last chapter: path → content.
func (o *outsider) restore(backup string) map[string]string {
	prefix := "l/" + o.lin + "/backup/" + backup + "/"
	public, sealed := o.document(prefix + "manifest.json")
	var pub struct {
		Packs []struct{ ID string }
	}
	var sec struct {
		MapSHA256 string `json:"map_sha256"`
	}
	o.must(json.Unmarshal(public, &pub))
	o.must(json.Unmarshal(sealed, &sec))
	mapBody := o.st.Bytes(prefix + "map")
	if fmt.Sprintf("%x", sha256.Sum256(mapBody)) != sec.MapSHA256 {
		o.t.Fatal("the map is not the manifest's")
	}
	m := scanner{bytes.Join(o.stream(mapBody, prefix+"map"), nil)}
	m.bytes(1)
	out := map[string]string{}
	for len(m.b) > 0 {
		it := scanner{m.bytes(m.varint())}
		path := string(it.bytes(it.varint()))
		it.bytes(1)
		it.varint()
		it.varint()
		size := it.varint()
		it.bytes(it.varint())
		extent := it.varint()
		for n := it.varint(); n > 0; n-- {
			it.bytes(it.varint())
			it.bytes(it.varint())
		}
		content := []byte{}
		for n := it.varint(); n > 0; n-- {
			pack := pub.Packs[it.varint()].ID
			frame := o.packFrame(pack, it.varint(), it.varint(), it.varint())
			off, length := it.varint(), it.varint()
			block := frame[off : off+length]
			if o.extentID(block) != string(it.bytes(16)) {
				o.t.Fatal("a block does not match its id")
			}
			content = o.block(content, block, extent, size)
		}
		if uint64(len(content)) != size {
			o.t.Fatalf("%s: %d of %d bytes", path, len(content), size)
		}
		out[path] = string(content)
	}
	return out
}

// block is F16: it appends the extents a block describes.
func (o *outsider) block(content, encoded []byte, extent, size uint64) []byte {
	s := scanner{encoded[1:]}
	var packs []string
	for n := s.varint(); n > 0; n-- {
		packs = append(packs, hex.EncodeToString(s.bytes(32)))
	}
	var extents [][]byte
	at := uint64(len(content))
	for n := s.varint(); n > 0; n-- {
		pack := packs[s.varint()]
		frame := o.packFrame(pack, s.varint(), s.varint(), s.varint())
		skip := s.varint()
		for count := s.varint(); count > 0; count-- {
			k := min(extent, size-at)
			extents = append(extents, frame[skip:skip+k])
			skip, at = skip+k, at+k
		}
	}
	if s.varint() != uint64(len(extents)) {
		o.t.Fatal("another number of ids than of extents")
	}
	for _, e := range extents {
		if o.extentID(e) != string(s.bytes(16)) {
			o.t.Fatal("an extent does not match its id")
		}
		content = append(content, e...)
	}
	return content
}

func TestFormatPageIsEnough(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	st := newStore()
	r, recovery := makeRepo(t, st)
	l, err := r.EnsureLineage(ctx, testInfo())
	if err != nil {
		t.Fatal(err)
	}
	m, _ := makeBackup(t, l, "")
	log := append(noise(1, FrameSize), text(FrameSize)...)
	if err := l.PutSegment(ctx, &SegmentMeta{Branch: "b1", Start: 0x10, End: 0x20}, log); err != nil {
		t.Fatal(err)
	}
	if err := l.PutRecord(ctx, "d1", []byte(`{"verdict":"pass"}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.SwapLease(ctx, "", testLease(1, "a")); err != nil {
		t.Fatal(err)
	}
	id, err := age.ParseX25519Identity(recovery.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	o := &outsider{t: t, st: st, lin: "pg-7"}
	o.unlock(id, "recovery")
	files := o.restore(m.ID)
	if len(files) != 4 || files["base/1"] != string(noise(3, 9000)) || files["empty"] != "" {
		t.Errorf("%d files, base/1 of %d bytes", len(files), len(files["base/1"]))
	}
	key := "l/pg-7/log/b1/0/0000000000000010-0000000000000020"
	frames := o.stream(st.Bytes(key), key)
	if got := bytes.Join(frames[1:], nil); !bytes.Equal(got, log) || !json.Valid(frames[0]) {
		t.Errorf("log of %d bytes, metadata %s", len(got), frames[0])
	}
	if _, record := o.document("l/pg-7/record/d1.json"); string(record) != `{"verdict":"pass"}` {
		t.Errorf("record: %s", record)
	}
	if public, report := o.document("l/pg-7/lease.json"); !bytes.Contains(public, []byte(`"epoch":1,"kind":"stream"`)) || string(report) != `{"durable":"10"}` {
		t.Errorf("lease: %s, %s", public, report)
	}
	if public, _ := o.document("l/pg-7/lineage.json"); !bytes.Contains(public, []byte(`"database":"orders"`)) {
		t.Errorf("lineage: %s", public)
	}
}

// F6, F7 and F13's footer, the same way.
func TestFormatPageDetails(t *testing.T) {
	t.Parallel()
	w := makeWorld(t, true)
	o := &outsider{t: t, st: w.st, lin: "pg-7", epochs: map[uint32][]byte{}}
	enc, ok := strings.CutPrefix(w.l.ExportKey().Reveal(), "HOLDFAST-LINEAGE-KEY-0-")
	body, err := base64.RawURLEncoding.DecodeString(enc)
	if err != nil || !ok {
		t.Fatal(err)
	}
	var exported struct {
		Lineage   string
		Encrypted bool
		Epochs    []struct {
			N   uint32
			Key []byte
		}
	}
	o.must(json.Unmarshal(body, &exported))
	o.epochs[exported.Epochs[0].N] = exported.Epochs[0].Key
	if !exported.Encrypted || exported.Lineage != "pg-7" {
		t.Errorf("%+v", exported)
	}
	plain := [][]byte{text(700), noise(1, 40)}
	p := makePack(t, w.l, plain...).body
	if string(p[len(p)-8:]) != "HFPACKED" {
		t.Fatal("no trailer")
	}
	end := len(p) - 12
	size := int(binary.BigEndian.Uint32(p[end:]))
	footer := o.frame(p[:48], "l/pg-7/pack", 0xFFFFFFFF, 1, p[end-size:end])
	if n := binary.BigEndian.Uint32(footer); n != 2 || len(footer) != 4+2*12 {
		t.Fatalf("%d frames in %d bytes", n, len(footer))
	}
	for i, want := range plain {
		e := footer[4+12*i:]
		off, n, raw := binary.BigEndian.Uint32(e), binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:])
		got := o.plain(o.frame(p[:48], "l/pg-7/pack", uint32(i), 0, p[off:off+n]))
		if !bytes.Equal(got, want) || int(raw) != len(want) {
			t.Errorf("frame %d: %d bytes, %d stated", i, len(got), raw)
		}
	}
	open := makeWorld(t, false)
	r, err := Open(t.Context(), open.st, Unlock{Passphrase: secret.Text{}}, testOptions())
	o.must(err)
	key := "l/pg-7/log/b1/0/0000000000000010-0000000000000020"
	b := open.st.Bytes(key)
	n := int(binary.BigEndian.Uint32(b[48:]))
	payload, tag := b[52:52+n-16], b[52+n-16:52+n]
	aad := append(append(bytes.Clone(b[:48]), 0, 0, 0, 0, 0), key...)
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(len(aad))), append(aad, payload...)...))
	if !bytes.Equal(sum[:16], tag) {
		t.Error("the tag of cipher 0 is not as described")
	}
	if pub := sha256.Sum256([]byte("holdfast/0 unencrypted " + r.info.ID)); !bytes.Equal(pub[:], r.ring.IDKey) {
		t.Error("the public id key is not as described")
	}
}

// Every rule the code cites is on the page, and the page numbers its rules
// without a hole.
func TestFormatPageRules(t *testing.T) {
	t.Parallel()
	page, rules := string(docs.Format()), map[string]bool{}
	for n := 1; strings.Contains(page, fmt.Sprintf("**F%d ", n)); n++ {
		rules[fmt.Sprintf("F%d", n)] = true
	}
	if len(rules) < 25 || strings.Count(page, "**F") != len(rules) {
		t.Fatalf("rules F1 to F%d of %d", len(rules), strings.Count(page, "**F"))
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	cited := map[string]bool{}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, rule := range regexp.MustCompile(`\bF\d+\b`).FindAllString(string(source), -1) {
			cited[rule] = true
			if !rules[rule] {
				t.Errorf("%s cites %s, which is not on the page", file, rule)
			}
		}
	}
	for rule := range rules {
		if !cited[rule] {
			t.Errorf("no code cites %s", rule)
		}
	}
}
