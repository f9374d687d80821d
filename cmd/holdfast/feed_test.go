package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fed is a restored directory whose recovery has some way to go.
type fed struct {
	*site
	dir, plan string
	want      string // the source's content
}

// newFed restores a base with so many WAL files behind it, none yet replayed.
func newFed(t *testing.T, major string, files int) *fed {
	t.Helper()
	f := &fed{site: newSite(t, major)}
	f.exec(`alter system set wal_keep_size = '2GB'`, `select pg_reload_conf()`, `create table bulk (i int, a text)`)
	st := f.stream("--flush-every", "1s")
	f.must(append([]string{"backup"}, f.source()...)...)
	for range files {
		f.exec(`insert into bulk select i, md5(i::text) from generate_series(1, 20000) i`, `select pg_switch_wal()`)
	}
	f.exec(`insert into bulk values (0, 'in the last, partial file')`)
	f.archived()
	st.signal(syscall.SIGTERM)
	st.wait()
	f.want = f.fingerprint(f.server.AdminURL())
	f.dir = f.path("copy")
	f.plan = filepath.Join(f.dir, "holdfast.recovery", "plan.json")
	f.must("restore", databaseName, "--to", f.dir)
	return f
}

// edit changes the plan file before recovery begins.
func (f *fed) edit(old, new string) {
	f.t.Helper()
	b, err := os.ReadFile(f.plan)
	if err == nil && !bytes.Contains(b, []byte(old)) {
		err = errors.New("no " + old)
	}
	if err = errors.Join(err, os.WriteFile(f.plan, bytes.Replace(b, []byte(old), []byte(new), 1), 0o600)); err != nil {
		f.t.Fatal(err)
	}
}

// processes are the fetch-logs of this recovery, prefetchers among them.
func (f *fed) processes() (pids []int) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		b, err := os.ReadFile(l) // gone meanwhile: not one of ours any more
		args := strings.Split(string(b), "\x00")
		if err == nil && len(args) > 3 && args[1] == "fetch-log" && slices.Contains(args, f.plan) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(l)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// clean: recovery has ended and nothing of it is left.
func (f *fed) clean() {
	f.t.Helper()
	if left, err := os.ReadDir(filepath.Dir(f.plan)); !errors.Is(err, fs.ErrNotExist) {
		f.t.Errorf("files are left: %v, %v", left, err)
	}
	if pids := f.processes(); len(pids) > 0 {
		f.t.Errorf("processes are left: %v", pids)
	}
	if tmp, err := filepath.Glob(filepath.Join(f.dir, "pg_wal", ".*")); err != nil || len(tmp) > 0 {
		f.t.Errorf("temporary files are left in pg_wal: %v, %v", tmp, err)
	}
}

// ends waits until the server has given up.
func (f *fed) ends(c *copyServer) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.ctx, time.Minute)
	defer cancel()
	if err := c.proc.Wait(ctx); err == nil || ctx.Err() != nil {
		f.t.Fatalf("the server did not end with an error: %v\n%s", err, c.log)
	}
}

// finish boots once more, lets recovery end and compares the content.
func (f *fed) finish() {
	f.t.Helper()
	f.complete(f.boot(f.dir))
}

// complete compares the content of a copy that opened, and stops it.
func (f *fed) complete(c *copyServer) {
	f.t.Helper()
	if err := c.log.wait(f.ctx, "ready to accept connections"); err != nil {
		f.t.Fatalf("%v\n%s", err, c.log)
	}
	var recovering bool
	for recovering = true; recovering; { // a hot standby accepts connections before
		f.query(c.url(), `select pg_is_in_recovery()`, &recovering)
	}
	defer func() { _ = c.proc.Signal(f.ctx, int(syscall.SIGINT)) }()
	if got := f.fingerprint(c.url()); got != f.want {
		f.t.Errorf("the copy differs from its source\nsource:\n%scopy:\n%s", f.want, got)
	}
	f.clean()
}

// delivered compares the WAL files that recovery was given with the source's;
// the plan ends inside the last.
func (f *fed) delivered() (n int) {
	f.t.Helper()
	got, err := filepath.Glob(filepath.Join(f.dir, "pg_wal", strings.Repeat("[0-9A-F]", 24)))
	if err != nil {
		f.t.Fatal(err)
	}
	var end string
	f.query(f.server.AdminURL(), `select pg_walfile_name(pg_current_wal_lsn())`, &end)
	for _, path := range got {
		have, err1 := os.ReadFile(path)
		source, err2 := os.ReadFile(filepath.Join(f.server.DataDir(), "pg_wal", filepath.Base(path)))
		if err := errors.Join(err1, err2); err != nil {
			f.t.Fatal(err)
		}
		if filepath.Base(path) < end && !bytes.Equal(have, source) || len(have) != len(source) {
			f.t.Errorf("%s was delivered with other bytes", filepath.Base(path))
		}
	}
	return len(got)
}

// promoted: the copy began a timeline of its own.
func (f *fed) promoted() bool {
	found, _ := filepath.Glob(filepath.Join(f.dir, "pg_wal", "*.history"))
	return len(found) > 0
}

