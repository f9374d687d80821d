// Package pgtest gives tests a throwaway PostgreSQL: package pgserver bound
// to a test's life. It belongs in tests only; everything else uses pgserver.
package pgtest

import (
	"context"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/testcontainers/pgserver"
)

// Start starts a server of a major version ("15") for the length of the test.
// It fails the test if the version is not on this machine (`make servers`
// gets it), and if anything is left behind; the server's log is printed when
// the test has failed.
func Start(t testing.TB, major string, o pgserver.Options) *pgserver.Server {
	t.Helper()
	o.Major = major
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	s, err := pgserver.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of PostgreSQL %s:\n%s", major, s.Log())
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("remove the throwaway server: %v", err)
		}
	})
	return s
}
