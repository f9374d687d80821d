package consistency

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func sec(s float64) time.Time { return epoch.Add(time.Duration(s * float64(time.Second))) }

// beats numbers from..to, each at its number in seconds.
func beats(from, to int64) []repo.Beat {
	var out []repo.Beat
	for n := from; n <= to; n++ {
		out = append(out, repo.Beat{N: n, At: sec(float64(n))})
	}
	return out
}

func cat(lists ...[]repo.Beat) []repo.Beat {
	var out []repo.Beat
	for _, l := range lists {
		out = append(out, l...)
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

func TestMeasure(t *testing.T) {
	moved := []repo.Beat{{N: 5, At: sec(5.5)}}
	for _, c := range []struct {
		name         string
		found, noted []repo.Beat
		t            time.Time
		known        bool
		min, max     time.Duration
		absent, hole int64
		why          string
	}{
		{"next beat absent", beats(1, 5), beats(1, 9), sec(10), true, 4 * time.Second, 5 * time.Second, 6, 0, ""},
		{"nothing absent", beats(1, 9), beats(1, 9), sec(10), true, 0, time.Second, 0, 0, "no later beat"},
		{"nothing noted", beats(1, 5), nil, sec(10), true, 0, 5 * time.Second, 0, 0, "no later beat"},
		{"only a later one noted", beats(1, 5), beats(8, 9), sec(10), true, 2 * time.Second, 5 * time.Second, 8, 0, ""},
		{"noted in part", beats(1, 5), cat(beats(2, 2), beats(4, 4), beats(7, 7)), sec(10), true, 3 * time.Second, 5 * time.Second, 7, 0, ""},
		{"noted twice", cat(beats(1, 5), beats(1, 5)), cat(beats(1, 9), beats(3, 8)), sec(10), true, 4 * time.Second, 5 * time.Second, 6, 0, ""},
		{"the copy is younger than T", beats(1, 5), beats(1, 4), sec(4.5), true, 0, 0, 0, 0, "younger than the time given"},
		{"T between present and absent", beats(1, 5), beats(1, 9), sec(5.5), true, 0, 500 * time.Millisecond, 6, 0, ""},
		{"no beat in the copy", nil, beats(3, 9), sec(10), false, 0, 0, 3, 0, "no heartbeat"},
		{"nothing at all", nil, nil, sec(10), false, 0, 0, 0, 0, "no heartbeat"},
		{"T unknown", beats(1, 5), beats(1, 9), time.Time{}, false, 0, 0, 6, 0, "not known"},
		{"a hole", cat(beats(1, 3), beats(5, 5)), beats(1, 9), sec(10), false, 0, 0, 6, 4, "not a prefix"},
		{"a beat with another time", cat(beats(1, 4), moved, beats(6, 6)), beats(1, 9), sec(10), false, 0, 0, 7, 5, "not a prefix"},
		{"the last beat with another time", cat(beats(1, 4), moved), beats(1, 9), sec(10), false, 0, 0, 6, 5, "not a prefix"},
		{"a number noted with two times", beats(1, 5), []repo.Beat{{N: 6, At: sec(6)}, {N: 6, At: sec(7)}}, sec(10), true, 3 * time.Second, 5 * time.Second, 6, 0, ""},
		{"a gap that was never acknowledged", cat(beats(1, 3), beats(5, 5)), cat(beats(1, 3), beats(5, 9)), sec(10), true, 4 * time.Second, 5 * time.Second, 6, 0, ""},
		{"overwritten in the ring", beats(RingSize-9, 2*RingSize-10), beats(1, 2*RingSize), sec(2 * RingSize), true, 9 * time.Second, 10 * time.Second, 2*RingSize - 9, 0, ""},
		{"the oldest in the ring missing", beats(RingSize-8, 2*RingSize-10), beats(1, 2*RingSize), sec(2 * RingSize), false, 0, 0, 2*RingSize - 9, RingSize - 9, "not a prefix"},
		{"one number, two times in the copy", cat(beats(1, 5), moved), beats(1, 4), sec(10), false, 0, 0, 0, 0, "two different times"},
		{"the clock went back", beats(1, 5), []repo.Beat{{N: 6, At: sec(2)}}, sec(10), false, 0, 0, 6, 0, "went back"},
		{"the clock went back in the copy", cat(beats(1, 5), []repo.Beat{{N: 6, At: sec(2)}}), nil, sec(10), false, 0, 0, 0, 0, "went back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := Measure(c.found, c.noted, c.t)
			n := func(b *repo.Beat) int64 {
				if b == nil {
					return 0
				}
				return b.N
			}
			if l.Known != c.known || l.Min != c.min || l.Max != c.max || n(l.Absent) != c.absent || n(l.Hole) != c.hole {
				t.Errorf("%+v (absent %d, hole %d)", l, n(l.Absent), n(l.Hole))
			}
			if !strings.Contains(l.Why, c.why) || c.why == "" && l.Why != "" {
				t.Errorf("why: %q", l.Why)
			}
		})
	}
}

// TestLossLiesInTheInterval simulates sources: beats at uneven times, some
// never acknowledged, a cut at any moment, and notes of any subset. Whatever
// is stated must be true of the loss that really happened.
func TestLossLiesInTheInterval(t *testing.T) {
	stated := 0
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var committed, acknowledged []repo.Beat
		now := epoch
		for n := range int64(1 + rng.IntN(3*100)) {
			now = now.Add(time.Duration(1+rng.IntN(2_000_000)) * time.Microsecond)
			b := repo.Beat{N: n + 1, At: now}
			committed = append(committed, b)
			if rng.IntN(5) > 0 { // else committed, but the answer was lost
				acknowledged = append(acknowledged, b)
			}
		}
		end := now.Add(time.Duration(rng.IntN(3_000_000)) * time.Microsecond)
		cut := epoch.Add(time.Duration(rng.Int64N(int64(end.Sub(epoch)))))
		var found, noted []repo.Beat
		for _, b := range committed {
			if !b.At.After(cut) {
				found = append(found, b)
			}
		}
		for _, b := range acknowledged {
			if rng.IntN(3) > 0 {
				noted = append(noted, b)
			}
		}
		l := Measure(cat(found), cat(noted, noted), end)
		if !l.Known {
			if len(found) > 0 {
				t.Fatalf("seed %d: %s", seed, l.Why)
			}
			continue
		}
		stated++
		loss := end.Sub(cut)
		if loss > l.Max || loss <= l.Min && l.Min > 0 {
			t.Fatalf("seed %d: the loss was %s, stated (%s, %s]", seed, loss, l.Min, l.Max)
		}
		// Any acknowledged beat missing from the middle shows.
		if len(found) > 2 {
			gone := found[rng.IntN(len(found)-1)]
			var rest []repo.Beat
			for _, b := range found {
				if b.N != gone.N {
					rest = append(rest, b)
				}
			}
			if h := Measure(rest, acknowledged, end).Hole; contains(acknowledged, gone.N) != (h != nil) {
				t.Fatalf("seed %d: beat %d is missing, hole %v", seed, gone.N, h)
			}
		}
	}
	if stated < 2000 {
		t.Fatalf("only %d statements were tried", stated)
	}
}

func contains(beats []repo.Beat, n int64) bool {
	for _, b := range beats {
		if b.N == n {
			return true
		}
	}
	return false
}