// kill -9 of fetch-logs and prefetchers at random moments while a server
// recovers: a killed fetch-log ends the server, which is started again; the
// data is right in the end, and no file on the way was wrong.
func TestKillsWhileAServerRecovers(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		f := newFed(t, major, 12)
		r := rand.New(rand.NewPCG(3, uint64(major[1])))
		killed, ends := map[bool]int{}, 0
		for boots := 0; boots < 15 && (killed[true] < 8 || killed[false] < 8); boots++ {
			c, after := f.tryBoot(f.dir), r.IntN(9) // files replayed before the first kill
			ended := make(chan error, 1)
			go func() { ended <- c.proc.Wait(f.ctx) }()
			for running := true; running && killed[true]+killed[false] < 40; {
				select {
				case <-ended:
					running, ends = false, ends+1
				case <-time.After(time.Duration(r.Int64N(int64(20 * time.Millisecond)))):
				}
				if pids := f.processes(); len(pids) > 0 && strings.Count(c.log.String(), "restored log file") >= after {
					pid := pids[r.IntN(len(pids))]
					line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
					if syscall.Kill(pid, syscall.SIGKILL) == nil && len(line) > 0 {
						killed[bytes.Contains(line, []byte("--ahead"))]++
					}
				}
				if f.promoted() { // no kill of this start met a fetch-log: it must be whole
					f.complete(c)
					t.Logf("recovery ended after %v kills", killed)
					return
				}
			}
			_ = c.proc.Signal(f.ctx, int(syscall.SIGQUIT)) // it may have ended
			f.delivered()
		}
		t.Logf("killed %d prefetchers and %d others, the server ended %d times", killed[true], killed[false], ends)
		if killed[true] == 0 || killed[false] == 0 || ends == 0 {
			t.Errorf("killed: %v, the server ended %d times", killed, ends)
		}
		time.Sleep(time.Second) // what SIGQUIT ended
		f.finish()
	})
}

// The store goes away in the middle of a recovery: fetch-log tries for as
// long as the plan says, then ends the server; nothing is promoted. With the
// store back, the next start completes.
func TestAStoreOutageDuringRecovery(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, major string) {
		f := newFed(t, major, 12)
		f.edit(`"patience_seconds": 30`, `"patience_seconds": 1`)
		f.edit(`"files": 16`, `"files": 2`)
		c := f.tryBoot(f.dir)
		if err := c.log.wait(f.ctx, "restored log file"); err != nil {
			t.Fatalf("%v\n%s", err, c.log)
		}
		if err := os.Rename(f.repo, f.repo+".away"); err != nil {
			t.Fatal(err)
		}
		for _, pid := range f.processes() { // whose open directory goes along
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		f.ends(c)
		if f.promoted() || strings.Contains(c.log.String(), "archive recovery complete") {
			t.Fatalf("an outage ended recovery:\n%s", c.log)
		}
		// Now with nothing killed: the outage alone.
		c = f.tryBoot(f.dir)
		f.ends(c)
		if log := c.log.String(); !strings.Contains(log, "could not be opened for") || !strings.Contains(log, "exit code 200") || f.promoted() {
			t.Errorf("the server says:\n%s", log)
		}
		f.delivered()
		if err := os.Rename(f.repo+".away", f.repo); err != nil {
			t.Fatal(err)
		}
		f.finish()
	})
}

// The prefetcher is a process of its own: no descriptor of the server's is
// open in it, no signal to the server's group reaches it, and --done ends it.
func TestThePrefetcherIsDetached(t *testing.T) {
	t.Parallel()
	f := newFed(t, majors()[0], 3)
	held, inherited, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	info, err := os.Stat(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	raw, _ := os.ReadFile(filepath.Join(f.dir, "backup_label"))
	first := regexp.MustCompile(`START WAL LOCATION: \S+ \(file ([0-9A-F]{24})\)`).FindSubmatch(raw)
	if first == nil {
		t.Fatalf("backup_label: %s", raw)
	}
	dst := filepath.Join(f.dir, "pg_wal", "RECOVERYXLOG")
	cmd := exec.CommandContext(f.ctx, f.bin, "fetch-log", "--plan", f.plan, string(first[1]), dst)
	cmd.ExtraFiles = []*os.File{inherited}
	if os.Geteuid() == 0 { // as the server would
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if out, err := cmd.CombinedOutput(); err != nil { // waits for the pipe to close as well
		t.Fatalf("%v\n%s", err, out)
	}
	want, _ := os.ReadFile(filepath.Join(f.server.DataDir(), "pg_wal", string(first[1])))
	if got, err := os.ReadFile(dst); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes delivered, %v", len(got), err)
	}
	if err := errors.Join(inherited.Close(), held.SetReadDeadline(time.Now().Add(20*time.Second))); err != nil {
		t.Fatal(err)
	}
	pids := f.processes()
	if len(pids) != 1 {
		t.Fatalf("prefetchers: %v", pids)
	}
	if _, err := held.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the prefetcher keeps what it inherited: %v", err)
	}
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pids[0]))
	_, rest, _ := strings.Cut(string(stat), ") ")
	if v := strings.Fields(rest); len(v) < 4 || v[2] != strconv.Itoa(pids[0]) || v[3] != v[2] {
		t.Errorf("process group and session of %d: %s", pids[0], rest)
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pids[0])); err != nil || cwd != "/" {
		t.Errorf("it stands in %s, %v", cwd, err)
	}
	for range 2 {
		f.must("fetch-log", "--plan", f.plan, "--done")
		f.clean()
	}
	if o := f.run("fetch-log", "--plan", f.plan, string(first[1]), dst); o.code != exitAbort {
		t.Errorf("after the end: exit %d", o.code)
	}
}
