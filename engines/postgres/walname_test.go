package postgres

import (
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestWALNames(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name     string
		size     int64
		timeline uint32
		start    repo.Position
	}{
		{"000000010000000000000001", 16 * mib, 1, 0x1000000},
		{"00000001000000000000000A", 16 * mib, 1, 0xA000000},
		{"0000000A00000012000000FF", 16 * mib, 10, 0x12FF000000},
		{"000000100000000100000000", 16 * mib, 16, 0x100000000},
		{"000000010000000200000FFF", 1 * mib, 1, 0x2FFF00000},
		{"000000010000000200000003", 1024 * mib, 1, 0x2C0000000},
		{"FFFFFFFFFFFFFFFF000000FF", 16 * mib, 1<<32 - 1, 0xFFFFFFFFFF000000},
	} {
		n, err := parseWALName(c.name, c.size)
		if err != nil || n.Timeline != c.timeline || n.start(c.size) != c.start {
			t.Errorf("%s: timeline %d, start %s, %v", c.name, n.Timeline, FormatLSN(n.start(c.size)), err)
		}
		if got := walNameAt(c.timeline, c.start+1, c.size).format(c.size); got != c.name {
			t.Errorf("name of %s on %d: %s, want %s", FormatLSN(c.start+1), c.timeline, got, c.name)
		}
	}
}

func TestMalformedWALNames(t *testing.T) {
	for _, name := range []string{
		"", "00000001", "00000001000000000000000", "0000000100000000000000010",
		"00000001000000000000000a",         // lower case
		"000000010000000000000100",         // past 4 GiB at 16 MiB a segment
		"000000000000000000000001",         // no timeline 0
		"+00000010000000000000001",         // no sign
		"000000010000000000000001.partial", // another file
		"000000010000000000000002.00000028.backup",
	} {
		if n, err := parseWALName(name, 16<<20); err == nil {
			t.Errorf("%q: %v, want an error", name, n)
		}
	}
	for _, name := range []string{"2.history", "0000000a.history", "00000000.history", "00000002.History", "000000002.history", "00000002"} {
		if n, ok := parseHistoryName(name); ok {
			t.Errorf("%q: timeline %d, want none", name, n)
		}
	}
	if n, ok := parseHistoryName("0000001A.history"); !ok || n != 26 || historyName(26) != "0000001A.history" {
		t.Errorf("0000001A.history: %d %v, %s", n, ok, historyName(26))
	}
}

func FuzzWALName(f *testing.F) {
	f.Add("00000001000000000000000A", uint8(24))
	f.Add("00000002.history", uint8(20))
	f.Add("000000010000000200000003", uint8(30))
	f.Fuzz(func(t *testing.T, name string, bits uint8) {
		size := int64(1) << (20 + bits%11)
		if n, err := parseWALName(name, size); err == nil {
			if got := n.format(size); got != name {
				t.Fatalf("%q reads as %+v, which prints as %q", name, n, got)
			}
			if again := walNameAt(n.Timeline, n.start(size), size); again != n {
				t.Fatalf("%q: %+v starts at %d, which is in %+v", name, n, n.start(size), again)
			}
		}
		if n, ok := parseHistoryName(name); ok && !strings.EqualFold(historyName(n), name) {
			t.Fatalf("%q reads as timeline %d", name, n)
		}
	})
}
