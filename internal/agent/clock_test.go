package agent

import (
	"testing"
	"time"
)

// A clock that was set shows, in either direction; slow answers and drift do
// not look like it.
func TestClockSteps(t *testing.T) {
	start := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		took1, took2 time.Duration // of the questions
		server       time.Duration // how far the source's clock went in 5 s
		want         bool
	}{
		"steady":               {0, 0, 5 * time.Second, false},
		"drift":                {0, 0, 5*time.Second + 20*time.Millisecond, false},
		"a slow answer":        {0, 3 * time.Second, 8 * time.Second, false},
		"a slow first answer":  {3 * time.Second, 0, 2500 * time.Millisecond, false},
		"set forward":          {0, 0, 8 * time.Second, true},
		"set back":             {0, 0, 2 * time.Second, true},
		"set back by an hour":  {0, time.Second, 5*time.Second - time.Hour, true},
		"set forward, slowly":  {time.Second, time.Second, time.Hour, true},
		"not at all, standing": {0, 0, 0, true},
	} {
		var w clockWatch
		if got := w.step(start, start, start.Add(c.took1)); got != 0 {
			t.Errorf("%s: a step of %s at the first look", name, got)
		}
		began := start.Add(5 * time.Second)
		if got := w.step(start.Add(c.server), began, began.Add(c.took2)); (got != 0) != c.want {
			t.Errorf("%s: step %s", name, got)
		}
	}
}
