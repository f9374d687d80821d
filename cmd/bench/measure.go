package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

// bench holds what all measurements share.
type bench struct {
	server *pgserver.Server
	dir    string
	binary string
	owner  *syscall.Credential
}

// tool is one way to take a full backup into an empty repository.
type tool struct {
	name    string
	repo    string
	prepare func(ctx context.Context) error
	args    []string
	env     []string
}

// measure is one run.
type measure struct {
	wall, client, server float64 // seconds
	bytes                int64   // in the repository afterwards
	peak                 int64   // resident bytes of the largest client process
}

// measure empties the tool's repository and runs it once.
func (b *bench) measure(ctx context.Context, t tool) (measure, error) {
	if err := os.RemoveAll(t.repo); err != nil {
		return measure{}, err
	}
	if err := t.prepare(ctx); err != nil {
		return measure{}, err
	}
	before, err := b.empty(t.repo)
	if err != nil {
		return measure{}, err
	}
	cpu0, err := serverCPU(b.server.PID())
	if err != nil {
		return measure{}, err
	}
	began := time.Now()
	cmd, out := b.command(ctx, t.env, t.args...)
	if err := cmd.Run(); err != nil {
		return measure{}, fmt.Errorf("%w\n%s", err, out)
	}
	m := measure{wall: time.Since(began).Seconds()}
	cpu1, err := serverCPU(b.server.PID())
	if err != nil {
		return m, err
	}
	m.server = cpu1 - cpu0
	st := cmd.ProcessState
	m.client = (st.UserTime() + st.SystemTime()).Seconds()
	if ru, ok := st.SysUsage().(*syscall.Rusage); ok {
		m.peak = ru.Maxrss << 10
	}
	after, err := treeSize(t.repo)
	m.bytes = after - before
	return m, err
}

func (b *bench) empty(repo string) (int64, error) {
	n, err := treeSize(repo)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return n, err
}

// command runs as the server's user, as both tools would in production.
func (b *bench) command(ctx context.Context, env []string, args ...string) (*exec.Cmd, *bytes.Buffer) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "HOME=" + b.dir}, env...)
	cmd.Dir = b.dir
	if b.owner != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: b.owner}
	}
	return cmd, out
}

// tools prepares a place and a configuration for each.
func (b *bench) tools(ctx context.Context) ([]tool, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(b.server.DataDir(), &st); err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 {
		b.owner = &syscall.Credential{Uid: st.Uid, Gid: st.Gid}
	}
	home := filepath.Join(b.dir, "w")
	if err := os.Mkdir(home, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chown(home, int(st.Uid), int(st.Gid)); err != nil {
		return nil, err
	}
	b.dir = home
	hf, err := b.holdfast()
	if err != nil {
		return nil, err
	}
	br, err := b.pgbackrest()
	return append(hf, br...), err
}

// holdfast: encryption and self-check on, as by default, and once without the
// self-check to show its price.
func (b *bench) holdfast() ([]tool, error) {
	src, err := os.ReadFile(b.binary)
	if err != nil {
		return nil, err
	}
	bin := filepath.Join(b.dir, "holdfast")
	if err := os.WriteFile(bin, src, 0o755); err != nil {
		return nil, err
	}
	repo := filepath.Join(b.dir, "hf-repo")
	pass := filepath.Join(b.dir, "hf.pass")
	if err := b.ownFile(pass, "a passphrase for the benchmark\n"); err != nil {
		return nil, err
	}
	url := fmt.Sprintf("postgres://postgres@/postgres?host=%s&port=%d", b.server.SocketDir(), b.server.Port())
	env := []string{"HOLDFAST_REPO=file://" + repo, "HOLDFAST_PASSPHRASE_FILE=" + pass}
	prepare := func(ctx context.Context) error {
		cmd, out := b.command(ctx, env, bin, "init")
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("holdfast init: %w\n%s", err, out)
		}
		return nil
	}
	args := []string{bin, "backup", url, "--name", "bench", "--full", "--no-heartbeat"}
	return []tool{
		{"holdfast (encrypted, self-check)", repo, prepare, args, env},
		{"holdfast --no-self-check", repo, prepare, append(append([]string{}, args...), "--no-self-check"), env},
	}, nil
}

// pgbackrest: two processes, fast start, zstd, not encrypted, no archiving.
func (b *bench) pgbackrest() ([]tool, error) {
	if _, err := exec.LookPath("pgbackrest"); err != nil {
		return nil, fmt.Errorf("%w: install it with `go run ./testcontainers/provision pgbackrest`", err)
	}
	var out []tool
	for _, level := range []int{3, 1} {
		repo := filepath.Join(b.dir, fmt.Sprintf("br-repo-%d", level))
		conf := filepath.Join(b.dir, fmt.Sprintf("br-%d.conf", level))
		text := fmt.Sprintf("[global]\nrepo1-path=%s\nlog-path=%s\nlock-path=%s\nspool-path=%s\nlog-level-file=off\nprocess-max=2\nstart-fast=y\ncompress-type=zst\ncompress-level=%d\narchive-check=n\n\n[bench]\npg1-path=%s\npg1-port=%d\npg1-socket-path=%s\n",
			repo, b.dir, filepath.Join(b.dir, "lock"), b.dir, level, b.server.DataDir(), b.server.Port(), b.server.SocketDir())
		if err := b.ownFile(conf, text); err != nil {
			return nil, err
		}
		base := []string{"pgbackrest", "--config=" + conf, "--stanza=bench"}
		prepare := func(ctx context.Context) error {
			cmd, o := b.command(ctx, nil, append(append([]string{}, base...), "--no-online", "stanza-create")...)
			if err := cmd.Run(); err != nil {
				return fmt.Errorf("stanza-create: %w\n%s", err, o)
			}
			return nil
		}
		out = append(out, tool{fmt.Sprintf("pgbackrest zst:%d", level), repo, prepare,
			append(append([]string{}, base...), "--type=full", "--no-archive-check", "backup"), nil})
	}
	return out, nil
}

func (b *bench) ownFile(path, text string) error {
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if b.owner == nil {
		return nil
	}
	return os.Chown(path, int(b.owner.Uid), int(b.owner.Gid))
}

// serverCPU is the CPU a postmaster, its children, and the children it has
// reaped have used, in seconds (proc(5): utime, stime, cutime, cstime).
func serverCPU(postmaster int) (float64, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0, err
	}
	const tick = 100 // USER_HZ
	var sum int64
	for _, f := range stats {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended meanwhile, and the postmaster counts it
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		_, rest, _ := strings.Cut(string(raw), ") ")
		v := strings.Fields(rest)
		if len(v) < 15 || pid != postmaster && v[1] != strconv.Itoa(postmaster) {
			continue
		}
		last := 13 // utime, stime of a child
		if pid == postmaster {
			last = 15 // and of those it has reaped
		}
		for _, s := range v[11:last] {
			n, _ := strconv.ParseInt(s, 10, 64)
			sum += n
		}
	}
	return float64(sum) / tick, nil
}

func treeSize(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type().IsRegular() {
			i, err := e.Info()
			if err != nil {
				return err
			}
			sum += i.Size()
		}
		return nil
	})
	return sum, err
}
