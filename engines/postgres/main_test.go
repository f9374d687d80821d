package postgres

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/holdfastdb/holdfast/wal"
)

// TestMain lets the test binary stand in for holdfast where a server under
// test runs its restore_command: "fetch-log --socket S NAME FILE".
func TestMain(m *testing.M) {
	if len(os.Args) == 6 && os.Args[1] == "fetch-log" {
		err := fetchLog(context.Background(), os.Args[3], os.Args[4], os.Args[5])
		if err != nil {
			fmt.Fprintln(os.Stderr, "fetch-log:", err)
		}
		os.Exit(newRestorer().FeedExit(err))
	}
	os.Exit(m.Run())
}

func fetchLog(ctx context.Context, socket, name, file string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	return wal.FetchToFile(ctx, func(ctx context.Context, w io.Writer) error {
		return wal.FetchFrom(ctx, conn, name, w)
	}, file)
}
