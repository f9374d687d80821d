package testcontainers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	tc "github.com/holdfastdb/holdfast/testcontainers"
)

func signals(t *testing.T, box tc.Sandbox) {
	for _, sig := range []int{2, 9, 15} {
		p, err := box.Start(t.Context(), tc.Command{Path: "sleep", Args: []string{marker()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(t.Context(), sig); err != nil {
			t.Fatal(err)
		}
		var exit *tc.ExitError
		if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.Code != 128+sig {
			t.Errorf("after signal %d: %v", sig, err)
		}
	}
}

func cancelled(t *testing.T, box tc.Sandbox) {
	m := marker()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for len(withMarker(m)) == 0 && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
		cancel()
	}()
	if err := box.Run(ctx, tc.Command{Path: "sleep", Args: []string{m}}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled run: %v", err)
	}
	await(t, "the process ends", func() bool { return len(withMarker(m)) == 0 })
}

// family is a script that leaves orphans behind, one of which ignores every
// signal that can be ignored.
const family = `
trap '' 1 2 3 15
(sleep "$1" & sleep "$1" & )
sleep "$1" &
echo ready
wait`

func startFamily(t *testing.T, box tc.Sandbox) (tc.Process, string) {
	t.Helper()
	m := marker()
	var out buffer
	p, err := box.Start(t.Context(), tc.Command{Path: "sh", Args: []string{"-c", family, "sh", m}, Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the family runs", func() bool {
		return out.String() == "ready\n" && len(withMarker(m)) >= 4
	})
	return p, m
}

func killsAll(t *testing.T, box tc.Sandbox) {
	killer, ok := box.(tc.Killer)
	if !ok {
		t.Fatal("the sandbox is no Killer")
	}
	for range 2 {
		p, m := startFamily(t, box)
		if err := killer.KillAll(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := withMarker(m); len(left) > 0 {
			t.Errorf("still there: %v", left)
		}
		var exit *tc.ExitError
		if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.Code != 128+9 {
			t.Errorf("the killed process: %v", err)
		}
	}
	if got := output(t, box, "echo usable"); got != "usable" {
		t.Errorf("after KillAll: %q", got)
	}
}

func removes(t *testing.T, box tc.Sandbox) {
	_, m := startFamily(t, box)
	output(t, box, `mkdir -p "$1/x/y" && echo z >"$1/x/y/z"`, box.GuestPath(box.Dir()))
	var wg sync.WaitGroup
	for range 3 { // idempotent, also at once
		wg.Go(func() {
			if err := box.Remove(context.Background(), 50*time.Millisecond); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if left := withMarker(m); len(left) > 0 {
		t.Errorf("still there: %v", left)
	}
	if _, err := os.Stat(filepath.Dir(box.Dir())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is still there: %v", err)
	}
	if _, err := box.Start(t.Context(), tc.Command{Path: "true"}); err == nil {
		t.Error("a removed sandbox started a process")
	}
}

var markers atomic.Int64 // of this test process

// marker is a number of seconds that no other process sleeps for.
func marker() string {
	return fmt.Sprintf("9%d.%d", os.Getpid(), markers.Add(1)+time.Now().UnixNano()%1e6*1000)
}

// withMarker returns the processes, in containers too, that have the marker
// among their arguments.
func withMarker(m string) []string {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && bytes.Contains(b, []byte(m)) {
			found = append(found, filepath.Dir(f)+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
