package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

const (
	// socketMax is the longest path of a unix socket on Linux, in bytes, and
	// socketRoom what we leave of it for a socket below the sandbox's Dir
	// (".s.PGSQL.65535" in a short directory).
	socketMax, socketRoom = 107, 24

	placePrefix = "hf-"
	ownerFile   = "owner.json"
	dataName    = "s"   // short: it is part of every socket's path
	shareName   = "bin" // shared files, read-only for the servers
)

// home is the directory tree of one sandbox on this host:
//
//	hf-<random>/            ours, mode 0711
//	hf-<random>/owner.json  who made it, for Reap
//	hf-<random>/s/          Sandbox.Dir, the servers' own
//	hf-<random>/bin/        shared files, which servers may read and run
//
// Both providers use it. What decides over deletion (owner.json) is out of
// the servers' reach.
type home struct {
	root string
	user account
	data *os.Root // s/, so that no symbolic link inside leads Own outside
}

func newHome(spec Spec, user account) (*home, error) {
	dir, err := filepath.Abs(spec.Dir)
	if spec.Dir == "" || err != nil {
		return nil, hferr.NewUsage("make a sandbox", errors.New("no directory was given for it"), "name an existing directory")
	}
	// MkdirTemp adds up to ten digits.
	if n := len(filepath.Join(dir, placePrefix+"0123456789", dataName)) + socketRoom; n > socketMax {
		return nil, hferr.NewUsage("make a sandbox in "+dir,
			fmt.Errorf("the path is %d bytes too long for unix sockets below it", n-socketMax),
			"choose a directory with a shorter path, such as "+os.TempDir())
	}
	if err := user.canEnter(dir); err != nil {
		return nil, err
	}
	o, err := newOwner(spec.Label)
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp(dir, placePrefix)
	if err != nil {
		return nil, fmt.Errorf("make a sandbox: %w", err)
	}
	h := &home{root: root, user: user}
	if err := h.fill(o); err != nil {
		return nil, errors.Join(err, h.remove())
	}
	return h, nil
}

func (h *home) fill(o owner) error {
	b, err := o.encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(h.root, ownerFile), b, 0o600); err != nil {
		return fmt.Errorf("make a sandbox: %w", err)
	}
	for _, d := range []struct {
		path string
		mode os.FileMode
	}{{h.root, 0o711}, {h.dir(), 0o700}, {h.shared(), 0o755}} {
		if err := os.Mkdir(d.path, d.mode); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a sandbox: %w", err)
		}
		if err := os.Chmod(d.path, d.mode); err != nil { // whatever the umask is
			return fmt.Errorf("make a sandbox: %w", err)
		}
	}
	if !h.user.self {
		if err := os.Chown(h.dir(), int(h.user.uid), int(h.user.gid)); err != nil {
			return fmt.Errorf("give the sandbox to %s: %w", h.user.name, err)
		}
	}
	h.data, err = os.OpenRoot(h.dir())
	if err != nil {
		return fmt.Errorf("open the sandbox: %w", err)
	}
	return nil
}

func (h *home) dir() string    { return filepath.Join(h.root, dataName) }
func (h *home) shared() string { return filepath.Join(h.root, shareName) }

// share puts a file into the shared directory, by hard link where that gives
// the right mode at no cost, else as a copy, and returns its host path. The
// same file twice is the same path; another file of the same name is an error.
func (h *home) share(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("share a file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return "", fmt.Errorf("share %s: not a regular file", file)
	}
	to := filepath.Join(h.shared(), filepath.Base(file))
	if had, err := os.Stat(to); err == nil {
		if os.SameFile(had, info) || (had.Size() == info.Size() && !had.ModTime().Before(info.ModTime())) {
			return to, nil
		}
		return "", fmt.Errorf("share %s: another %s is already shared", file, filepath.Base(file))
	}
	if info.Mode().Perm()&0o555 == 0o555 && !h.owns(info) {
		if real, err := filepath.EvalSymlinks(file); err == nil && os.Link(real, to) == nil {
			return to, nil
		}
	}
	return to, copyFile(file, to)
}

// owns says whether the servers' user owns the file and could change it
// through a link; when servers run as us there is nothing to protect.
func (h *home) owns(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return !h.user.self && (!ok || st.Uid == h.user.uid || info.Mode().Perm()&0o022 != 0)
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("share a file: %w", err)
	}
	defer func() { _ = in.Close() }()
	// A name of its own until complete: a concurrent caller never sees half.
	tmp, err := os.CreateTemp(filepath.Dir(to), ".share-")
	if err != nil {
		return fmt.Errorf("share a file: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = io.Copy(tmp, in)
	err = errors.Join(err, tmp.Chmod(0o555), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", from, err)
	}
	return nil
}

// own gives path and all below it to the servers' user.
func (h *home) own(ctx context.Context, path string) error {
	rel, err := h.inside(path)
	if err != nil || h.user.self {
		return err
	}
	err = fs.WalkDir(h.data.FS(), filepath.ToSlash(rel), func(p string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = h.data.Lchown(p, int(h.user.uid), int(h.user.gid))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("give %s to %s: %w", path, h.user.name, err)
	}
	return nil
}

// inside returns path relative to Dir, or an error if it is not below it.
func (h *home) inside(path string) (string, error) {
	rel, err := filepath.Rel(h.dir(), path)
	if err != nil || !filepath.IsLocal(rel) {
		return "", fmt.Errorf("%s is not inside the sandbox %s", path, h.dir())
	}
	return rel, nil
}

// checkSocket makes an over-long path an error that says so; the kernel's own
// answer is "invalid argument".
func (h *home) checkSocket(path string) error {
	if _, err := h.inside(path); err != nil {
		return err
	}
	if len(path) > socketMax {
		return fmt.Errorf("the socket's path has %d bytes, %d are possible: %s", len(path), socketMax, path)
	}
	return nil
}

// remove deletes the tree and makes sure that it is gone.
func (h *home) remove() error {
	if h.data != nil {
		_ = h.data.Close()
	}
	return removeTree(h.root)
}

func removeTree(root string) error {
	if !strings.HasPrefix(filepath.Base(root), placePrefix) {
		return fmt.Errorf("refusing to delete %s: not a sandbox", root)
	}
	if err := os.RemoveAll(root); err != nil {
		return fmt.Errorf("delete the sandbox %s: %w", root, err)
	}
	if _, err := os.Lstat(root); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the sandbox %s is still there: %w", root, err)
	}
	return nil
}
