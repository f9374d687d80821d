package pgserver

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// freeSharedMemory gives back the System V segment that a killed server left:
// 56 bytes, which a kernel has only some thousands of, and which PostgreSQL
// itself frees only when it is started again on the same directory. Failing
// to is not worth an error.
func freeSharedMemory(dataDir string) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if err != nil {
		return
	}
	key, id, ok := parseSharedMemory(string(b))
	if !ok {
		return
	}
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil {
		return
	}
	// The number may meanwhile be another's segment: the key tells.
	if desc.Nattch == 0 && uint32(desc.Perm.Key) == uint32(key) {
		_, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	}
}

// parseSharedMemory reads line 7 of postmaster.pid, "key id" (source:
// PostgreSQL's src/include/utils/pidfile.h).
func parseSharedMemory(file string) (key uint64, id int, ok bool) {
	lines := strings.Split(file, "\n")
	if len(lines) < 7 {
		return 0, 0, false
	}
	f := strings.Fields(lines[6])
	if len(f) != 2 {
		return 0, 0, false
	}
	key, err1 := strconv.ParseUint(f[0], 10, 64)
	id, err2 := strconv.Atoi(f[1])
	return key, id, err1 == nil && err2 == nil
}
