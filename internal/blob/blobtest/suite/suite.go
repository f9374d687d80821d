// Package suite runs the conformance suite of blob.Store from a driver's
// tests, and deepens it where time does not matter. It is apart from blobtest
// so that the product binary does not link "testing".
package suite

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/blobtest"
)

// Test runs every check on stores made by open, which must be empty. Stores
// are used concurrently; open cleans up through t.
func Test(t *testing.T, open func(t *testing.T) blob.Store) {
	t.Run("conformance", func(t *testing.T) {
		report(t, blobtest.Run(t.Context(), open(t), "probe/one"))
	})
	t.Run("side by side", func(t *testing.T) { testSideBySide(t, open(t)) })
	t.Run("lists against a model", func(t *testing.T) { testLists(t, open(t)) })
	t.Run("churn in one directory", func(t *testing.T) { testChurn(t, open(t)) })
}

func report(t *testing.T, results []blobtest.Result) {
	t.Helper()
	for _, r := range results {
		if !r.OK {
			t.Errorf("%s: %s", r.Name, r.Detail)
		}
	}
}

// testSideBySide runs the suite twice at once on one store: two users
// of one store must not disturb each other.
func testSideBySide(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 2 {
		wg.Go(func() { report(t, blobtest.Run(t.Context(), s, fmt.Sprintf("probe/%d", i))) })
	}
	wg.Wait()
}

// testLists compares random listings of random keys with a sorted slice.
func testLists(t *testing.T, s blob.Store) {
	rng := rand.New(rand.NewPCG(7, 7))
	keys := randomKeys(rng, 70)
	for _, k := range keys {
		if err := s.Create(t.Context(), k, nil, blob.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 300 {
		k := keys[rng.IntN(len(keys))]
		prefix := k[:rng.IntN(len(k)+1)]
		var opt blob.ListOptions
		if rng.IntN(2) == 0 {
			k = keys[rng.IntN(len(keys))]
			opt.After = k[:rng.IntN(len(k)+1)]
		}
		opt.Dirs = rng.IntN(3) == 0
		got := list(t, s, prefix, opt)
		if want := model(keys, prefix, opt); !slices.Equal(got, want) {
			t.Fatalf("list %q %+v:\n got %q\nwant %q", prefix, opt, got, want)
		}
	}
}

func list(t *testing.T, s blob.Store, prefix string, opt blob.ListOptions) []string {
	t.Helper()
	var keys []string
	err := s.List(t.Context(), prefix, opt, func(o blob.Object) error {
		keys = append(keys, o.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func model(keys []string, prefix string, opt blob.ListOptions) []string {
	var want []string
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, prefix)
		if i := strings.IndexByte(rest, '/'); opt.Dirs && i >= 0 {
			k = prefix + rest[:i+1]
		}
		if ok && k > opt.After && !slices.Contains(want, k) {
			want = append(want, k)
		}
	}
	return want
}

// randomKeys makes sorted keys of few letters, none the directory of another.
func randomKeys(rng *rand.Rand, n int) []string {
	const letters = "ab-.0_Z"
	seen := map[string]bool{}
	var keys []string
	for len(keys) < n {
		var b strings.Builder
		for depth := 1 + rng.IntN(3); depth > 0; depth-- {
			b.WriteString("abZ"[rng.IntN(3):][:1])
			for range rng.IntN(3) {
				b.WriteByte(letters[rng.IntN(len(letters))])
			}
			if depth > 1 {
				b.WriteByte('/')
			}
		}
		key := b.String()
		if seen[key] || slices.ContainsFunc(keys, func(k string) bool {
			return strings.HasPrefix(k, key+"/") || strings.HasPrefix(key, k+"/")
		}) {
			continue
		}
		seen[key] = true
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// testChurn creates and deletes in the same deep directory from many sides:
// pruning an empty directory must never fail or undo a creation in it.
func testChurn(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			key := fmt.Sprintf("churn/a/b/c/%d", i)
			for range 12 {
				if err := s.Create(ctx, key, []byte(key), blob.CreateOptions{}); err != nil {
					t.Errorf("create: %v", err)
					return
				}
				if _, err := s.Stat(ctx, key); err != nil {
					t.Errorf("created, then: %v", err)
					return
				}
				if err := s.Delete(ctx, key); err != nil {
					t.Errorf("delete: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	if left := list(t, s, "", blob.ListOptions{Dirs: true}); len(left) != 0 {
		t.Errorf("left after the churn: %q", left)
	}
}
