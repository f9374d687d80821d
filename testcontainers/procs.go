package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// stat is the part of /proc/<pid>/stat needed here.
type stat struct {
	pid, ppid, group, session int
	comm                      string
	state                     byte
	start                     uint64
}

var errStat = errors.New("not a /proc stat line")

// parseStat reads a line of /proc/<pid>/stat (proc(5)). The command name is
// in parentheses and may itself contain blanks and parentheses, so fields are
// counted from the last one.
func parseStat(line string) (stat, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 1 || end < open {
		return stat{}, errStat
	}
	s := stat{comm: line[open+1 : end]}
	f := strings.Fields(line[end+1:])
	if len(f) < 20 || len(f[0]) != 1 {
		return stat{}, errStat
	}
	s.state = f[0][0]
	for _, n := range []struct {
		to   *int
		text string
	}{{&s.pid, strings.TrimSpace(line[:open])}, {&s.ppid, f[1]}, {&s.group, f[2]}, {&s.session, f[3]}} {
		v, err := strconv.Atoi(n.text)
		if err != nil {
			return stat{}, errStat
		}
		*n.to = v
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return stat{}, errStat
	}
	s.start = start
	return s, nil
}

// readStat reads one process's entry; os.ErrNotExist means it is gone.
func readStat(pid int) (stat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if errors.Is(err, syscall.ESRCH) { // gone between open and read
		err = os.ErrNotExist
	}
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

// residents returns the processes that belong to the sandbox rooted at dir:
// those whose working directory, root or binary is below it, and those that
// descend from, or share a session with, a process in started. A server's
// workers make sessions of their own (PostgreSQL's all do), and a worker's
// parent may be dead already, so none of these signs suffices alone. Zombies
// are not counted: they hold nothing.
func residents(dir string, started map[int]uint64) ([]stat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	all := map[int]stat{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if s, err := readStat(pid); err == nil && s.state != 'Z' && s.state != 'X' {
			all[pid] = s
		}
	}
	var found []stat
	for pid, s := range all {
		if pid != os.Getpid() && (livesBelow(pid, dir) || belongs(s, all, started)) {
			found = append(found, s)
		}
	}
	return found, nil
}

func livesBelow(pid int, dir string) bool {
	for _, link := range []string{"cwd", "root", "exe"} {
		target, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/" + link)
		if err == nil && (target == dir || strings.HasPrefix(target, dir+"/")) {
			return true
		}
	}
	return false
}

// belongs walks up to a started process. The walk ends at init, at a missing
// parent, or after as many steps as there are processes.
func belongs(s stat, all map[int]stat, started map[int]uint64) bool {
	if start, ok := started[s.session]; ok && s.session > 0 {
		if leader, alive := all[s.session]; !alive || leader.start == start {
			return true
		}
	}
	for range len(all) {
		if start, ok := started[s.pid]; ok && start == s.start {
			return true
		}
		up, ok := all[s.ppid]
		if !ok || s.ppid <= 1 {
			return false
		}
		s = up
	}
	return false
}

// signalStat sends sig to exactly the process seen before: os.FindProcess
// takes a handle on whatever has the number now, and the start time then
// tells whether that is still the same one.
func signalStat(s stat, sig syscall.Signal) error {
	p, err := os.FindProcess(s.pid)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	now, err := readStat(s.pid)
	if errors.Is(err, os.ErrNotExist) || (err == nil && now.start != s.start) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := p.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d (%s): %w", s.pid, s.comm, err)
	}
	return nil
}

// killResidents sends SIGKILL to whatever lives in dir until nothing does, or
// until patience runs out; then the error names who is left. All are stopped
// before the first is killed, so that no process sees another's death and acts
// on it: a crash does not happen in an order.
func killResidents(ctx context.Context, dir string, started map[int]uint64, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		left, err := residents(dir, started)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
			for _, s := range left {
				if err := signalStat(s, sig); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes survive SIGKILL in %s: %s", dir, names(left))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func names(ss []stat) string {
	var parts []string
	for _, s := range ss {
		parts = append(parts, fmt.Sprintf("%d (%s)", s.pid, filepath.Base(s.comm)))
	}
	return strings.Join(parts, ", ")
}
