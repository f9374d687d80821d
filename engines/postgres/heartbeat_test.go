package postgres

import (
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestHeartbeatsAreARingThatCountsOn(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		src := s.source()
		_, err := src.Heartbeat(t.Context())
		if want := `CREATE DATABASE holdfast OWNER "backup";`; err == nil || hferr.HintOf(err) != want {
			t.Fatalf("without the right: %v, hint %q", err, hferr.HintOf(err))
		}
		s.exec(hferr.HintOf(err))
		var last repo.Beat
		beat := func(n int) {
			t.Helper()
			p, err := src.Heartbeat(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			for range 2 {
				if err := p.Setup(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			for range n {
				b, err := p.Beat(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if b.N != last.N+1 || !b.At.After(last.At) || b.Pos <= last.Pos {
					t.Fatalf("%+v after %+v", b, last)
				}
				last = b
			}
		}
		beat(3)
		beat(2)
		conn, err := src.(*source).sql(t.Context(), beatDatabase)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		found, err := readBeats(t.Context(), conn)
		if err != nil || len(found) != 5 || found[4].N != last.N || !found[4].At.Equal(last.At) {
			t.Fatalf("%+v %v", found, err)
		}
		if _, err := conn.Exec(t.Context(), "update holdfast.beat set n = n + $1 where n = 5", consistency.RingSize-2); err != nil {
			t.Fatal(err)
		}
		last.N += consistency.RingSize - 2
		beat(3)
		if found, err = readBeats(t.Context(), conn); err != nil || found[len(found)-1].N != last.N || len(found) != 6 {
			t.Errorf("after a turn of the ring: %+v %v", found, err)
		}
	})
}

func TestASecondWriterOfHeartbeatsIsRefused(t *testing.T) {
	s := newSite(t, "15", nil, "alter role backup createdb")
	src := s.source()
	var pulses []consistency.Pulse
	for range 2 {
		p, err := src.Heartbeat(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := p.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
		pulses = append(pulses, p)
	}
	if _, err := pulses[0].Beat(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := pulses[1].Beat(t.Context()); err == nil || !strings.Contains(hferr.HintOf(err), "another holdfast") {
		t.Errorf("%+v %v", b, err)
	}
}
