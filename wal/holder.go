package wal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Life is what is known of a lease holder's process.
type Life int

const (
	LifeUnknown Life = iota // on another host, or nothing tells
	LifeRuns                // on this host, and running
	LifeEnded               // on this host, and not running any more
)

// The first namespaces of a Linux system (PROC_PID_INIT_INO and
// PROC_UTS_INIT_INO in linux/proc_ns.h): who is in them is in no container.
const (
	hostPIDs = "pid:[4026531836]"
	hostUTS  = "uts:[4026531838]"
)

// ThisProcess names this process as a holder, under a new nonce. What the
// system does not tell (without Linux's /proc) stays empty, and then only
// time decides about such a holder.
func ThisProcess() repo.LeaseHolder {
	h := repo.LeaseHolder{Host: "unknown", PID: os.Getpid(), Nonce: newNonce()}
	if host, err := os.Hostname(); err == nil {
		h.Host = host
	}
	if boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id"); err == nil {
		h.Boot = string(bytes.TrimSpace(boot))
	}
	if pids, err := os.Readlink("/proc/self/ns/pid"); err == nil {
		h.PIDs = pids
	}
	if stat, err := os.ReadFile("/proc/self/stat"); err == nil {
		if _, started, err := parseStat(stat); err == nil {
			h.Started = started
		}
	}
	return h
}

func newNonce() string {
	var b [12]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// ProcessLife finds out about a holder's process from this host's process
// table.
func ProcessLife(h repo.LeaseHolder) Life {
	p := processes{self: ThisProcess(), look: lookProcess}
	if uts, err := os.Readlink("/proc/self/ns/uts"); err == nil {
		p.contained = uts != hostUTS && p.self.PIDs != hostPIDs && p.self.PIDs != ""
	}
	return p.life(h)
}

// processes judges holders by one host's facts.
type processes struct {
	self      repo.LeaseHolder
	contained bool // this process has process ids and a host name to itself
	// look says that no process has a pid, or when the one that has it
	// started (0 if unknown).
	look func(pid int) (none bool, started uint64)
}

// life: a host name alone is no identity (clones, "localhost"), so the boot
// must be the same too; and process ids compare only in one namespace.
func (p processes) life(h repo.LeaseHolder) Life {
	if h.Boot == "" || h.Boot != p.self.Boot || h.Host != p.self.Host || h.PID <= 0 {
		return LifeUnknown
	}
	if h.PIDs == "" || h.PIDs != p.self.PIDs {
		// A container that was started again keeps its host name and numbers
		// its processes anew: this is us in an earlier life. In the host's
		// own network the name is the host's, and tells nothing.
		if p.contained && h.PIDs != "" && h.PID == p.self.PID {
			return LifeEnded
		}
		return LifeUnknown
	}
	if h.PID == p.self.PID && h.Started == p.self.Started {
		return LifeUnknown // this process: another keeper's, or the trace of an attempt given up
	}
	none, started := p.look(h.PID)
	switch {
	case none:
		return LifeEnded
	case started == 0 || h.Started == 0:
		return LifeUnknown
	case started != h.Started:
		return LifeEnded // its pid was given to another
	}
	return LifeRuns
}

// lookProcess asks /proc and, where another user's processes are hidden
// there, kill(2), which still tells that there is one.
func lookProcess(pid int) (none bool, started uint64) {
	if stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil {
		if state, started, err := parseStat(stat); err == nil {
			return state == 'Z' || state == 'X' || state == 'x', started // ended, not waited for yet
		}
	}
	return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH), 0
}

// parseStat reads the state and the start time, in clock ticks since boot,
// of /proc/<pid>/stat (fields 3 and 22 of proc(5)). The name in field 2 may
// hold anything, so the fields are counted from its last parenthesis.
func parseStat(b []byte) (state byte, started uint64, err error) {
	const stateAt, startedAt = 0, 22 - 3
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) <= startedAt || len(f[stateAt]) != 1 {
		return 0, 0, fmt.Errorf("process status of %d bytes has %d fields behind the name", len(b), len(f))
	}
	started, err = strconv.ParseUint(f[startedAt], 10, 64)
	return f[stateAt][0], started, err
}
