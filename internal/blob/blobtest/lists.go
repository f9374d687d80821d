package blobtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// listNames sort differently as keys and as the names of a directory.
func listNames() []string {
	return []string{"a-b", "a.c", "a/b", "a/c/d", "a/c-d", "a0", "ab/x", "b", "B"}
}

func checkList(ctx context.Context, s blob.Store, base string) error {
	keys, err := createAll(ctx, s, base, listNames())
	if err != nil {
		return err
	}
	prefixes := []string{"/", "/a", "/a/", "/a-", "/a/c", "/a/c/", "/ab", "/b", "/zzz", "/zzz/", "/a/b/", ""}
	afters := []string{"", base + "/a", base + "/a-b", base + "/a/", base + "/a/b", base + "/a/c/", base + "/a/c/d",
		base + "/a/zzz", base + "/a0", base + "/b", base + "/zzz", "zzz"}
	for _, p := range prefixes {
		for _, after := range afters {
			want := slices.DeleteFunc(slices.Clone(keys), func(k string) bool {
				return !strings.HasPrefix(k, base+p) || k <= after
			})
			got, err := listKeys(ctx, s, base+p, blob.ListOptions{After: after})
			if err != nil {
				return err
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("list of %q after %q: got %q, want %q", base+p, after, got, want)
			}
		}
	}
	return s.List(ctx, base+"/", blob.ListOptions{}, func(o blob.Object) error {
		if o.Dir || o.Modified.IsZero() || o.Size != int64(len(o.Key)) {
			return fmt.Errorf("list describes %q as %+v", o.Key, o)
		}
		return nil
	})
}

func checkDirs(ctx context.Context, s blob.Store, base string) error {
	keys, err := createAll(ctx, s, base, listNames())
	if err != nil {
		return err
	}
	for _, p := range []string{"/", "/a", "/a/", "/a/c", "/a/c/", "/ab", "/zzz", ""} {
		for _, after := range []string{"", base + "/a", base + "/a/", base + "/a/b", base + "/a0", base + "/ab/"} {
			want := dirsOf(keys, base+p, after)
			var got []string
			err := s.List(ctx, base+p, blob.ListOptions{After: after, Dirs: true}, func(o blob.Object) error {
				if o.Dir != strings.HasSuffix(o.Key, "/") {
					return fmt.Errorf("list describes %q as %+v", o.Key, o)
				}
				got = append(got, o.Key)
				return nil
			})
			if err != nil {
				return err
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("dirs of %q after %q: got %q, want %q", base+p, after, got, want)
			}
		}
	}
	return nil
}

// dirsOf is the model: sorted keys cut after the first "/" beyond the prefix.
func dirsOf(keys []string, prefix, after string) []string {
	var dirs []string
	for _, k := range keys {
		rest, ok := strings.CutPrefix(k, prefix)
		if !ok {
			continue
		}
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			k = prefix + rest[:i+1]
		}
		if k > after && !slices.Contains(dirs, k) {
			dirs = append(dirs, k)
		}
	}
	return dirs
}

func checkListStops(ctx context.Context, s blob.Store, base string) error {
	if _, err := createAll(ctx, s, base, []string{"a/1", "a/2", "b"}); err != nil {
		return err
	}
	stop, calls := errors.New("stop"), 0
	err := s.List(ctx, base+"/", blob.ListOptions{}, func(blob.Object) error {
		calls++
		return stop
	})
	if !errors.Is(err, stop) || calls != 1 {
		return fmt.Errorf("after fn's error: %d calls, list returned %v", calls, err)
	}
	return nil
}

// checkListDuringCreate: what was there before a listing began is in it, in
// order and once, whatever arrives meanwhile.
func checkListDuringCreate(ctx context.Context, s blob.Store, base string) error {
	before, err := createAll(ctx, s, base, []string{"a/1", "c", "e/f/2"})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i := range errs {
		wg.Go(func() {
			for j := range 4 {
				key := fmt.Sprintf("%s/%c/n%d", base, 'b'+3*i, j)
				errs[i] = errors.Join(errs[i], create(ctx, s, key, []byte(key)))
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		default:
		}
		keys, err := listKeys(ctx, s, base+"/", blob.ListOptions{})
		for _, k := range before {
			if err == nil && !slices.Contains(keys, k) {
				err = fmt.Errorf("%q is not in a listing that began after it was stored", k)
			}
		}
		if finished && err == nil && len(keys) != len(before)+8 {
			err = fmt.Errorf("%d of %d objects listed", len(keys), len(before)+8)
		}
		if err != nil {
			<-done
			return errors.Join(append(errs, err)...)
		}
	}
	return errors.Join(errs...)
}

// createAll stores one object for each name, its key as the body, and returns
// the keys in order.
func createAll(ctx context.Context, s blob.Store, base string, names []string) ([]string, error) {
	var keys []string
	for _, name := range names {
		key := base + "/" + name
		if err := create(ctx, s, key, []byte(key)); err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys, nil
}
