package testcontainers

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// listProcesses prints every process's stat line with nothing but the shell,
// as images need not have ps. The shell's own line comes first, so that it can
// be told apart.
const listProcesses = `read -r me </proc/self/stat; echo "$me"; for f in /proc/[0-9]*/stat; do read -r s <"$f" && echo "$s"; done 2>/dev/null; exit 0`

// KillAll is part of Killer.
func (d *dockerSandbox) KillAll(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, killPatience)
	defer cancel()
	for {
		out, err := d.shell(ctx, listProcesses)
		if err != nil {
			return fmt.Errorf("list the container's processes: %w", err)
		}
		left := guests(out)
		if len(left) == 0 {
			return d.awaitAll(ctx)
		}
		var pids []string
		for _, s := range left {
			pids = append(pids, strconv.Itoa(s.pid))
		}
		// One that has ended since makes kill fail; the next list decides.
		// They are stopped first for the reason killResidents gives.
		_, _ = d.shell(ctx, `kill -STOP "$@"; kill -KILL "$@"`, append([]string{"sh"}, pids...)...)
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes survive SIGKILL in container %s: %s", d.id, names(left))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// guests picks the processes to be killed from the output of listProcesses:
// all but the keeper with its cat (session 1), the listing shell, and the dead.
func guests(out string) []stat {
	var found []stat
	self := 0
	for line := range strings.Lines(out) {
		s, err := parseStat(line)
		if err != nil {
			continue
		}
		if self == 0 {
			self = s.pid
			continue
		}
		if s.pid != self && s.session != 1 && s.state != 'Z' && s.state != 'X' {
			found = append(found, s)
		}
	}
	return found
}

// awaitAll waits until every process we started is known to have ended.
func (d *dockerSandbox) awaitAll(ctx context.Context) error {
	d.mu.Lock()
	running := d.running
	d.running = nil
	d.mu.Unlock()
	for _, e := range running {
		select {
		case <-e.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
