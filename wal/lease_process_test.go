package wal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// TestMain lets this binary be another holder.
func TestMain(m *testing.M) {
	dir := os.Getenv("LEASE_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := holdLease(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// deadOptions make time say nothing: only the process can.
func deadOptions() LeaseOptions {
	return LeaseOptions{Kind: repo.LeaseStream, TTL: time.Hour, Every: time.Second}
}

// holdLease holds a lease until it is killed.
func holdLease(dir string) error {
	ctx := context.Background()
	st, err := file.Open(dir, file.Options{MustExist: true})
	if err != nil {
		return err
	}
	r, err := repo.Open(ctx, st, repo.Unlock{}, repo.Options{})
	if err != nil {
		return err
	}
	l, err := r.Lineage(ctx, "pg-1")
	if err != nil {
		return err
	}
	k, err := AcquireLease(ctx, l, deadOptions())
	if err != nil {
		return err
	}
	fmt.Println("held")
	<-k.Lost()
	return k.Err()
}

// TestLeaseOfKilledProcess: the lease of a process on this host stands while
// it lives, and may be taken as soon as it was killed, waited for or not.
func TestLeaseOfKilledProcess(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), filepath.Join(t.TempDir(), "store")
	st, err := file.Open(dir, file.Options{})
	must(t, err)
	defer st.Close()
	r, _, err := repo.Init(ctx, st, repo.InitOptions{Unencrypted: true})
	must(t, err)
	l, err := r.EnsureLineage(ctx, repo.LineageInfo{ID: "pg-1", Engine: "fake"})
	must(t, err)
	self, err := os.Executable()
	must(t, err)

	for epoch := uint64(1); epoch < 4; epoch += 2 {
		cmd := exec.CommandContext(ctx, self)
		cmd.Env = append(os.Environ(), "LEASE_TEST_DIR="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "held" {
			t.Fatalf("the child says %q, %v", line, err)
		}
		var held *LeaseHeldError
		if _, err := AcquireLease(ctx, l, deadOptions()); !errors.As(err, &held) || !held.Here ||
			held.Lease.Holder.PID != cmd.Process.Pid || held.Lease.Epoch != epoch {
			t.Fatalf("while it runs: %v", err)
		}
		must(t, cmd.Process.Kill())
		if epoch == 1 { // the second time it is left a zombie
			_ = cmd.Wait() // killed
		} else if err := waitEnded(held.Lease.Holder); err != nil {
			t.Fatal(err)
		}
		k, err := AcquireLease(ctx, l, deadOptions())
		must(t, err)
		if h, _ := k.Held(); h.Epoch != epoch+1 || h.Holder.PID != os.Getpid() {
			t.Fatalf("held %+v", h)
		}
		must(t, k.Release(ctx))
		if epoch > 1 {
			_ = cmd.Wait()
		}
	}
}

// waitEnded waits until the kernel has carried out a kill.
func waitEnded(h repo.LeaseHolder) error {
	for range 1000 {
		if ProcessLife(h) == LifeEnded {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("it does not end")
}
