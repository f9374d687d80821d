package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// recoveryRoom is how many WAL segments a recovering server keeps at least
// beside the data: the one it reads, the one it fetches, and its own first.
const recoveryRoom = 4

// Preflight refuses, before anything is written: a base that is not ours, a
// target before the base is consistent, a directory with something in
// it, a parent that cannot be written to, a disk that is too small.
func (restorer) Preflight(ctx context.Context, p *engines.RestorePlan, dir string) error {
	what := "restore into " + dir
	d, err := ParseDetails(p.Base.Details)
	if err != nil {
		return hferr.New(what, err, "")
	}
	if p.Base.Engine != "postgres" {
		return hferr.New(what, fmt.Errorf("backup %s is of a %q database", p.Base.ID, p.Base.Engine), "")
	}
	if t := p.Goal.Time; !t.IsZero() && t.Before(p.Base.StopTime) {
		return hferr.New(what, fmt.Errorf("backup %s is consistent from %s on, after the target time %s", p.Base.ID,
			p.Base.StopTime.UTC().Format(targetTimeFormat), t.UTC().Format(targetTimeFormat)), "choose an earlier backup or a later time")
	}
	if s := p.Stop; s != nil && s.At < p.Base.Stop {
		return hferr.New(what, fmt.Errorf("backup %s is consistent from %s on, the target is %s", p.Base.ID, FormatLSN(p.Base.Stop), FormatLSN(s.At)),
			"choose an earlier backup or a later target")
	}
	if err := checkEmpty(dir); err != nil {
		return err
	}
	place, err := existingParent(dir)
	if err != nil {
		return hferr.New(what, err, "")
	}
	if err := unix.Access(place, unix.W_OK|unix.X_OK); err != nil {
		return hferr.New(what, fmt.Errorf("%s cannot be written to: %w", place, err), "run as the directory's owner, or choose another directory")
	}
	need := p.Base.Bytes + recoveryRoom*d.WALSegmentSize
	free, err := freeSpace(place)
	if err != nil {
		return hferr.New(what, err, "")
	}
	if free < need {
		return hferr.New(what, fmt.Errorf("%s has %s free (%d bytes), the restore needs %s (%d bytes: %d of the backup and %d WAL segments)",
			place, humanize.IBytes(uint64(free)), free, humanize.IBytes(uint64(need)), need, p.Base.Bytes, recoveryRoom), "free some space or choose another disk")
	}
	return ctx.Err()
}

// existingParent is dir itself or the nearest directory above it that exists.
func existingParent(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		if err == nil && !info.IsDir() {
			return "", fmt.Errorf("%s is not a directory", dir)
		}
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// freeSpace is what this user may still write there, bytes.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("ask for the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil
}
