package wal

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestProcessLife(t *testing.T) {
	t.Parallel()
	me := repo.LeaseHolder{Host: "h", Boot: "b", PIDs: "pid:[9]", PID: 1, Started: 50, Nonce: "me"}
	other := func(change func(*repo.LeaseHolder)) repo.LeaseHolder {
		h := me
		h.PID, h.Started, h.Nonce = 7, 70, "other"
		change(&h)
		return h
	}
	table := func(pid int) (bool, uint64) {
		switch pid {
		case 7:
			return false, 70
		case 8: // hidden
			return false, 0
		}
		return true, 0
	}
	cases := map[string]struct {
		h         repo.LeaseHolder
		contained bool
		want      Life
	}{
		"runs":                       {other(func(*repo.LeaseHolder) {}), false, LifeRuns},
		"no such process":            {other(func(h *repo.LeaseHolder) { h.PID = 6 }), false, LifeEnded},
		"pid used again":             {other(func(h *repo.LeaseHolder) { h.Started = 60 }), false, LifeEnded},
		"hidden":                     {other(func(h *repo.LeaseHolder) { h.PID = 8 }), false, LifeUnknown},
		"start unknown":              {other(func(h *repo.LeaseHolder) { h.Started = 0 }), false, LifeUnknown},
		"other host":                 {other(func(h *repo.LeaseHolder) { h.Host, h.PID = "x", 6 }), true, LifeUnknown},
		"other boot":                 {other(func(h *repo.LeaseHolder) { h.Boot, h.PID = "x", 6 }), true, LifeUnknown},
		"unknown boot":               {other(func(h *repo.LeaseHolder) { h.Boot, h.PID = "", 6 }), true, LifeUnknown},
		"no pid":                     {other(func(h *repo.LeaseHolder) { h.PID = 0 }), true, LifeUnknown},
		"this process":               {other(func(h *repo.LeaseHolder) { h.PID, h.Started = 1, 50 }), true, LifeUnknown},
		"our pid before":             {other(func(h *repo.LeaseHolder) { h.PID, h.Started = 1, 40 }), false, LifeEnded},
		"other pids":                 {other(func(h *repo.LeaseHolder) { h.PIDs, h.PID = "pid:[8]", 6 }), true, LifeUnknown},
		"earlier life of container":  {other(func(h *repo.LeaseHolder) { h.PIDs, h.PID = "pid:[8]", 1 }), true, LifeEnded},
		"same pid, host's own name":  {other(func(h *repo.LeaseHolder) { h.PIDs, h.PID = "pid:[8]", 1 }), false, LifeUnknown},
		"unknown pids, our own pid":  {other(func(h *repo.LeaseHolder) { h.PIDs, h.PID = "", 1 }), true, LifeUnknown},
		"unknown pids, no such pid ": {other(func(h *repo.LeaseHolder) { h.PIDs, h.PID = "", 6 }), true, LifeUnknown},
	}
	for name, c := range cases {
		look := func(pid int) (bool, uint64) {
			if pid == me.PID {
				return false, me.Started
			}
			return table(pid)
		}
		if got := (processes{self: me, contained: c.contained, look: look}).life(c.h); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestThisProcess(t *testing.T) {
	t.Parallel()
	a, b := ThisProcess(), ThisProcess()
	if a.Nonce == b.Nonce || len(a.Nonce) != 24 {
		t.Errorf("nonces %q, %q", a.Nonce, b.Nonce)
	}
	b.Nonce = a.Nonce
	if a != b || a.PID != os.Getpid() || a.Boot == "" || a.Started == 0 || !strings.HasPrefix(a.PIDs, "pid:[") {
		t.Errorf("%+v, then %+v", a, b)
	}
	if got := ProcessLife(a); got != LifeUnknown {
		t.Errorf("this process is %d to itself", got)
	}
	parent := a
	parent.PID, parent.Started = os.Getppid(), 1
	if got := ProcessLife(parent); got != LifeEnded {
		t.Errorf("an earlier process under the parent's pid is %d", got)
	}
}

func stat(name string, state string, started any) string {
	return fmt.Sprintf("12 (%s) %s 1 2 3 4 -1 0 9 0 0 0 0 0 0 0 20 0 1 0 %v 3133440 362\n", name, state, started)
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		stat("cat", "R", 140588):         140588,
		stat(") R 1 (", "S", 7):          7,
		stat("", "Z", uint64(1<<64-1)):   1<<64 - 1,
		stat("a b\n) c", "S", "12 (x 9"): 12,
		stat("cat", "RR", 5):             0,
		stat("cat", "R", "-5"):           0,
		"12 (cat) R 1 2 3":               0,
		"":                               0,
	} {
		_, got, err := parseStat([]byte(text))
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(stat("cat", "R", 140588)))
	f.Add([]byte(")"))
	f.Fuzz(func(t *testing.T, b []byte) {
		state, started, err := parseStat(b)
		if err != nil {
			return
		}
		s, again, err := parseStat([]byte(stat(") x", string(rune(state)), started)))
		if state < 0x80 && (err != nil || s != state || again != started) {
			t.Fatalf("%q: state %c, start %d; again %c, %d, %v", b, state, started, s, again, err)
		}
	})
}
