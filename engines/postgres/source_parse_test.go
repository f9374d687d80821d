package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

const historyOf3 = "1\t0/30000A0\tno recovery target specified\n\n2\t0/5000148\tbefore 2026-11-22 10:00:00+00\n"

func TestBranchPathIsTheSameFromEveryDescendant(t *testing.T) {
	path, err := branchPath(3, []byte(historyOf3))
	if err != nil {
		t.Fatal(err)
	}
	sum2 := sha256.Sum256([]byte("1\t0/30000A0\tno recovery target specified\n"))
	sum3 := sha256.Sum256([]byte(historyOf3))
	ids := []string{"00000001-root", "00000002-" + hex.EncodeToString(sum2[:4]), "00000003-" + hex.EncodeToString(sum3[:4])}
	for i, b := range path {
		if b.ID != ids[i] || b.Number != uint64(i+1) || i > 0 && b.Parent != ids[i-1] {
			t.Errorf("branch %d: %+v", i, b)
		}
	}
	if path[0].Fork != 0 || path[1].Fork != 0x30000A0 || path[2].Fork != 0x5000148 {
		t.Errorf("forks: %+v", path)
	}
	own, err := branchPath(2, []byte("1\t0/30000A0\tno recovery target specified\n"))
	if err != nil || !reflect.DeepEqual(own, path[:2]) {
		t.Errorf("timeline 2 says %+v %v", own, err)
	}
	for p, want := range map[repo.Position]int{0: 0, 0x300009F: 0, 0x30000A0: 1, 0x5000147: 1, 0x5000148: 2, 1 << 40: 2} {
		if got := owner(path, p); got != want {
			t.Errorf("%s is on branch %d, want %d", FormatLSN(p), got, want)
		}
	}
}

func TestABranchCarriesItsHistory(t *testing.T) {
	for _, reason := range []string{"ok", "restore point \xff\xfe"} {
		file := []byte("1\t0/30000A0\t" + reason + "\n")
		path, err := branchPath(2, file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := HistoryOf(path[1])
		if err != nil || !bytes.Equal(got, file) {
			t.Errorf("%q %v", got, err)
		}
		path[1].Proof[proofHistory] += "x"
		path[1].Proof[proofHistoryBase64] = "eA=="
		if _, err := HistoryOf(path[1]); err == nil {
			t.Error("a changed history is accepted")
		}
	}
}

func TestMalformedHistoriesAreRefused(t *testing.T) {
	for _, h := range []string{"x\t0/1\tr\n", "1\n", "1\t0-1\tr\n", "0\t0/1\tr\n", "2\t0/1\n1\t0/2\n", "1\t0/5\n2\t0/4\n", "1\t0/5\n1\t0/5\n", "9\t0/1\tr\n"} {
		if _, err := branchPath(3, []byte(h)); err == nil {
			t.Errorf("%q is accepted", h)
		}
	}
	path, err := branchPath(7, []byte("# nothing\n\n"))
	if err != nil || len(path) != 1 || path[0].ID != "00000007-root" {
		t.Errorf("%+v %v", path, err)
	}
}

func FuzzHistory(f *testing.F) {
	f.Add(uint32(3), []byte(historyOf3))
	f.Add(uint32(2), []byte("1 0/0"))
	f.Fuzz(func(t *testing.T, tli uint32, b []byte) {
		path, err := branchPath(tli, b)
		if err != nil {
			return
		}
		for i, br := range path[1:] {
			if br.Parent != path[i].ID || br.Fork < path[i].Fork || br.Number <= path[i].Number {
				t.Fatalf("%+v after %+v", br, path[i])
			}
			file, err := HistoryOf(br)
			if err != nil || !bytes.HasPrefix(b, file) {
				t.Fatalf("history of %s: %v", br.ID, err)
			}
			own, err := branchPath(uint32(br.Number), file)
			if err != nil || !reflect.DeepEqual(own, path[:i+2]) {
				t.Fatalf("%s says %+v %v", br.ID, own, err)
			}
		}
	})
}

func FuzzLSN(f *testing.F) {
	f.Add("0/3000028")
	f.Add("FFFFFFFF/ffffffff")
	f.Add("+1/0_1")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseLSN(s)
		if err != nil {
			return
		}
		if again, err := ParseLSN(FormatLSN(p)); err != nil || again != p {
			t.Fatalf("%q: %s %v", s, FormatLSN(again), err)
		}
	})
}

