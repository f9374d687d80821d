package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

const failedRecovery = `2026-11-22 23:47:57.624 UTC [8912] LOG:  starting archive recovery
2026-11-22 23:47:57.651 UTC [8912] LOG:  redo starts at 0/2000028
2026-11-22 23:47:57.660 UTC [8920] FATAL:  the database system is starting up
2026-11-22 23:47:57.665 UTC [8912] FATAL:  could not restore file "000000010000000000000005" from archive: child process exited with exit code 200
2026-11-22 23:47:57.665 UTC [8912] DETAIL:  a detail
2026-11-22 23:47:57.682 UTC [8909] LOG:  shutting down due to startup process failure
2026-11-22 23:47:57.682 UTC [8909] DETAIL:  not of the failure
`

func TestServerLog(t *testing.T) {
	var out bytes.Buffer
	l := newServerLog(&out)
	_, _, next := l.state()
	r := iotest.OneByteReader(strings.NewReader(failedRecovery))
	buf := make([]byte, 1)
	for {
		n, err := r.Read(buf)
		if err != nil {
			break
		}
		_, _ = l.Write(buf[:n])
	}
	redo, open, _ := l.state()
	if !redo || open {
		t.Errorf("redo %v, open %v", redo, open)
	}
	select {
	case <-next:
	default:
		t.Error("the milestone woke nobody")
	}
	want := "FATAL: could not restore file \"000000010000000000000005\" from archive: child process exited with exit code 200|DETAIL: a detail"
	if got := strings.Join(l.why(), "|"); got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
	if _, cause := explainEnd(l.why()); !errors.Is(cause, ErrFeed) {
		t.Errorf("cause %v", cause)
	}
	if out.String() != failedRecovery {
		t.Error("the log was not passed on unchanged")
	}
}

func FuzzServerLog(f *testing.F) {
	f.Add([]byte(failedRecovery), 7)
	f.Fuzz(func(t *testing.T, data []byte, cut int) {
		l := newServerLog(nil)
		for len(data) > 0 {
			n := min(len(data), max(1, cut%4096))
			if m, err := l.Write(data[:n]); m != n || err != nil {
				t.Fatal(m, err)
			}
			data = data[n:]
		}
		if len(l.partial) > maxLogLine || len(l.why()) > keptLines {
			t.Fatalf("%d bytes and %d lines kept", len(l.partial), len(l.why()))
		}
	})
}

// Behind the last record only an incomplete one may stand.
func TestTheEndOfTheLog(t *testing.T) {
	const page = 8192
	for what, c := range map[string]struct {
		at, to repo.Position
		length uint32 // of the record at at, or behind the page header there
		bad    bool
	}{
		"nothing":                        {at: mib + 100, to: mib + 100},
		"behind the end":                 {at: mib + 200, to: mib + 100},
		"three bytes":                    {at: mib + 96, to: mib + 99},
		"a record cut short":             {at: mib + 96, to: mib + 200, length: 105},
		"a whole record":                 {at: mib + 96, to: mib + 200, length: 104, bad: true},
		"zeros":                          {at: mib + 96, to: mib + 200, bad: true},
		"cut behind a page header":       {at: mib + 2*page, to: mib + 2*page + 24 + 100, length: 101},
		"whole behind a page header":     {at: mib + 2*page, to: mib + 2*page + 24 + 100, length: 100, bad: true},
		"cut in the second page":         {at: mib + 2*page - 8, to: mib + 2*page + 124, length: 109},
		"whole in the second page":       {at: mib + 2*page - 8, to: mib + 2*page + 124, length: 108, bad: true},
		"cut across a segment":           {at: 2*mib - 8, to: 2*mib + 140, length: 109},
		"whole across a segment":         {at: 2*mib - 8, to: 2*mib + 140, length: 108, bad: true},
		"only a header of the next page": {at: mib + 2*page - 8, to: mib + 2*page + 10, length: 9},
		"before the last leg":            {at: mib - 8, to: mib + 100, bad: true},
	} {
		log := &recordAt{pos: c.at, length: c.length}
		if c.at%(2*page) == 0 {
			log.pos += shortHeader
		}
		l := leg(rootBranch(1), mib, c.to)
		f, err := newFeed(&wal.Plan{Legs: []wal.Leg{l}}, mib, log)
		if c.at < mib {
			f, err = &feed{}, nil
		}
		if err != nil {
			t.Fatal(what, err)
		}
		err = logEnd{feed: f, leg: l, segmentSize: mib, blockSize: page}.check(t.Context(), c.at)
		if errors.Is(err, ErrStoppedEarly) != c.bad || (err != nil) != c.bad {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// recordAt is a log of zeros but for one record's length.
type recordAt struct {
	pos    repo.Position
	length uint32
}

func (r *recordAt) Copy(_ context.Context, _ string, from, to wal.Position, w io.Writer) error {
	b := make([]byte, to-from)
	if r.pos >= from && r.pos+4 <= to {
		binary.LittleEndian.PutUint32(b[r.pos-from:], r.length)
	}
	_, err := w.Write(b)
	return err
}
