package walrecord_test

import (
	"fmt"
	"testing"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
)

// decodeOne makes a log of one record and decodes it.
func decodeOne(t *testing.T, magic uint16, rm, info uint8, body []byte) seen {
	t.Helper()
	m := newMaker(magic, segmentSize)
	m.record(rm, info, 900, body)
	got, err := walk(newWalker(t, m.start, false), m.out.Bytes(), 0, nil)
	if err != nil || len(got) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	return got[0]
}

const allInfo = 1<<0 | 1<<1 | 1<<2 | 1<<4 | 1<<5 | 1<<7 | 1<<8

// everything is a commit of a prepared transaction with all it can have.
func everything(stat int, info uint32) []byte {
	return cat(u64(1_500_000), u32(info), u32(1, 2), u32(2, 901, 902), u32(1), make([]byte, 12), u32(3), make([]byte, 3*stat),
		u32(950), []byte("gid\x00"), u64(0x123, 2_000_000))
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		magic    uint16
		rm, info uint8
		body     []byte
		want     string
	}{
		"a commit":             {0xD106, 1, 0x00, u64(1_500_000), "1 900 false 00:00:01.5 []"},
		"an abort":             {0xD118, 1, 0x20, u64(1_500_000), "2 900 false 00:00:01.5 []"},
		"everything on 18":     {0xD118, 1, 0xB0, everything(16, allInfo), `1 950 true 00:00:01.5 [133 3 0 0 134 3 0 0] gid "gid" from 123 00:00:02`},
		"everything on 17":     {0xD116, 1, 0xC0, everything(12, allInfo), `2 950 true 00:00:01.5 [133 3 0 0 134 3 0 0] gid "gid" from 123 00:00:02`},
		"18's in a 17":         {0xD116, 1, 0xB0, everything(16, allInfo), "malformed"},
		"a commit too short":   {0xD118, 1, 0x00, make([]byte, 7), "malformed"},
		"a commit too long":    {0xD118, 1, 0x00, make([]byte, 9), "malformed"},
		"too many subs":        {0xD118, 1, 0x80, cat(u64(1), u32(2), u32(9, 1)), "malformed"},
		"prepared without xid": {0xD118, 1, 0x30, u64(1), "malformed"},
		"a short checkpoint":   {0xD118, 0, 0x10, make([]byte, 71), "malformed"},
		"a short point":        {0xD118, 0, 0x70, make([]byte, 8), "malformed"},
		"a short end":          {0xD118, 0, 0x90, make([]byte, 15), "malformed"},
		"a short backup end":   {0xD118, 0, 0x50, make([]byte, 7), "malformed"},
		"a short overwrite":    {0xD118, 0, 0xD0, make([]byte, 15), "malformed"},
		"a short prepare":      {0xD118, 1, 0x10, make([]byte, 71), "malformed"},
	} {
		s := decodeOne(t, c.magic, c.rm, c.info, data(c.body))
		got := "malformed"
		if s.err == nil {
			e := s.event
			got = fmt.Sprintf("%d %d %t %s %v", e.Kind, e.XID, e.Prepared, e.Time.Format("15:04:05.999999"), e.Subs)
			if e.GID != "" {
				got += fmt.Sprintf(" gid %q from %x %s", e.GID, e.Origin, e.OriginTime.Format("15:04:05"))
			}
		}
		if got != c.want {
			t.Errorf("%s: %s (%v), want %s", name, got, s.err, c.want)
		}
	}
}

// TestDecodeTheOtherHeaders: ids before the main data, and what is none.
func TestDecodeTheOtherHeaders(t *testing.T) {
	commit := data(u64(1_500_000))
	for name, c := range map[string]struct {
		body []byte
		ok   bool
	}{
		"origin and top-level id": {cat([]byte{253, 1, 0, 252, 1, 2, 3, 4}, commit), true},
		"a block":                 {cat([]byte{0, 0, 0, 0}, commit), false},
		"nothing":                 {nil, false},
		"an id alone":             {[]byte{254}, false},
		"a length too great":      {[]byte{255, 9, 0, 0}, false},
		"more than its length":    {append(commit, 0), false},
	} {
		if s := decodeOne(t, magic18, 1, 0, c.body); (s.err == nil) != c.ok {
			t.Errorf("%s: %v", name, s.err)
		}
	}
}

// TestDecodeWithoutAVersion: in the middle of a block nothing tells it.
func TestDecodeWithoutAVersion(t *testing.T) {
	for _, stat := range []int{12, 16} {
		m := newMaker(magic18, segmentSize)
		m.record(10, 0, 1, nil)
		at := m.record(walrecord.RMXact, 0xB0, 900, data(everything(stat, allInfo)))
		got, err := walk(newWalker(t, at, true), m.out.Bytes()[at-m.start:], 0, nil)
		if err != nil || len(got) != 1 || got[0].err != nil || got[0].Major != 0 || got[0].event.XID != 950 || got[0].event.Origin != 0x123 {
			t.Errorf("%d: %+v %v", stat, got, err)
		}
	}
}
