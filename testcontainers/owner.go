package testcontainers

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
)

// owner says which process made a sandbox, so that what it left behind can be
// told from what it still uses. A process id alone is used again after a
// while; with the start time and the boot it is unique on this host.
type owner struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot, as in /proc/<pid>/stat
	Boot  string `json:"boot"`  // kernel's boot id
	// Space is the namespace that PID belongs to: two containers may share a
	// directory, and neither sees the other's processes.
	Space string `json:"pid_namespace,omitempty"`
	Host  string `json:"host,omitempty"` // two hosts may share one, too
	Label string `json:"label,omitempty"`
}

func newOwner(label string) (owner, error) {
	boot, err := bootID()
	if err != nil {
		return owner{}, err
	}
	st, err := readStat(os.Getpid())
	if err != nil {
		return owner{}, fmt.Errorf("read my own process entry: %w", err)
	}
	space, err := pidSpace()
	if err != nil {
		return owner{}, err
	}
	host, err := os.Hostname()
	if err != nil {
		return owner{}, fmt.Errorf("ask for my host's name: %w", err)
	}
	return owner{PID: os.Getpid(), Start: st.start, Boot: boot, Space: space, Host: host, Label: label}, nil
}

// alive reports whether the owner still runs. An unreadable entry counts as
// alive, and so does one whose processes cannot be seen from here: nothing is
// taken away on a doubt.
func (o owner) alive() bool {
	if host, err := os.Hostname(); err != nil || (o.Host != "" && o.Host != host) {
		return true
	}
	boot, err := bootID()
	if err != nil {
		return true
	}
	if boot != o.Boot {
		return false
	}
	if space, err := pidSpace(); err != nil || (o.Space != "" && o.Space != space) {
		return true
	}
	st, err := readStat(o.PID)
	if errors.Is(err, os.ErrNotExist) {
		return false
	}
	return err != nil || (st.start == o.Start && st.state != 'Z')
}

func (o owner) encode() ([]byte, error) { return json.Marshal(o) }

func decodeOwner(b []byte) (owner, error) {
	var o owner
	if err := json.Unmarshal(b, &o); err != nil {
		return owner{}, fmt.Errorf("read a sandbox's owner: %w", err)
	}
	if o.PID <= 0 || o.Boot == "" {
		return owner{}, errors.New("read a sandbox's owner: incomplete entry")
	}
	return o, nil
}

func pidSpace() (string, error) {
	s, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return "", fmt.Errorf("read my process namespace: %w", err)
	}
	return s, nil
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
