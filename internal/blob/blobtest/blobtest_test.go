package blobtest_test

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/blobtest"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
)

func good() blob.Store { return file.New(crashfs.New(1, nil), "memory", file.Options{}) }

// broken is a good store with one method replaced.
type broken struct {
	blob.Store
	create func(context.Context, string, []byte, blob.CreateOptions) error
	read   func(context.Context, string, int64, int64) (io.ReadCloser, error)
	stat   func(context.Context, string) (blob.Object, error)
	list   func(context.Context, string, blob.ListOptions, func(blob.Object) error) error
	remove func(context.Context, string) error
	retain func(context.Context, string, time.Time) error
	caps   func() blob.Capabilities
	swap   func(context.Context, string, blob.Version, []byte) (blob.Version, error)
	readV  func(context.Context, string) ([]byte, blob.Version, error)
}

func (b *broken) Create(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
	return b.create(ctx, k, body, o)
}
func (b *broken) Read(ctx context.Context, k string, off, n int64) (io.ReadCloser, error) {
	return b.read(ctx, k, off, n)
}
func (b *broken) Stat(ctx context.Context, k string) (blob.Object, error) { return b.stat(ctx, k) }
func (b *broken) List(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
	return b.list(ctx, p, o, fn)
}
func (b *broken) Delete(ctx context.Context, k string) error { return b.remove(ctx, k) }
func (b *broken) Retain(ctx context.Context, k string, t time.Time) error {
	return b.retain(ctx, k, t)
}
func (b *broken) Swap(ctx context.Context, k string, old blob.Version, body []byte) (blob.Version, error) {
	return b.swap(ctx, k, old, body)
}
func (b *broken) ReadVersion(ctx context.Context, k string) ([]byte, blob.Version, error) {
	return b.readV(ctx, k)
}
func (b *broken) Capabilities() blob.Capabilities { return b.caps() }

func breaking(how func(s blob.Store, b *broken)) blob.Store {
	s := good()
	b := &broken{s, s.Create, s.Read, s.Stat, s.List, s.Delete, s.Retain, s.Capabilities, s.Swap, s.ReadVersion}
	how(s, b)
	return b
}

// overwrite swaps whatever is there.
func overwrite(ctx context.Context, s blob.Store, k string, body []byte) (blob.Version, error) {
	for {
		_, now, err := s.ReadVersion(ctx, k)
		if err != nil && !errors.Is(err, blob.ErrNotFound) {
			return "", err
		}
		v, err := s.Swap(ctx, k, now, body)
		if !errors.Is(err, blob.ErrChanged) {
			return v, err
		}
	}
}