func TestArrivals(t *testing.T) {
	now := time.Date(2026, 11, 22, 1, 2, 3, 4000, time.UTC)
	if !fromServerTime(toServerTime(now)).Equal(now) || toServerTime(serverEpoch) != 0 {
		t.Error("server time")
	}
	status := appendStatus(nil, 0x1000, 0, now, true)
	if len(status) != 34 || status[0] != 'r' || !bytes.Equal(status[9:25], make([]byte, 16)) || status[33] != 1 {
		t.Errorf("status % x", status)
	}
	w, err := parseArrival(append([]byte{'w', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0}, "wal"...))
	if err != nil || w.Pos != 1<<32|2 || w.End != 1<<32|9 || string(w.Data) != "wal" || !w.Sent.Equal(serverEpoch) {
		t.Errorf("%+v %v", w, err)
	}
	k, err := parseArrival([]byte{'k', 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	if err != nil || k.End != 7 || !k.Reply || k.Data != nil {
		t.Errorf("%+v %v", k, err)
	}
}

func FuzzArrival(f *testing.F) {
	f.Add([]byte{'k', 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Add(append([]byte{'w'}, make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseArrival(b)
		if err == nil && a.Data != nil && len(a.Data) != len(b)-25 {
			t.Fatalf("%d of %d bytes", len(a.Data), len(b))
		}
	})
}

func FuzzNewArchive(f *testing.F) {
	f.Add([]byte("base.tar\x00\x00"))
	f.Add([]byte("16384.tar\x00/srv/space\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseNewArchive(b)
		if err != nil {
			return
		}
		if string(b) != a.Name+"\x00"+a.Location+"\x00" {
			t.Fatalf("%q became %+v", b, a)
		}
		_, _ = a.oid()
	})
}

func manifestText(files string) string {
	text := "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 7,\n\"Files\": [\n" + files + "],\n\"WAL-Ranges\": [\n],\n"
	sum := sha256.Sum256([]byte(text))
	return text + fmt.Sprintf("\"Manifest-Checksum\": \"%x\"}\n", sum)
}

func TestManifest(t *testing.T) {
	good := manifestText(`{ "Path": "base/1/2", "Size": 8192, "Checksum-Algorithm": "CRC32C", "Checksum": "00000000" },
{ "Encoded-Path": "ff", "Size": 1 }
`)
	var paths []string
	collect := func(f manifestFile) error { paths = append(paths, f.Path); return nil }
	if err := readManifest(strings.NewReader(good), collect); err != nil || strings.Join(paths, " ") != "base/1/2 \xff" {
		t.Fatalf("%q %v", paths, err)
	}
	for name, bad := range map[string]string{
		"changed":   strings.Replace(good, "8192", "8193", 1),
		"cut":       good[:len(good)/2],
		"no files":  strings.Replace(good, "Files", "Filez", 1),
		"no sum":    "{\"Files\": []}",
		"no object": "[]",
	} {
		if err := readManifest(strings.NewReader(bad), collect); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(manifestText("")))
	f.Add([]byte(manifestText(`{"Path": "a", "Size": 1}`)))
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = readManifest(bytes.NewReader(b), func(m manifestFile) error {
			if m.Path == "" || m.Size < 0 {
				t.Fatalf("%+v", m)
			}
			return nil
		})
	})
}

func TestItemPaths(t *testing.T) {
	for in, want := range map[string]string{"base/1/": "base/1", "PG_VERSION": "PG_VERSION", "./base": "base"} {
		if got, err := itemPath("", in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	if got, err := itemPath("pg_tblspc/1", "PG_15/5/6"); err != nil || got != "pg_tblspc/1/PG_15/5/6" {
		t.Errorf("%q %v", got, err)
	}
	for _, in := range []string{"/etc/passwd", "../x", "a/../../x", "a/../x", "a\x00b", ".."} {
		if got, err := itemPath("", in); err == nil {
			t.Errorf("%q: %q is accepted", in, got)
		}
	}
	for name, want := range map[string]uint32{"base/5/1259": 8192, "base/5/1259.1": 8192, "base/5/1259_vm": 8192, "base/5/1259_fsm.2": 8192,
		"global/1262": 8192, "pg_tblspc/7/PG_15_1/5/6": 8192, "base/5/PG_VERSION": 0, "global/pg_control": 0, "pg_xact/0000": 0,
		"base/5/1259.": 0, "base/5/1259x": 0} {
		if got := extentOf(name, 8192); got != want {
			t.Errorf("%s is cut at %d", name, got)
		}
	}
}

func TestSlotNames(t *testing.T) {
	for in, want := range map[string]string{"orders": "holdfast_orders", "Orders-1 é": "holdfast_orders_1__", strings.Repeat("x", 99): "holdfast_" + strings.Repeat("x", 54)} {
		if got := slotName(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	a, _ := temporarySlotName(strings.Repeat("x", 99))
	b, _ := temporarySlotName(strings.Repeat("x", 99))
	if len(a) != 63 || a == b {
		t.Errorf("%q %q", a, b)
	}
}
