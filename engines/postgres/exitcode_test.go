package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers"
)

// majorsAtHand are the versions to try a server's own behaviour on: those of
// every test, or what HOLDFAST_TEST_PG names.
func majorsAtHand() []string {
	if v := strings.Fields(os.Getenv("HOLDFAST_TEST_PG")); len(v) > 0 {
		return v
	}
	return majors
}

// The table of docs/postgres-restore-command.md: how a server takes each end
// of its restore_command. It is served the WAL files it needs to begin, and
// the file after them gets the ending.
func TestHowAServerTakesTheEndOfItsRestoreCommand(t *testing.T) {
	const promotes = "" // else what its last words in the log contain
	endings := map[string]string{
		"exit 1": promotes, "exit 2": promotes, "exit 125": promotes,
		"exit 126": "command not executable", "exit 127": "command not found",
		"exit 128": "child process exited with exit code 128", "exit 129": "exit code 129", "exit 130": "exit code 130",
		"exit 137": "exit code 137", "exit 200": "exit code 200", "exit 255": "exit code 255",
		// No FATAL line. 14 and later add "shutting down due to startup process failure".
		"exit 143": "exited with exit code 1", "kill -TERM $$": "exited with exit code 1",
		"kill -ABRT $$":  "exit code 134",
		"kill -KILL $$":  "exit code 137",
		"nosuch-command": "command not found", // 127 from the shell itself
	}
	for _, major := range majorsAtHand() {
		t.Run(major, func(t *testing.T) {
			t.Parallel()
			r := &rig{t: t, major: major}
			r.start([]string{accounts}, nil)
			if err := r.srv.StopFast(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.base = filepath.Join(t.TempDir(), "base")
			copyTree(t, r.srv.DataDir(), r.base, func(rel string) bool {
				return strings.HasPrefix(rel, "pg_wal/0") || strings.HasPrefix(rel, "postmaster.")
			})
			if err := r.srv.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			r.sql = connectTo(t, r.srv.AdminURL())
			const size = 16 << 20
			first := walNameAt(1, r.flushed(), size)
			for range 2 {
				r.exec("insert into accounts select i, 'x' from generate_series(1, 100) i", "truncate accounts", "select pg_switch_wal()")
			}
			third := walName{Timeline: 1, Segment: first.Segment + 2}.format(size)
			for ending, words := range endings {
				got, log := r.recoverWith(third, ending)
				if got != words && (words == promotes || !strings.Contains(got, words)) {
					t.Errorf("%s: %q, want %q\n%s", ending, got, words, log)
				}
			}
		})
	}
}

// recoverWith starts a copy whose restore_command delivers what lies before
// the WAL file named, and ends so for that file. It returns "" if the copy
// promoted itself to timeline 2, else its last words.
func (r *rig) recoverWith(file, ending string) (lastWords, all string) {
	r.t.Helper()
	box, log := newBox(r.t, r.major), newServerLog(nil)
	dir := filepath.Join(box.Dir(), "data")
	copyTree(r.t, r.base, dir, nil)
	script := filepath.Join(box.Dir(), "restore.sh")
	for path, text := range map[string]string{
		script:                                fmt.Sprintf("case \"$1\" in *.history) exit 1;; esac\n[ \"$1\" = %s ] || exec cp '%s'/\"$1\" \"$2\"\n%s\n", file, filepath.Join(box.Dir(), "archive"), ending),
		filepath.Join(dir, "recovery.signal"): "",
		filepath.Join(dir, autoConf): confLine("restore_command", "sh "+script+" %f %p") + confLine("recovery_target_timeline", "1") +
			confLine("hot_standby", "off"),
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	copyTree(r.t, filepath.Join(r.srv.DataDir(), "pg_wal"), filepath.Join(box.Dir(), "archive"), nil)
	if err := box.Own(r.t.Context(), box.Dir()); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	proc, err := box.Start(ctx, testcontainers.Command{Path: "postgres", Stdout: log, Stderr: log, Args: []string{
		"-D", dir, "-c", "listen_addresses=", "-c", "unix_socket_directories=" + box.Dir()}})
	if err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = proc.Wait(context.Background()); close(ended) }()
	for open := false; ; {
		var next <-chan struct{}
		if _, open, next = log.state(); open {
			break
		}
		select {
		case <-next:
			continue
		case <-ended:
		case <-ctx.Done():
			r.t.Errorf("%s: the server neither opened nor ended", ending)
		}
		break
	}
	if err := box.Remove(context.Background(), 5*time.Second); err != nil {
		r.t.Error(err)
	}
	<-ended
	all = strings.Join(log.tail, "\n")
	if _, open, _ := log.state(); open {
		if !strings.Contains(all, "selected new timeline ID: 2") {
			r.t.Errorf("%s: open, and no new timeline:\n%s", ending, all)
		}
		return "", all
	}
	if n := len(log.fatal); n > 0 {
		return log.fatal[n-1], all
	}
	for _, line := range log.tail {
		if strings.Contains(line, "startup process (PID") {
			return line, all
		}
	}
	return "nothing", all
}
