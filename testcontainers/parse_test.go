package testcontainers

import (
	"os"
	"strings"
	"testing"
)

func TestParseVersion(t *testing.T) {
	for _, c := range []struct{ in, full, major string }{
		{"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18", "15"},
		{"postgres (PostgreSQL) 18.4\n", "18.4", "18"},
		{"postgres (PostgreSQL) 19devel", "19devel", "19"},
		{"mysqld  Ver 9.7.4 for Linux on x86_64", "9.7.4", "9"},
		{"17", "17", "17"},
	} {
		full, major, err := parseVersion(c.in)
		if err != nil || full != c.full || major != c.major {
			t.Errorf("%q: %q, %q, %v", c.in, full, major, err)
		}
	}
	for _, in := range []string{"", "no version here", "v18 x86"} {
		if full, _, err := parseVersion(in); err == nil {
			t.Errorf("%q gave %q", in, full)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n")
	f.Fuzz(func(t *testing.T, in string) {
		full, major, err := parseVersion(in)
		if err != nil {
			return
		}
		if major == "" || !strings.HasPrefix(full, major) || strings.Trim(major, "0123456789") != "" || !strings.Contains(in, full) {
			t.Errorf("%q: %q, %q", in, full, major)
		}
	})
}

const statLine = "1234 (odd) (name) S 77 1234 1200 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 20 18446744073709551615\n"

func TestParseStat(t *testing.T) {
	got, err := parseStat(statLine)
	want := stat{pid: 1234, ppid: 77, group: 1234, session: 1200, comm: "odd) (name", state: 'S', start: 987654}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{
		"", "1 ", "1 (x", "1 (x) S", ") 1 (", "(x) S 1 2 3", strings.Replace(statLine, "987654", "-1", 1),
		strings.Replace(statLine, " 77 ", " a ", 1), strings.Replace(statLine, ") S", ") SS", 1),
	} {
		if s, err := parseStat(bad); err == nil {
			t.Errorf("%q gave %+v", bad, s)
		}
	}
	me, err := readStat(os.Getpid())
	if err != nil || me.pid != os.Getpid() || me.ppid != os.Getppid() || me.start == 0 {
		t.Errorf("myself: %+v, %v", me, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add(statLine)
	f.Add("1 (a) b) R 1 1 1")
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := parseStat(line); err == nil && !strings.Contains(line, "("+s.comm+")") {
			t.Errorf("%q: %+v", line, s)
		}
	})
}

func TestOwnerAlive(t *testing.T) {
	me, err := newOwner("x")
	if err != nil {
		t.Fatal(err)
	}
	b, err := me.encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := decodeOwner(b)
	if err != nil || back != me || !back.alive() {
		t.Errorf("myself: %+v, %v", back, err)
	}
	for name, change := range map[string]func(*owner){
		"another start (the number was used again)": func(o *owner) { o.Start++ },
		"another boot":        func(o *owner) { o.Boot = "earlier" },
		"nobody's process id": func(o *owner) { o.PID = 1 << 30 },
	} {
		o := me
		change(&o)
		if o.alive() {
			t.Errorf("%s counts as alive", name)
		}
	}
	for name, change := range map[string]func(*owner){
		"a process of another container": func(o *owner) { o.PID, o.Space = 1<<30, "pid:[1]" },
		"a process of another host":      func(o *owner) { o.Boot, o.Host = "theirs", "elsewhere" },
	} {
		o := me
		change(&o)
		if !o.alive() {
			t.Errorf("%s, which cannot be seen, counts as dead", name)
		}
	}
}

func FuzzDecodeOwner(f *testing.F) {
	f.Add([]byte(`{"pid":1,"start":2,"boot":"b"}`))
	f.Add([]byte(`{"pid":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if o, err := decodeOwner(b); err == nil && (o.PID <= 0 || o.Boot == "") {
			t.Errorf("%q gave %+v", b, o)
		}
	})
}

func TestGuests(t *testing.T) {
	line := func(pid, ppid, session, comm, state string) string {
		return pid + " (" + comm + ") " + state + " " + ppid + " " + pid + " " + session + " 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n"
	}
	list := line("90", "0", "90", "sh", "R") + // the listing shell, first and again
		line("1", "0", "1", "sh", "S") + line("7", "1", "1", "cat", "S") +
		line("20", "0", "20", "postgres", "S") + line("21", "20", "21", "postgres", "S") +
		line("30", "1", "25", "sleep", "S") + line("31", "1", "31", "gone", "Z") +
		line("90", "0", "90", "sh", "R") + "garbage\n"
	var pids []int
	for _, s := range guests(list) {
		pids = append(pids, s.pid)
	}
	if len(pids) != 3 || pids[0] != 20 || pids[1] != 21 || pids[2] != 30 {
		t.Errorf("to be killed: %v", pids)
	}
}

func TestBelongs(t *testing.T) {
	all := map[int]stat{
		100: {pid: 100, ppid: 50, session: 100, start: 5},
		101: {pid: 101, ppid: 100, session: 101, start: 6}, // a child in a session of its own
		102: {pid: 102, ppid: 1, session: 100, start: 7},   // an orphan in the session
		103: {pid: 103, ppid: 103, session: 9, start: 8},   // a loop, which must end
		104: {pid: 104, ppid: 1, session: 104, start: 9},
		50:  {pid: 50, ppid: 1, session: 50, start: 1},
	}
	started := map[int]uint64{100: 5, 104: 1} // 104 is another process by now
	want := map[int]bool{100: true, 101: true, 102: true, 103: false, 104: false, 50: false}
	for pid, w := range want {
		if got := belongs(all[pid], all, started); got != w {
			t.Errorf("process %d: %v, want %v", pid, got, w)
		}
	}
}
