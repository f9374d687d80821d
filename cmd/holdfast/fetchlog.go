package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

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
}

func (a *app) fetchLogCommand() *cobra.Command {
	var fl fetchFlags
	c := &cobra.Command{
		Use:   "fetch-log NAME DESTINATION",
		Short: "Plumbing: deliver one piece of log to a recovering server",
		Long: `A recovering server's restore_command. It serves the plan that restore or a
drill fixed beforehand. Exit status: 0 delivered; 1 the plan ends before it, so
recovery may end here; 200 anything else, so that recovery must stop.`,
		Args: cobra.RangeArgs(0, 2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.runFetchLog(cmd.Context(), args, fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.plan, "plan", "", "plan file that restore wrote")
	f.StringVar(&fl.socket, "socket", "", "socket of a running drill")
	f.BoolVar(&fl.done, "done", false, "recovery has ended: remove the plan and its key")
	c.MarkFlagsOneRequired("plan", "socket")
	c.MarkFlagsMutuallyExclusive("plan", "socket")
	return c
}

func (a *app) runFetchLog(ctx context.Context, args []string, fl fetchFlags) error {
	if fl.done {
		return agent.RemoveFeed(fl.plan)
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
	feed, _, err := agent.Deps{Log: a.log, Clock: a.clock}.OpenFeed(ctx, fl.plan, engineByName, openStore)
	if err != nil {
		return err
	}
	return wal.FetchToFile(ctx, func(ctx context.Context, w io.Writer) error { return feed.Fetch(ctx, name, w) }, dst)
}
