package postgres

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
)

func tarOf(t *testing.T, files ...string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f, Size: int64(len(f)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(f)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return &b // without the two zero blocks at the end, as servers up to 14 send it
}

// TestABackupIsHeldAgainstTheServersList: nothing may be missing, extra or
// different.
func TestABackupIsHeldAgainstTheServersList(t *testing.T) {
	entry := func(path string, size int, crc uint32) string {
		return fmt.Sprintf(`{"Path": %q, "Size": %d, "Checksum-Algorithm": "CRC32C", "Checksum": "%02x%02x%02x%02x"}`,
			path, size, byte(crc), byte(crc>>8), byte(crc>>16), byte(crc>>24))
	}
	sum := func(s string) uint32 { return crc32.Checksum([]byte(s), crc32.MakeTable(crc32.Castagnoli)) }
	a, b, space := entry("a", 1, sum("a")), entry("base/1/2", 8, sum("base/1/2")), entry("pg_tblspc/9/x", 1, sum("x"))
	for name, c := range map[string]struct {
		entries                []string
		missing, extra, differ int
	}{
		"equal":   {entries: []string{a, b, space}},
		"missing": {entries: []string{a, b, space, entry("c", 1, 0)}, missing: 1},
		"extra":   {entries: []string{a, space}, extra: 1},
		"size":    {entries: []string{a, entry("base/1/2", 9, sum("base/1/2")), space}, differ: 1},
		"content": {entries: []string{a, entry("base/1/2", 8, 7), space}, differ: 1},
	} {
		sink := newMemorySink()
		u := &unpacker{ctx: t.Context(), sink: sink, blockSize: 8192, seen: map[string]receivedFile{}, spaces: map[uint32]*Tablespace{}}
		if err := u.archive(newArchive{Name: "9.tar", Location: "/srv"}, tarOf(t, "x")); err != nil {
			t.Fatal(err)
		}
		if err := u.archive(newArchive{Name: "base.tar"}, tarOf(t, "a", "base/1/2")); err != nil {
			t.Fatal(err)
		}
		text := manifestText(strings.Join(c.entries, ",\n") + "\n")
		err := u.manifest(strings.NewReader(text))
		var bad *IncompleteError
		if errors.As(err, &bad) != (c.missing+c.extra+c.differ > 0) || err != nil && (bad == nil || bad.Missing != c.missing || bad.Extra != c.extra || bad.Wrong != c.differ) {
			t.Errorf("%s: %v", name, err)
		}
		if string(sink.data[manifestItem]) != text || u.files != len(c.entries) {
			t.Errorf("%s: the manifest is not stored whole", name)
		}
	}
}

func TestAnArchiveThatEndsEarlyIsAnError(t *testing.T) {
	whole := tarOf(t, "a", "base/1/2").Bytes()
	for _, n := range []int{100, 512, 1100, 1537} {
		u := &unpacker{ctx: t.Context(), sink: newMemorySink(), seen: map[string]receivedFile{}, spaces: map[uint32]*Tablespace{}}
		if err := u.archive(newArchive{Name: "base.tar"}, bytes.NewReader(whole[:n])); err == nil {
			t.Errorf("cut at %d of %d: accepted", n, len(whole))
		}
	}
	u := &unpacker{ctx: t.Context(), sink: newMemorySink(), seen: map[string]receivedFile{}, spaces: map[uint32]*Tablespace{}}
	if err := u.archive(newArchive{Name: "base.tar"}, tarOf(t, "../escape")); err == nil {
		t.Error("a path that leaves the directory is accepted")
	}
}

func TestTheCommandSpeaksBothGrammars(t *testing.T) {
	for version, want := range map[int]string{
		140005: "BASE_BACKUP LABEL 'a''b' NOWAIT TABLESPACE_MAP MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C' FAST",
		150000: "BASE_BACKUP (LABEL 'a''b', CHECKPOINT 'fast', WAIT false, TABLESPACE_MAP true, MANIFEST 'yes', MANIFEST_CHECKSUMS 'CRC32C')",
	} {
		if got := baseBackupSQL(version, engines.BackupOptions{Label: "a'b", Fast: true}); got != want {
			t.Errorf("%d: %s", version, got)
		}
	}
}
