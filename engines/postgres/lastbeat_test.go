package postgres

import (
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestLastBeat(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		src := s.source()
		last := func() *repo.Beat {
			t.Helper()
			b, err := src.(engines.BeatSource).LastBeat(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if b := last(); b != nil {
			t.Fatalf("without a database: %+v", b)
		}
		s.exec("create database " + beatDatabase + ` owner "` + siteRole + `"`)
		if b := last(); b != nil {
			t.Fatalf("without a table: %+v", b)
		}
		p, err := src.Heartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b := last(); b != nil {
			t.Fatalf("without a row: %+v", b)
		}
		for range 3 {
			want, err := p.Beat(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := s.position("select pg_current_wal_insert_lsn()::text")
			got := last()
			if got == nil || got.N != want.N || !got.At.Equal(want.At) || got.Pos < before {
				t.Errorf("%+v at or after %s, want %+v", got, FormatLSN(before), want)
			}
		}

		s.exec("revoke connect on database "+beatDatabase+" from public", "alter database "+beatDatabase+" owner to postgres")
		if b, err := src.(engines.BeatSource).LastBeat(t.Context()); err == nil {
			t.Errorf("without the right to connect: %+v, hint %q", b, hferr.HintOf(err))
		}
	})
}

// A standby knows the primary's beats, and how far it has replayed.
func TestLastBeatOfAStandby(t *testing.T) {
	s := newSite(t, "15", nil, "create database holdfast owner backup")
	src := s.source()
	p, err := src.Heartbeat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	want, err := p.Beat(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	s.becomeStandby()
	src = s.source()
	got, err := src.(engines.BeatSource).LastBeat(t.Context())
	if err != nil || got == nil || got.N != want.N || !got.At.Equal(want.At) || got.Pos < want.Pos {
		t.Errorf("%+v %v, want %+v", got, err, want)
	}
}
