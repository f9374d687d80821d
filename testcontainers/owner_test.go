package testcontainers_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	tc "github.com/holdfastdb/holdfast/testcontainers"
)

const (
	secretVariable = "HOLDFAST_TEST_SECRET"
	ownerVariable  = "HOLDFAST_TEST_OWNER" // makes the test binary an owner to be killed
)

// TestMain puts a secret into the environment that no child may see, and lets
// the binary play the owner that ownerDies kills.
func TestMain(m *testing.M) {
	if err := os.Setenv(secretVariable, "do not leak"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// playOwner is the life of the process that ownerDies kills.
type playOwner struct {
	Provider, Dir, Marker string
}

// ownerPlays says what the owner made.
type ownerPlays struct {
	Home string
	PIDs []int
}

// TestOwnerProcess is not a test of its own: it is what ownerDies starts.
func TestOwnerProcess(t *testing.T) {
	text := os.Getenv(ownerVariable)
	if text == "" {
		return
	}
	var o playOwner
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	box, err := providers()[o.Provider].Provision(t.Context(), tc.Spec{Engine: "postgres", Version: major, Dir: o.Dir, Label: testLabel})
	if err != nil {
		t.Fatal(err)
	}
	server, connect := startPostgres(t, box, os.Stderr)
	await(t, "the server accepts a connection", func() bool {
		c, err := connect()
		return err == nil && c.Close(context.Background()) == nil
	})
	stray, err := box.Start(t.Context(), tc.Command{Path: "sh", Args: []string{"-c", family, "sh", o.Marker}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(ownerPlays{Home: filepath.Dir(box.Dir()), PIDs: []int{server.PID(), stray.PID()}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\nOWNER %s\n", b)
	time.Sleep(time.Hour)
}

// ownerDies kills, with SIGKILL, a process that has a running server: the
// server must end by itself, and Reap must take away the rest, leaving alone
// what has a living owner.
func ownerDies(t *testing.T, p tc.Provider) {
	dir := shortDir(t)
	mine := provision(t, p, tc.Spec{Engine: "postgres", Version: major, Dir: dir, Label: testLabel})
	o := playOwner{Provider: p.Name(), Dir: dir, Marker: marker()}
	made := spawnOwner(t, o)

	await(t, "the server dies with its owner", func() bool { return !alive(made.PIDs[0]) })
	await(t, "its workers die too", func() bool { return len(postgresOf(made.Home)) == 0 })

	if got, err := tc.Reap(t.Context(), dir, "another label"); err != nil || len(got) != 0 {
		t.Errorf("Reap of another label removed %v, %v", got, err)
	}
	got, err := tc.Reap(t.Context(), dir, testLabel)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(got, made.Home) {
		t.Errorf("Reap removed %v, not %s", got, made.Home)
	}
	if _, err := os.Stat(made.Home); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead owner's directory is still there: %v", err)
	}
	await(t, "strays are gone", func() bool { return len(withMarker(o.Marker)) == 0 })
	if out := output(t, mine, "echo alive"); out != "alive" {
		t.Errorf("Reap touched a sandbox in use: %q", out)
	}
	if got, err := tc.Reap(t.Context(), dir, testLabel); err != nil || len(got) != 0 {
		t.Errorf("a second Reap removed %v, %v", got, err)
	}
}

// spawnOwner starts an owner, waits until all runs, and kills it.
func spawnOwner(t *testing.T, o playOwner) ownerPlays {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestOwnerProcess$")
	cmd.Env = append(os.Environ(), ownerVariable+"="+string(text))
	var diag buffer
	cmd.Stderr = &diag
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	var made ownerPlays
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "OWNER "); ok {
			err = json.Unmarshal([]byte(text), &made)
			break
		}
		diag.Write(lines.Bytes())
	}
	if err != nil || made.Home == "" {
		t.Fatalf("the owner did not get ready: %v\n%s", err, diag.String())
	}
	if !alive(made.PIDs[0]) {
		t.Fatalf("the owner's server %d does not run", made.PIDs[0])
	}
	if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed, as wanted
	return made
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(b), ')')
	return !strings.HasPrefix(string(b[i+1:]), " Z")
}

// postgresOf returns PostgreSQL processes that work in a local sandbox.
func postgresOf(home string) []string {
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, l := range links {
		if at, err := os.Readlink(l); err == nil && strings.HasPrefix(at, filepath.Join(home, "s", "data")) {
			found = append(found, l)
		}
	}
	return found
}
