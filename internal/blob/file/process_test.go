package file_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
)

const (
	processes   = 4
	raceKeys    = 25
	churnRounds = 30
)

// TestMain lets this binary be its own second process.
func TestMain(m *testing.M) {
	role := os.Getenv("FILE_TEST_ROLE")
	if role == "" {
		os.Exit(m.Run())
	}
	if err := runChild(role, os.Getenv("FILE_TEST_DIR"), os.Getenv("FILE_TEST_ID")); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// child is this binary in another role.
func child(t *testing.T, role, dir string, id int) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "FILE_TEST_ROLE="+role, "FILE_TEST_DIR="+dir, "FILE_TEST_ID="+strconv.Itoa(id))
	return cmd
}

func runChild(role, dir, id string) error {
	s, err := file.Open(dir, file.Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Println("ready")
	ctx := context.Background()
	switch role {
	case "limit":
		return limited(ctx, s)
	case "denied":
		return denied(ctx, s)
	}
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until all are ready
		return err
	}
	switch role {
	case "race":
		return race(ctx, s, id)
	case "count":
		return count(ctx, s, id)
	}
	return churn(ctx, s, id)
}

func raceKey(i int) string { return fmt.Sprintf("r/%02d/o", i) }

// raceBody is long enough for two writers to be amid it at once.
func raceBody(id string, i int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("process %s, key %d\n", id, i), 5000))
}

// race tries to create every key, and tells which it got.
func race(ctx context.Context, s *file.Store, id string) error {
	for i := range raceKeys {
		err := s.Create(ctx, raceKey(i), raceBody(id, i), blob.CreateOptions{})
		switch {
		case err == nil:
			fmt.Println("won", i)
		case !errors.Is(err, blob.ErrExists):
			return err
		}
	}
	return nil
}

// churn makes and empties directories that the other processes use too.
func churn(ctx context.Context, s *file.Store, id string) error {
	for range churnRounds {
		key := "c/d/e/" + id
		if err := s.Create(ctx, key, []byte(id), blob.CreateOptions{}); err != nil {
			return err
		}
		if _, err := s.Stat(ctx, key); err != nil {
			return fmt.Errorf("created, then: %w", err)
		}
		if err := s.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// herd starts all children, lets them go at once, and returns their output.
func herd(t *testing.T, role, dir string) []string {
	t.Helper()
	var cmds []*exec.Cmd
	var gates []io.Closer
	var outs []*bufio.Reader
	for id := range processes {
		cmd := child(t, role, dir, id)
		gate, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = cmd.Stdout
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds, gates, outs = append(cmds, cmd), append(gates, gate), append(outs, bufio.NewReader(out))
	}
	for id, out := range outs {
		if line, err := out.ReadString('\n'); line != "ready\n" {
			t.Fatalf("process %d: %q, %v", id, line, err)
		}
	}
	for _, gate := range gates {
		if err := gate.Close(); err != nil {
			t.Fatal(err)
		}
	}
	said := make([]string, processes)
	for id, cmd := range cmds {
		rest, _ := io.ReadAll(outs[id])
		if err := cmd.Wait(); err != nil {
			t.Fatalf("process %d: %v\n%s", id, err, rest)
		}
		said[id] = string(rest)
	}
	return said
}

// TestProcessesRace: of several processes exactly one gets each key, and the
// object is the one it wrote.
func TestProcessesRace(t *testing.T) {
	dir := t.TempDir()
	winner := map[int]int{}
	for id, said := range herd(t, "race", dir) {
		for line := range strings.Lines(said) {
			var i int
			if _, err := fmt.Sscanf(line, "won %d", &i); err != nil {
				t.Fatalf("process %d said %q", id, line)
			}
			if other, taken := winner[i]; taken {
				t.Fatalf("processes %d and %d both created key %d", id, other, i)
			}
			winner[i] = id
		}
	}
	s := open(t, dir)
	for i := range raceKeys {
		id, ok := winner[i]
		if !ok {
			t.Fatalf("nobody created key %d", i)
		}
		got, err := get(t.Context(), s, raceKey(i))
		if err != nil || string(got) != string(raceBody(strconv.Itoa(id), i)) {
			t.Fatalf("key %d does not hold what its winner, process %d, wrote: %v", i, id, err)
		}
	}
	noTemp(t, dir)
}

// TestProcessesChurn: pruning in one process and creation in another.
func TestProcessesChurn(t *testing.T) {
	dir := t.TempDir()
	for id, said := range herd(t, "churn", dir) {
		if said != "" {
			t.Errorf("process %d said %q", id, said)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != ".tmp" {
		t.Fatalf("left: %v, %v", left, err)
	}
}
