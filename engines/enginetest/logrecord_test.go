package enginetest

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
	"time"
)

func TestLogRecordRoundTrip(t *testing.T) {
	t.Parallel()
	c := change{Op: opSet, Time: time.UnixMicro(1234567).UTC(), Table: "t", Key: "", Value: string(make([]byte, 300))}
	b := appendChange(nil, c)
	got, n, err := parseChange(append(b, "more"...))
	if err != nil || n != len(b) || !reflect.DeepEqual(got, c) {
		t.Fatalf("%+v, %d of %d, %v", got, n, len(b), err)
	}
	for cut := range len(b) {
		if _, _, err := parseChange(b[:cut]); !errors.Is(err, errShort) {
			t.Fatalf("cut at %d: %v", cut, err)
		}
	}
	for at := range len(b) {
		bad := bytes.Clone(b)
		bad[at] ^= 0x80
		if _, _, err := parseChange(bad); err == nil {
			t.Fatalf("a flipped bit in byte %d passed", at)
		}
	}
}

func FuzzParseChange(f *testing.F) {
	f.Add(appendChange(nil, change{Op: opDrop, Table: "t"}))
	f.Add([]byte{9, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, n, err := parseChange(b)
		if err != nil {
			return
		}
		again, m, err := parseChange(appendChange(nil, c))
		if err != nil || m > n || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v became %+v (%v)", c, again, err)
		}
	})
}

func FuzzParseTable(f *testing.F) {
	f.Add("\"a\" \"b\"\n")
	f.Fuzz(func(t *testing.T, body string) {
		rows, err := parseTable(body)
		if err != nil {
			return
		}
		again, err := parseTable(formatTable(rows))
		if err != nil || !reflect.DeepEqual(again, rows) {
			t.Fatalf("%v became %v (%v)", rows, again, err)
		}
	})
}
