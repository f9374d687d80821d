package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/spf13/cobra"
)

// exitAbort is what fetch-log answers for anything but "delivered" and
// "beyond the plan": above 125, PostgreSQL stops recovery instead of ending it
// and promoting (docs/postgres-restore-command.md says why this number).
const exitAbort = 200

type fetchFlags struct {
	plan   string
	socket string
	done   bool
	ahead  bool
}

func (a *app) fetchLogCommand() *cobra.Command {
	var fl fetchFlags
	c := &cobra.Command{
		Use:   "fetch-log NAME DESTINATION",
		Short: "Plumbing: deliver one piece of log to a recovering server",
		Long: `A recovering server's restore_command. It serves the plan that restore or a
drill fixed beforehand. Exit status: 0 delivered; 1 the plan ends before it, so
recovery may end here; 200 anything else, so that recovery must stop.

With --plan, a process in the background fetches the next pieces ahead of the
server into the directory "fetched" beside the plan: at most "prefetch.files"
pieces or "prefetch.bytes" (plan.json), whichever is less; 0 turns it off. It
ends with the plan, with --done, after a minute without a request, or at its
first error. A store that cannot be opened is tried again for
"patience_seconds".`,
		Args: cobra.RangeArgs(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runFetchLog(cmd.Context(), args, fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.plan, "plan", "", "plan file that restore wrote")
	f.StringVar(&fl.socket, "socket", "", "socket of a running drill")
	f.BoolVar(&fl.done, "done", false, "recovery has ended: remove the plan and its key")
	f.BoolVar(&fl.ahead, "ahead", false, "be that process in the background; fetch-log starts it by itself")
	_ = f.MarkHidden("ahead") // the flag exists
	c.MarkFlagsOneRequired("plan", "socket")
	c.MarkFlagsMutuallyExclusive("plan", "socket")
	return c
}

func (a *app) runFetchLog(ctx context.Context, args []string, fl fetchFlags) error {
	switch {
	case fl.done:
		return agent.RemoveFeed(fl.plan)
	case fl.ahead:
		a.prefetch(ctx, fl.plan)
		return nil
	}
	err := a.fetchLog(ctx, args, fl)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, wal.ErrBeyondPlan):
		return codeError(1)
	}
	fmt.Fprintf(a.err, "holdfast fetch-log: %v\n", err)
	return codeError(exitAbort)
}

func (a *app) fetchLog(ctx context.Context, args []string, fl fetchFlags) error {
	if len(args) != 2 {
		return hferr.NewUsage("fetch-log", errors.New("want NAME and DESTINATION"), "")
	}
	name, dst := args[0], args[1]
	if fl.socket != "" {
		return wal.FetchToFile(ctx, func(ctx context.Context, w io.Writer) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "unix", fl.socket)
			if err != nil {
				return err
			}
			defer conn.Close()
			return wal.FetchFrom(ctx, conn, name, w)
		}, dst)
	}
	feed, err := a.planFeed(fl.plan)
	if err != nil {
		return err
	}
	return feed.Deliver(ctx, name, dst, func() error { return startPrefetcher(fl.plan, feed.LogFile()) })
}

func (a *app) planFeed(plan string) (*agent.PlanFeed, error) {
	return agent.Deps{Log: a.log, Clock: a.clock}.OpenFeed(plan, engineByName, openStore)
}

// prefetch is the background process. It always exits with 0: where the
// server is the container's first process, it becomes this one's parent, and
// a postmaster takes another status of a child it does not know for a crash.
func (a *app) prefetch(ctx context.Context, plan string) {
	feed, err := a.planFeed(plan)
	if err == nil {
		err = feed.Prefetch(ctx)
	}
	if err != nil {
		fmt.Fprintf(a.err, "holdfast fetch-log --ahead: %v\n", err)
	}
}

// startPrefetcher starts this program again as the process in the background:
// in a session of its own, so that no signal to the server's group reaches it,
// and with none of the server's files and sockets, of which an open one would
// keep the server from noticing that its postmaster is gone.
func startPrefetcher(plan, logFile string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	plan, err = filepath.Abs(plan)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := closeOnExec(); err != nil {
		return err
	}
	cmd := exec.Command(self, "fetch-log", "--plan", plan, "--ahead") // stdin and stdout: /dev/null
	cmd.Stderr = log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// closeOnExec keeps every descriptor this process inherited from its children.
func closeOnExec() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}
