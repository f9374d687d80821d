package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/engines"
)

// keepSourceConf puts the source's configuration as it was beside the data:
// its postgresql.auto.conf, and the files that lay outside its data directory
// (Debian keeps them in /etc), which no server here will read.
func (c *configurator) keepSourceConf() error {
	dir := filepath.Join(c.dir, sourceConfDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	auto, err := os.ReadFile(filepath.Join(c.dir, autoConf))
	if err == nil {
		err = writeDurably(filepath.Join(dir, autoConf), auto, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var outside []string
	for _, f := range c.details.ConfFiles {
		name := filepath.Base(f.Name)
		if f.Inside || name == "." || name == string(filepath.Separator) {
			continue
		}
		head := fmt.Sprintf("# %s at the source\n", oneLine(f.Path))
		if err := writeDurably(filepath.Join(dir, name), []byte(head+f.Content), 0o600); err != nil {
			return err
		}
		outside = append(outside, name)
	}
	if len(outside) > 0 {
		c.note("The source kept %s outside its data directory; copies are in %s. Compare before clients come.", strings.Join(outside, ", "), sourceConfDir)
	}
	return nil
}

func oneLine(s string) string { return strings.NewReplacer("\n", " ", "\r", " ").Replace(s) }

// minimalHBA lets the owner of the server in over its socket and everybody
// with a password from this host.
const minimalHBA = `# Written by holdfast restore: the source kept its pg_hba.conf elsewhere.
local  all  all                peer
host   all  all  127.0.0.1/32  scram-sha-256
host   all  all  ::1/128       scram-sha-256
`

// ensureConf writes a minimal postgresql.conf and pg_hba.conf where the
// backup has none, so that the server starts from this directory alone.
func (c *configurator) ensureConf() error {
	main := "# Written by holdfast restore: the source kept its postgresql.conf elsewhere.\n"
	if libs := c.details.Settings["shared_preload_libraries"]; libs != "" {
		main += confLine("shared_preload_libraries", libs)
		c.note("shared_preload_libraries = %s, as at the source: they must be installed here.", libs)
	}
	for name, text := range map[string]string{mainConf: main, hbaConf: minimalHBA} {
		path := filepath.Join(c.dir, name)
		if _, err := os.Lstat(path); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := writeDurably(path, []byte(text), 0o600); err != nil {
			return err
		}
		c.note("Wrote a minimal %s.", name)
	}
	return nil
}

// handOver gives dir to the owner of the directory above it when root has
// restored it: package layouts (a postgres-owned /var/lib/postgresql) then
// work as they stand. Otherwise it says what to run.
func handOver(dir string, euid int) (note string, err error) {
	if euid != 0 {
		return "", nil
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(filepath.Dir(abs))
	if err != nil {
		return "", err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || st.Uid == 0 {
		return fmt.Sprintf("The files belong to root, and no server runs as root: chown -R postgres:postgres %s", shellWord(dir)), nil
	}
	err = filepath.WalkDir(abs, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(st.Uid), int(st.Gid))
	})
	return fmt.Sprintf("The files belong to user id %d, the owner of %s.", st.Uid, filepath.Dir(abs)), err
}

// instructions tell how to go on.
func (c *configurator) instructions() (engines.Instructions, error) {
	major := c.details.Major()
	notes := []string{fmt.Sprintf("Start it with PostgreSQL %s (the backup is of %s), as the owner of the directory. It opens for reads and writes on a new timeline once recovery has ended.", major, c.details.Version)}
	for _, t := range c.details.Tablespaces {
		place := filepath.Join(c.dir, "pg_tblspc", fmt.Sprint(t.OID))
		notes = append(notes, fmt.Sprintf("Tablespace %d was at %s and is now inside the data directory. To move it: let recovery end, stop the server, mv %s NEW, ln -s NEW %s.",
			t.OID, t.Location, shellWord(place), shellWord(place)))
	}
	switch s := c.plan.Stop; {
	case s == nil:
		notes = append(notes, "Recovery goes to the end of the log in the repository.")
	case s.Consistent:
		notes = append(notes, fmt.Sprintf("Recovery stops as soon as the backup is consistent, at %s.", FormatLSN(s.At)))
	case s.AtEnd:
		notes = append(notes, fmt.Sprintf("Recovery goes to %s, the end of the log of the plan.", FormatLSN(s.At)))
	default:
		notes = append(notes, fmt.Sprintf("Recovery stops before the first record at or behind %s on timeline %d.", FormatLSN(s.At), lastTimeline(c.plan)))
	}
	return engines.Instructions{
		Start: fmt.Sprintf("pg_ctl -D %s start", shellWord(c.dir)),
		Notes: append(notes, c.notes...),
	}, nil
}

func lastTimeline(p *engines.RestorePlan) uint64 { return p.Log.Legs[len(p.Log.Legs)-1].Branch.Number }
