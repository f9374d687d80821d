package enginetest_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/enginetest"
	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// steppingClock moves on by a millisecond each time it is asked.
func steppingClock() func() time.Time {
	var n atomic.Int64
	start := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	return func() time.Time { return start.Add(time.Duration(n.Add(1)) * time.Millisecond) }
}

func newRepo(t *testing.T) *repo.Repo {
	t.Helper()
	r, _, err := repo.Init(t.Context(), memstore.New(time.Now), repo.InitOptions{
		Options: repo.Options{Log: slog.New(slog.DiscardHandler), Clock: time.Now}, Passphrase: secret.New("test"), ScryptWork: 10, Tool: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestFakeKeepsTheContract(t *testing.T) {
	srv := enginetest.NewServer("db", "42", steppingClock())
	provider := &enginetest.Provider{}
	enginetest.RunContract(t, enginetest.Fixture{
		Engine:  enginetest.New(srv),
		Connect: engines.ConnectOptions{URL: srv.URL(), Database: "contract", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Clock: time.Now},
		Repo:    newRepo(t),
		Write: func(_ context.Context, key, value string) error {
			return srv.Set("rows", key, value)
		},
		Query:        func(key string) (string, string) { return "", "get rows " + key },
		Provider:     provider,
		WorkDir:      t.TempDir(),
		Acknowledged: srv.Acknowledged,
		Promote:      func(context.Context) error { srv.Promote(); return nil },
	})
	if left := provider.Left(); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}
