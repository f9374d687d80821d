package agent

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

// What stands in the directory of fetched log.
const (
	askedName  = "asked" // the name last asked for
	lockName   = "lock"  // flock'ed by the running prefetcher, whose pid it holds
	logName    = "log"   // what the last prefetcher had to say
	partSuffix = ".part" // NAME.part: being written by the prefetcher
	tempPrefix = "fetch-"
	// NAME.<64 hexadecimal digits> is a piece fetched ahead.
)

const (
	fetchedPoll = 2 * time.Millisecond
	// stopWait is how long a prefetcher gets to end by itself, and then to
	// end by SIGKILL.
	stopWait = 5 * time.Second
	// tempAge leaves a temporary file's writer the time to lock it.
	tempAge = 5 * time.Second
)

// fetched is the directory in which log is put together before it is handed
// to the server: what the prefetcher has ready, and what a fetch is writing.
// It lies beside the plan, not in the server's log directory, which a base
// backup or pg_rewind of the restored server would read.
//
// Its files are not fsynced, and after a crash of the machine one may be
// there with bytes missing, zeroed or from elsewhere. So the name of a ready
// piece carries a BLAKE3 of plan, name and bytes, and nothing is handed over
// whose bytes do not have it.
type fetched struct {
	dir  string
	plan [32]byte // of the plan file
}

func (d fetched) path(name string) string { return filepath.Join(d.dir, name) }

// sum begins the hash of a piece.
func (d fetched) sum(name string) hash.Hash {
	h := blake3.New()
	_, _ = h.Write(d.plan[:])
	_, _ = h.Write(append(binary.BigEndian.AppendUint64(nil, uint64(len(name))), name...))
	return h
}

// ask leaves a name for the prefetcher, and makes the directory.
func (d fetched) ask(name string) error {
	if err := os.Mkdir(d.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return os.WriteFile(d.path(askedName), []byte(name), 0o600)
}

// asked is the name last asked for, and when; fs.ErrNotExist once the
// prefetcher is to end.
func (d fetched) asked() (string, time.Time, error) {
	info, err := os.Stat(d.path(askedName))
	if err != nil {
		return "", time.Time{}, err
	}
	b, err := os.ReadFile(d.path(askedName))
	return string(b), info.ModTime(), err
}

// lockFile opens the lock; make: even if it is not there yet.
func (d fetched) lockFile(make bool) (*os.File, error) {
	flag := os.O_RDWR
	if make {
		flag |= os.O_CREATE
	}
	return os.OpenFile(d.path(lockName), flag, 0o600)
}

func tryLock(f *os.File, how int) bool { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) == nil }

// running says whether a prefetcher holds the lock.
func (d fetched) running() bool {
	f, err := d.lockFile(true)
	if err != nil {
		return false
	}
	defer f.Close() // and with it the lock
	return !tryLock(f, unix.LOCK_SH)
}

