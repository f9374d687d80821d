package spool

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	filestore "github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
)

const (
	kills    = 20
	passWord = "correct horse"
)

// TestMain lets this binary be the process that is killed.
func TestMain(m *testing.M) {
	dir := os.Getenv("SPOOL_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := stream(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// processOptions make a file last for a few kills, and some end amid a cut.
func processOptions() Options { return Options{Limit: 1 << 30, FileBytes: 256 << 10} }

// openLineage opens the repository in dir/repo.
func openLineage(ctx context.Context, dir string) (*repo.Lineage, error) {
	st, err := filestore.Open(dir+"/repo", filestore.Options{MustExist: true})
	if err != nil {
		return nil, err
	}
	r, err := repo.Open(ctx, st, repo.Unlock{Passphrase: secret.New(passWord)}, repo.Options{})
	if err != nil {
		return nil, err
	}
	return r.Lineage(ctx, "pg-7")
}

// stream continues the log of branch b where the spool ends, and reports each
// position that Sync returned as 8 bytes.
func stream(ctx context.Context, dir string) error {
	l, err := openLineage(ctx, dir)
	if err != nil {
		return err
	}
	s, err := OpenDir(ctx, dir+"/spool", l, processOptions())
	if err != nil {
		return err
	}
	at := Position(0)
	for _, r := range s.Held().Ranges {
		at = r.End
	}
	if err := s.Begin("b", at); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(uint64(at), 4))
	for {
		for range 1 + rng.IntN(3) {
			n := 1 + rng.IntN(2000)
			if err := s.Append(at, text("b", at, n), time.Now()); err != nil {
				return err
			}
			at += Position(n)
		}
		p, err := s.Sync()
		if err != nil {
			return err
		}
		if _, err := os.Stdout.Write(binary.BigEndian.AppendUint64(nil, uint64(p.Pos))); err != nil {
			return err
		}
	}
}

// TestKilledProcess: real processes on a real directory lose nothing of what
// Sync returned when they are killed. What a crash of the machine forgets is
// TestCrash's.
func TestKilledProcess(t *testing.T) {
	dir := t.TempDir()
	st, err := filestore.Open(dir+"/repo", filestore.Options{})
	must(t, err)
	r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Passphrase: secret.New(passWord), ScryptWork: 10, Tool: "test"})
	must(t, err)
	l, err := r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-7", Engine: "postgres", Database: "orders"})
	must(t, err)
	rng, synced, commits := rand.New(rand.NewPCG(1, 5)), Position(0), 0
	for kill := range kills {
		n, p := killOne(t, dir, rng)
		commits += n
		if n > 0 && p <= synced {
			t.Fatalf("kill %d: the process began before %d", kill, synced)
		}
		synced = max(synced, p)
		if end := replayDir(t, dir, l); end < synced {
			t.Fatalf("kill %d: synced through %d, replayed through %d", kill, synced, end)
		}
	}
	if commits < 10*kills {
		t.Errorf("only %d commits in %d processes", commits, kills)
	}
}

// killOne runs a process for a while, and returns how many positions it
// reported and the last.
func killOne(t *testing.T, dir string, rng *rand.Rand) (n int, last Position) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "SPOOL_TEST_DIR="+dir)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	in, b, stop := bufio.NewReader(out), make([]byte, 8), 1+rng.IntN(150)
	for {
		if _, err := io.ReadFull(in, b); err != nil {
			break
		}
		n, last = n+1, Position(binary.BigEndian.Uint64(b))
		if n == stop {
			time.Sleep(time.Duration(rng.IntN(1000)) * time.Microsecond) // anywhere in a commit
			must(t, cmd.Process.Kill())
		}
	}
	if err := cmd.Wait(); n < stop {
		t.Fatalf("the process ended by itself: %v\n%s", err, said.String())
	}
	return n, last
}

// replayDir checks that the spool holds the log from 0 to where it returns.
func replayDir(t *testing.T, dir string, l *repo.Lineage) (end Position) {
	t.Helper()
	s, err := OpenDir(t.Context(), dir+"/spool", l, processOptions())
	must(t, err)
	must(t, s.Replay(t.Context(), func(p Piece) error {
		if p.Branch != "b" || p.At != end || !bytes.Equal(p.Data, text("b", p.At, len(p.Data))) {
			return fmt.Errorf("%d bytes at %d of %s, expected %d", len(p.Data), p.At, p.Branch, end)
		}
		end += Position(len(p.Data))
		return nil
	}))
	must(t, s.Close())
	return end
}