// TestFindsBrokenStores: each kind of wrong store fails the check that is
// there to find it.
func TestFindsBrokenStores(t *testing.T) {
	cases := map[string]struct {
		finds string // the check that must fail
		how   func(s blob.Store, b *broken)
	}{
		"overwrites": {"create-only-race", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
				if err := s.Create(ctx, k, body, o); !errors.Is(err, blob.ErrExists) {
					return err
				}
				return errors.Join(s.Delete(ctx, k), s.Create(ctx, k, body, o))
			}
		}},
		"says exists, and overwrites": {"exists-untouched", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
				err := s.Create(ctx, k, body, o)
				if errors.Is(err, blob.ErrExists) {
					return errors.Join(err, s.Delete(ctx, k), s.Create(ctx, k, body, o))
				}
				return err
			}
		}},
		"ignores what exists": {"exists-untouched", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
				if err := s.Create(ctx, k, body, o); !errors.Is(err, blob.ErrExists) {
					return err
				}
				return nil
			}
		}},
		"truncates large objects": {"sizes", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
				return s.Create(ctx, k, body[:min(len(body), 5<<20)], o)
			}
		}},
		"reads one byte too many": {"ranges", func(s blob.Store, b *broken) {
			b.read = func(ctx context.Context, k string, off, n int64) (io.ReadCloser, error) {
				if n > 0 {
					n++
				}
				return s.Read(ctx, k, off, n)
			}
		}},
		"takes negative offsets": {"ranges", func(s blob.Store, b *broken) {
			b.read = func(ctx context.Context, k string, off, n int64) (io.ReadCloser, error) {
				return s.Read(ctx, k, max(off, 0), n)
			}
		}},
		"lists out of order": {"list", func(s blob.Store, b *broken) {
			b.list = func(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
				var all []blob.Object
				err := s.List(ctx, p, o, func(o blob.Object) error { all = append(all, o); return nil })
				slices.Reverse(all)
				for _, o := range all {
					err = errors.Join(err, fn(o))
				}
				return err
			}
		}},
		"ignores After": {"list", func(s blob.Store, b *broken) {
			b.list = func(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
				o.After = ""
				return s.List(ctx, p, o, fn)
			}
		}},
		"ignores Dirs": {"list-dirs", func(s blob.Store, b *broken) {
			b.list = func(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
				o.Dirs = false
				return s.List(ctx, p, o, fn)
			}
		}},
		"lists on after an error": {"list-stops", func(s blob.Store, b *broken) {
			b.list = func(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
				var first error
				return errors.Join(s.List(ctx, p, o, func(o blob.Object) error {
					if err := fn(o); first == nil {
						first = err
					}
					return nil
				}), first)
			}
		}},
		"loses a key in lists": {"list-during-create", func(s blob.Store, b *broken) {
			b.list = func(ctx context.Context, p string, o blob.ListOptions, fn func(blob.Object) error) error {
				return s.List(ctx, p, o, func(o blob.Object) error {
					if strings.HasSuffix(o.Key, "/e/f/2") {
						return nil
					}
					return fn(o)
				})
			}
		}},
		"does not delete": {"delete", func(s blob.Store, b *broken) {
			b.remove = func(context.Context, string) error { return nil }
		}},
		"delete of a missing key fails": {"delete", func(s blob.Store, b *broken) {
			b.remove = func(ctx context.Context, k string) error {
				if _, err := s.Stat(ctx, k); err != nil {
					return err
				}
				return s.Delete(ctx, k)
			}
		}},
		"another error for not found": {"not-found", func(s blob.Store, b *broken) {
			b.stat = func(ctx context.Context, k string) (blob.Object, error) {
				o, err := s.Stat(ctx, k)
				if errors.Is(err, blob.ErrNotFound) {
					err = errors.New("404")
				}
				return o, err
			}
		}},
		"takes bad keys": {"bad-keys", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
				return s.Create(ctx, strings.ReplaceAll(k, " ", "_"), body, o)
			}
		}},
		"deaf to the context": {"cancelled", func(s blob.Store, b *broken) {
			b.read = func(ctx context.Context, k string, off, n int64) (io.ReadCloser, error) {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				return s.Read(context.WithoutCancel(ctx), k, off, n)
			}
		}},
		"swaps without comparing": {"swap", func(s blob.Store, b *broken) {
			b.swap = func(ctx context.Context, k string, _ blob.Version, body []byte) (blob.Version, error) {
				return overwrite(ctx, s, k, body)
			}
		}},
		"compares only that there is one": {"swap", func(s blob.Store, b *broken) {
			b.swap = func(ctx context.Context, k string, old blob.Version, body []byte) (blob.Version, error) {
				if _, now, err := s.ReadVersion(ctx, k); old != "" && err == nil {
					old = now
				}
				return s.Swap(ctx, k, old, body)
			}
		}},
		"compares, then swaps": {"swap-race", func(s blob.Store, b *broken) {
			b.swap = func(ctx context.Context, k string, old blob.Version, body []byte) (blob.Version, error) {
				_, now, err := s.ReadVersion(ctx, k)
				if err != nil && !errors.Is(err, blob.ErrNotFound) {
					return "", err
				}
				if now != old {
					return "", blob.ErrChanged
				}
				time.Sleep(5 * time.Millisecond) // all racers compare meanwhile
				return overwrite(ctx, s, k, body)
			}
		}},
		"swaps over created objects": {"swap", func(s blob.Store, b *broken) {
			b.swap = func(ctx context.Context, k string, old blob.Version, body []byte) (blob.Version, error) {
				v, err := s.Swap(ctx, k, old, body)
				if old == "" && errors.Is(err, blob.ErrChanged) && strings.HasSuffix(k, "/d/p") {
					return overwrite(ctx, s, k, body)
				}
				return v, err
			}
		}},
		"keeps its swapped objects apart": {"swap", func(s blob.Store, b *broken) {
			b.swap = func(ctx context.Context, k string, old blob.Version, body []byte) (blob.Version, error) {
				return s.Swap(ctx, k+".swap", old, body)
			}
			b.readV = func(ctx context.Context, k string) ([]byte, blob.Version, error) {
				return s.ReadVersion(ctx, k+".swap")
			}
		}},
		"swaps, and says it does not": {"swap", func(s blob.Store, b *broken) {
			b.caps = func() blob.Capabilities { return blob.Capabilities{Retention: blob.RetentionAdvisory} }
		}},
		"forgets retention": {"retention", func(s blob.Store, b *broken) {
			b.create = func(ctx context.Context, k string, body []byte, _ blob.CreateOptions) error {
				return s.Create(ctx, k, body, blob.CreateOptions{})
			}
		}},
		"has none, and says it has": {"retention", func(s blob.Store, b *broken) {
			b.retain = func(context.Context, string, time.Time) error { return nil }
		}},
		"has one, and says it has none": {"retention", func(s blob.Store, b *broken) {
			b.caps = func() blob.Capabilities { return blob.Capabilities{Retention: blob.RetentionNone} }
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			intact, ok := blobtest.RunOnly(t.Context(), good(), "probe/x", c.finds)
			if !ok || !intact.OK {
				t.Fatalf("on a good store: %+v", intact)
			}
			r, _ := blobtest.RunOnly(t.Context(), breaking(c.how), "probe/x", c.finds)
			if r.OK || blobtest.Err([]blobtest.Result{r}) == nil {
				t.Errorf("%q did not find it", c.finds)
			}
		})
	}
}