// lock makes this process the prefetcher until it ends or calls unlock; nil
// if there is another one. fs.ErrNotExist if the feed was removed.
func (d fetched) lock(ctx context.Context) (unlock func(), err error) {
	f, err := d.lockFile(false)
	if err != nil {
		return nil, err
	}
	// A fetch that looks for a prefetcher holds the lock for an instant.
	for n := 0; !tryLock(f, unix.LOCK_EX); n++ {
		if n == 50 || ctx.Err() != nil {
			f.Close()
			return nil, ctx.Err()
		}
		time.Sleep(fetchedPoll)
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// stop ends the prefetcher and keeps others from starting until unlock. The
// lock is free only when the process is gone.
func (d fetched) stop() (unlock func(), err error) {
	f, err := d.lockFile(false)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(d.path(askedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Close()
		return nil, err
	}
	for killed := false; ; killed = true {
		for range stopWait / fetchedPoll {
			if tryLock(f, unix.LOCK_EX) {
				return func() { f.Close() }, nil
			}
			time.Sleep(fetchedPoll)
		}
		if killed {
			f.Close()
			return nil, errors.New("it did not end on SIGKILL")
		}
		// Whoever holds the lock has written its own pid there.
		b, err := io.ReadAll(f)
		if pid, perr := strconv.Atoi(string(b)); err == nil && perr == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
}

// content is what a look at the directory found.
type content struct {
	ready map[string]string // name → file name
	parts []string          // names
	temps []string          // file names
}

func (d fetched) look() (content, error) {
	c := content{ready: map[string]string{}}
	entries, err := os.ReadDir(d.dir)
	for _, e := range entries {
		name, suffix, _ := strings.Cut(e.Name(), ".")
		switch {
		case strings.HasPrefix(e.Name(), tempPrefix):
			c.temps = append(c.temps, e.Name())
		case "."+suffix == partSuffix:
			c.parts = append(c.parts, name)
		case len(suffix) == 64:
			c.ready[name] = e.Name()
		}
	}
	return c, err
}

// take hands over a piece that was fetched ahead, waiting for the prefetcher
// where it is on this very piece. false: it is not to be had, or not whole.
func (d fetched) take(ctx context.Context, name, dst string, wait time.Duration) bool {
	end := time.Now().Add(wait)
	for again := true; ; {
		c, err := d.look()
		if err != nil {
			return false
		}
		if file, ok := c.ready[name]; ok {
			return d.handOver(name, file, dst)
		}
		writing := false
		for _, p := range c.parts {
			writing = writing || p == name
		}
		if writing = writing && d.running(); !writing && !again {
			return false
		}
		again = writing // it may have been renamed while we looked
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
		if writing {
			time.Sleep(fetchedPoll)
		}
	}
}

// handOver checks a ready piece and puts it in place of dst. What fails the
// check is removed.
func (d fetched) handOver(name, file, dst string) bool {
	f, err := os.Open(d.path(file))
	if err != nil {
		return false
	}
	defer f.Close()
	h := d.sum(name)
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{f}, make([]byte, 1<<20))
	if err != nil || file != name+"."+hex.EncodeToString(h.Sum(nil)) {
		_ = os.Remove(d.path(file))
		return false
	}
	return place(d.path(file), dst) == nil
}

// write fetches a piece ahead.
func (d fetched) write(name string, fetch func(w io.Writer) error) (err error) {
	part := d.path(name + partSuffix)
	f, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			_ = os.Remove(part)
		}
	}()
	h := d.sum(name)
	if err := fetch(io.MultiWriter(f, h)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(part, d.path(name+"."+hex.EncodeToString(h.Sum(nil))))
}

// fetch lets get write a piece to a temporary file and puts it in place of dst
// when it is complete; nothing is left behind on failure, and what a killed
// fetch left is removed by the next. The file is not fsynced: a server that
// crashes during replay fetches it again.
func (d fetched) fetch(dst string, get func(w *os.File) error) (err error) {
	if err := os.Mkdir(d.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make a directory for the log: %w", err)
	}
	d.sweepTemps()
	f, err := os.CreateTemp(d.dir, tempPrefix)
	if err != nil {
		return fmt.Errorf("make a file for the log: %w", err)
	}
	defer f.Close() // closed twice after success: harmless
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if !tryLock(f, unix.LOCK_EX) {
		return fmt.Errorf("lock %s: somebody else holds it", f.Name())
	}
	if err := get(f); err != nil {
		return err
	}
	if err := place(f.Name(), dst); err != nil {
		return err
	}
	return f.Close()
}

// sweepTemps removes the temporary files that no living fetch has locked.
func (d fetched) sweepTemps() {
	c, _ := d.look()
	for _, name := range c.temps {
		f, err := os.OpenFile(d.path(name), os.O_RDWR, 0)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && time.Since(info.ModTime()) > tempAge && tryLock(f, unix.LOCK_EX) {
			_ = os.Remove(d.path(name))
		}
		f.Close()
	}
}

// place renames a complete file to dst; across file systems (a pg_wal on
// another disk) it copies it beside dst first. One fixed name there, so that
// kills leave at most one file, which the next delivery replaces.
func place(from, dst string) error {
	err := os.Rename(from, dst)
	if !errors.Is(err, unix.EXDEV) {
		if err != nil {
			return fmt.Errorf("put the log's file in place: %w", err)
		}
		return nil
	}
	beside := filepath.Join(filepath.Dir(dst), "."+filepath.Base(dst)+".holdfast")
	if err := copyFile(from, beside); err != nil {
		_ = os.Remove(beside)
		return fmt.Errorf("put the log's file in place: %w", err)
	}
	if err := os.Rename(beside, dst); err != nil {
		return fmt.Errorf("put the log's file in place: %w", err)
	}
	_ = os.Remove(from)
	return nil
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	// Never the file an orphaned fetch still writes to.
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}
