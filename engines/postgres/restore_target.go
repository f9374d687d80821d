package postgres

import (
	"context"
	"path"
	"strings"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
)

// clusterTarget turns a backup's items into a data directory: pg_control
// waits under another name, and tablespaces become directories in pg_tblspc
// ("in-place tablespaces", 15 and later), so that a copy can neither reach
// nor damage the places the source's tablespaces are at.
type clusterTarget struct{ stream.Target }

// skipItem leaves out tablespace_map, which would make recovery replace the
// directories in pg_tblspc by links to the source's locations ("could not
// remove directory", seen on 15 and 18), and what a running source had there
// of its own.
func skipItem(item repo.Item) bool {
	switch item.Path {
	case "tablespace_map", "recovery.signal", "standby.signal", "postmaster.pid", "postmaster.opts":
		return true
	}
	return false
}

// isTablespace reports whether an item is a tablespace's own entry.
func isTablespace(item repo.Item) bool {
	dir, oid := path.Split(item.Path)
	return dir == "pg_tblspc/" && oid != "" && strings.Trim(oid, "0123456789") == ""
}

// Symlink makes a link, or a tablespace's directory.
func (t *clusterTarget) Symlink(item repo.Item) error {
	if !isTablespace(item) {
		return t.Target.Symlink(item)
	}
	item.Kind, item.Link, item.Mode = repo.KindDir, "", 0o700
	return t.Mkdir(item)
}

// Create opens a file, pg_control under its waiting name.
func (t *clusterTarget) Create(item repo.Item) (stream.File, error) {
	if item.Path == controlFile {
		item.Path = controlPending
	}
	return t.Target.Create(item)
}

// Finish passes on to a target that has something to finish.
func (t *clusterTarget) Finish(ctx context.Context) error {
	if f, ok := t.Target.(stream.Finisher); ok {
		return f.Finish(ctx)
	}
	return nil
}
