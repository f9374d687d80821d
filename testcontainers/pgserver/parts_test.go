package pgserver

import (
	"strings"
	"testing"
)

func TestConfLines(t *testing.T) {
	got := confLines(map[string]string{"b": `it's \`, "a": "1"})
	if want := "a = '1'\nb = 'it''s \\\\'\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestTail(t *testing.T) {
	var l tail
	line := strings.Repeat("x", 1023) + "\n"
	for range 3 * tailSize / len(line) {
		if n, err := l.Write([]byte(line)); n != len(line) || err != nil {
			t.Fatal(n, err)
		}
	}
	if _, err := l.Write([]byte("the end")); err != nil {
		t.Fatal(err)
	}
	if s := l.String(); len(s) != tailSize || !strings.HasSuffix(s, "\nthe end") || !l.contains("the end") {
		t.Errorf("kept %d bytes, ending %q", len(s), s[len(s)-10:])
	}
	l.reset()
	if l.String() != "" {
		t.Error("something is left after reset")
	}
}

func FuzzParseSharedMemory(f *testing.F) {
	f.Add("123\n/data\n1700000000\n5432\n/sock\n127.0.0.1\n   123456        7\nready\n")
	f.Add("1\n2\n3\n4\n5\n6\n")
	f.Fuzz(func(t *testing.T, file string) {
		if _, _, ok := parseSharedMemory(file); ok && strings.Count(file, "\n") < 6 {
			t.Errorf("%q has no line 7", file)
		}
	})
}

func TestParseSharedMemory(t *testing.T) {
	key, id, ok := parseSharedMemory("123\n/data\n1700000000\n5432\n/sock\n127.0.0.1\n   123456        7\nready\n")
	if !ok || key != 123456 || id != 7 {
		t.Errorf("%d, %d, %v", key, id, ok)
	}
	for _, bad := range []string{"", "1\n2\n3\n4\n5\n6\n7", "1\n2\n3\n4\n5\n6\na b"} {
		if _, _, ok := parseSharedMemory(bad); ok {
			t.Errorf("%q was accepted", bad)
		}
	}
}
