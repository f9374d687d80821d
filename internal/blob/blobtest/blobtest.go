// Package blobtest is the conformance suite of blob.Store: what every driver
// must do, checked through the interface alone. `holdfast init` runs it
// against the user's own store, so it is small and quick (a few dozen
// objects, about 10 MiB, under 2 s on a local disk), removes what it made,
// and does not import "testing"; the tests of a driver use blobtest/suite.
//
// It does not check what needs a crash or a second process: each driver does
// that itself.
package blobtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// cleanupLimit bounds the removal of what the suite made, also when its own
// context has ended, and so the wait for the retention that it tried out.
const cleanupLimit = 30 * time.Second

// Result is the outcome of one check.
type Result struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why not OK
}

// check is one check. base is a prefix of its own, without a slash at its end.
type check struct {
	name string
	run  func(ctx context.Context, s blob.Store, base string) error
}

func checks() []check {
	return []check{
		{"create-read", checkCreateRead},
		{"sizes", checkSizes},
		{"create-only-race", checkRace},
		{"exists-untouched", checkExists},
		{"ranges", checkRanges},
		{"list", checkList},
		{"list-dirs", checkDirs},
		{"list-stops", checkListStops},
		{"list-during-create", checkListDuringCreate},
		{"delete", checkDelete},
		{"not-found", checkNotFound},
		{"bad-keys", checkBadKeys},
		{"cancelled", checkCancelled},
		{"swap", checkSwap},
		{"swap-race", checkSwapRace},
		{"retention", checkRetention},
	}
}

// Run runs every check under prefix (a key, "probe/3f9a…"), which must hold
// nothing yet, and removes what it made. The result has one entry for each
// check and a last one, "cleanup"; it never has fewer. A store whose
// credentials may not delete fails "delete" and "cleanup".
func Run(ctx context.Context, store blob.Store, prefix string) []Result {
	if err := vacant(ctx, store, prefix); err != nil {
		return []Result{result("prefix", err)}
	}
	var results []Result
	for _, c := range checks() {
		results = append(results, result(c.name, c.run(ctx, store, prefix+"/"+c.name)))
	}
	return append(results, result("cleanup", cleanup(ctx, store, prefix)))
}

// Err joins the failures among results; nil means that the store conforms.
func Err(results []Result) error {
	var errs []error
	for _, r := range results {
		if !r.OK {
			errs = append(errs, fmt.Errorf("%s: %s", r.Name, r.Detail))
		}
	}
	return errors.Join(errs...)
}

func result(name string, err error) Result {
	if err != nil {
		return Result{Name: name, Detail: err.Error()}
	}
	return Result{Name: name, OK: true}
}

// vacant keeps the suite away from objects that are not its own.
func vacant(ctx context.Context, store blob.Store, prefix string) error {
	if err := blob.CheckKey(prefix); err != nil {
		return err
	}
	return store.List(ctx, prefix+"/", blob.ListOptions{}, func(o blob.Object) error {
		return fmt.Errorf("%q is there already: the suite needs a prefix of its own", o.Key)
	})
}

// cleanup removes everything under prefix, waiting for retention to lapse.
func cleanup(ctx context.Context, store blob.Store, prefix string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	keys, err := listKeys(ctx, store, prefix+"/", blob.ListOptions{})
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := deleteWhenFree(ctx, store, key); err != nil {
			return err
		}
	}
	return vacant(ctx, store, prefix)
}

// deleteWhenFree deletes key, again and again while it is retained.
func deleteWhenFree(ctx context.Context, s blob.Store, key string) error {
	for {
		err := s.Delete(ctx, key)
		if !errors.Is(err, blob.ErrRetained) {
			return err
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("still retained: %w", err)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// create stores a plain object.
func create(ctx context.Context, s blob.Store, key string, body []byte) error {
	return s.Create(ctx, key, body, blob.CreateOptions{})
}

// readRange reads [off, off+n) and closes the reader.
func readRange(ctx context.Context, s blob.Store, key string, off, n int64) ([]byte, error) {
	r, err := s.Read(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r)
	return body, errors.Join(err, r.Close())
}

// holds checks that key holds exactly body.
func holds(ctx context.Context, s blob.Store, key string, body []byte) error {
	got, err := readRange(ctx, s, key, 0, -1)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, body) {
		return fmt.Errorf("%q holds %d bytes that differ from the %d stored", key, len(got), len(body))
	}
	o, err := s.Stat(ctx, key)
	if err != nil {
		return err
	}
	if o.Key != key || o.Size != int64(len(body)) || o.Modified.IsZero() || o.Dir {
		return fmt.Errorf("stat of %q (%d bytes) answers %+v", key, len(body), o)
	}
	return nil
}

// listKeys lists and checks order on the way.
func listKeys(ctx context.Context, s blob.Store, prefix string, opt blob.ListOptions) ([]string, error) {
	var keys []string
	err := s.List(ctx, prefix, opt, func(o blob.Object) error {
		if n := len(keys); n > 0 && keys[n-1] >= o.Key {
			return fmt.Errorf("list of %q: %q after %q", prefix, o.Key, keys[n-1])
		}
		keys = append(keys, o.Key)
		return nil
	})
	return keys, err
}

// wantErr checks that err wraps want and names the key.
func wantErr(what string, err, want error) error {
	if !errors.Is(err, want) {
		return fmt.Errorf("%s: got %v, want %q", what, err, want)
	}
	return nil
}

// pattern makes n bytes that differ by seed and do not repeat soon.
func pattern(seed byte, n int) []byte {
	body := make([]byte, 0, n+8)
	state := uint64(seed) + 1
	for len(body) < n {
		state = state*6364136223846793005 + 1442695040888963407
		body = binary.LittleEndian.AppendUint64(body, bits.ReverseBytes64(state))
	}
	return body[:n]
}
