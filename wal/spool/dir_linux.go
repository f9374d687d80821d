package spool

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// diskOf asks statfs(2); the numbers are those of linux/magic.h.
func diskOf(dir string) (disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return disk{}, fmt.Errorf("statfs %s: %w", dir, err)
	}
	d := disk{free: int64(st.Bavail) * st.Bsize}
	switch uint32(st.Type) {
	case unix.TMPFS_MAGIC:
		d.kind, d.volatile = "tmpfs", true
	case unix.RAMFS_MAGIC:
		d.kind, d.volatile = "ramfs", true
	case unix.OVERLAYFS_SUPER_MAGIC:
		d.kind = "overlayfs"
		d.warning = "the spool is in a container's own layer and is lost with the container: mount a volume for it"
	case unix.NFS_SUPER_MAGIC:
		d.kind = "nfs"
		d.warning = "the spool is on a network file system: each commit waits for that server, and its word is trusted"
	default:
		d.kind = fmt.Sprintf("file system of type %#x", uint32(st.Type))
	}
	return d, nil
}