// TestKeepsAway: the suite touches nothing that it did not make.
func TestKeepsAway(t *testing.T) {
	s := good()
	if err := s.Create(t.Context(), "probe/x/mine", []byte("mine"), blob.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := blobtest.Err(blobtest.Run(t.Context(), s, "probe/x")); err == nil {
		t.Error("ran over an object of somebody else")
	}
	if err := blobtest.Err(blobtest.Run(t.Context(), s, "../x")); !strings.Contains(err.Error(), "invalid object key") {
		t.Errorf("a bad prefix: %v", err)
	}
	if err := blobtest.Err(blobtest.Run(t.Context(), s, "probe")); err == nil {
		t.Error("ran above an object of somebody else")
	}
	if _, err := s.Stat(t.Context(), "probe/x/mine"); err != nil {
		t.Error(err)
	}
}

// TestCleansUpCancelled: also when its context ends halfway.
func TestCleansUpCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	s := breaking(func(s blob.Store, b *broken) {
		b.create = func(ctx context.Context, k string, body []byte, o blob.CreateOptions) error {
			if strings.Contains(k, "/ranges/") {
				cancel()
			}
			return s.Create(ctx, k, body, o)
		}
	})
	results := blobtest.Run(ctx, s, "probe/x")
	if blobtest.Err(results) == nil || !results[len(results)-1].OK {
		t.Errorf("results: %+v", results)
	}
	err := s.List(t.Context(), "", blob.ListOptions{}, func(o blob.Object) error { return errors.New(o.Key) })
	if err != nil {
		t.Errorf("left: %v", err)
	}
}

// TestLinksNoTesting: the product binary links this package.
func TestLinksNoTesting(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if slices.Contains(strings.Fields(string(out)), "testing") {
		t.Error(`blobtest imports "testing"`)
	}
}
