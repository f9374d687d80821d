package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/holdfastdb/holdfast/internal/blob"
)

const (
	racers   = 16
	bigBytes = 8 << 20
)

func checkCreateRead(ctx context.Context, s blob.Store, base string) error {
	body := pattern(1, 1000)
	if err := create(ctx, s, base+"/o", body); err != nil {
		return err
	}
	clear(body) // the store must not have kept it
	return holds(ctx, s, base+"/o", pattern(1, 1000))
}

func checkSizes(ctx context.Context, s blob.Store, base string) error {
	for i, n := range []int{0, 1, bigBytes} {
		key := fmt.Sprintf("%s/%d", base, n)
		if err := create(ctx, s, key, pattern(byte(i), n)); err != nil {
			return err
		}
		if err := holds(ctx, s, key, pattern(byte(i), n)); err != nil {
			return err
		}
	}
	return nil
}

// checkRace: of 16 writers of different bodies one wins, the others are told,
// and the bytes are the winner's.
func checkRace(ctx context.Context, s blob.Store, base string) error {
	errs := make([]error, racers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			body := pattern(byte(i), 10_000+i)
			<-start
			errs[i] = create(ctx, s, base+"/o", body)
		})
	}
	close(start)
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case errors.Is(err, blob.ErrExists):
		case err != nil:
			return fmt.Errorf("writer %d: %w", i, err)
		case winner >= 0:
			return fmt.Errorf("writers %d and %d both created the key: creation is not exclusive", winner, i)
		default:
			winner = i
		}
	}
	if winner < 0 {
		return errors.New("every writer was told that the key exists, none created it")
	}
	return holds(ctx, s, base+"/o", pattern(byte(winner), 10_000+winner))
}

func checkExists(ctx context.Context, s blob.Store, base string) error {
	key := base + "/o"
	if err := create(ctx, s, key, pattern(1, 100)); err != nil {
		return err
	}
	for _, body := range [][]byte{pattern(2, 200), nil, pattern(1, 100)} {
		if err := wantErr("second create", create(ctx, s, key, body), blob.ErrExists); err != nil {
			return err
		}
		if err := holds(ctx, s, key, pattern(1, 100)); err != nil {
			return err
		}
	}
	return nil
}

func checkRanges(ctx context.Context, s blob.Store, base string) error {
	const size = 1000
	body := pattern(7, size)
	for key, n := range map[string]int{base + "/o": size, base + "/empty": 0} {
		if err := create(ctx, s, key, body[:n]); err != nil {
			return err
		}
	}
	ranges := []struct{ off, n int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, size}, {0, size + 1}, {0, 1 << 40},
		{1, -1}, {1, 1}, {499, 2}, {size - 1, 1}, {size - 1, 2}, {size - 1, -1},
		{size, 0}, {size, 1}, {size, -1}, {size + 1, 1}, {size + 1, -1}, {1 << 40, 10},
	}
	for _, r := range ranges {
		for key, n := range map[string]int64{base + "/o": size, base + "/empty": 0} {
			from := min(r.off, n)
			to := n
			if r.n >= 0 {
				to = min(n, from+r.n)
			}
			got, err := readRange(ctx, s, key, r.off, r.n)
			if err != nil {
				return fmt.Errorf("range (%d, %d) of %d bytes: %w", r.off, r.n, n, err)
			}
			if !bytes.Equal(got, body[from:to]) {
				return fmt.Errorf("range (%d, %d) of %d bytes: %d wrong bytes", r.off, r.n, n, len(got))
			}
		}
	}
	if r, err := s.Read(ctx, base+"/o", -1, 10); err == nil {
		return errors.Join(errors.New("a negative offset was accepted"), r.Close())
	}
	return nil
}

func checkDelete(ctx context.Context, s blob.Store, base string) error {
	keep, gone := base+"/d/keep", base+"/d/e/gone"
	for _, key := range []string{keep, gone} {
		if err := create(ctx, s, key, pattern(1, 10)); err != nil {
			return err
		}
	}
	for range 2 { // the second time it is missing, which is success too
		if err := s.Delete(ctx, gone); err != nil {
			return err
		}
	}
	if _, err := s.Stat(ctx, gone); !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("stat of a deleted object: got %v", err)
	}
	keys, err := listKeys(ctx, s, base+"/", blob.ListOptions{})
	if err != nil {
		return err
	}
	if len(keys) != 1 || keys[0] != keep {
		return fmt.Errorf("after the deletion the list is %q", keys)
	}
	if err := s.Delete(ctx, base+"/d"); err != nil { // a prefix is no object
		return err
	}
	if err := holds(ctx, s, keep, pattern(1, 10)); err != nil {
		return err
	}
	if err := create(ctx, s, gone, pattern(2, 20)); err != nil {
		return fmt.Errorf("create after delete: %w", err)
	}
	return holds(ctx, s, gone, pattern(2, 20))
}

func checkNotFound(ctx context.Context, s blob.Store, base string) error {
	if err := create(ctx, s, base+"/o/p", nil); err != nil {
		return err
	}
	missing := []string{
		base + "/none", base + "/none/at/all",
		base + "/o",       // a prefix, not an object
		base + "/o/p/q",   // below an object
		base + "/o/pp",    // longer than an object
		base + "/o/p.tmp", // beside an object
	}
	for _, key := range missing {
		_, err := s.Stat(ctx, key)
		if err := wantErr("stat of missing "+key, err, blob.ErrNotFound); err != nil {
			return err
		}
		_, err = readRange(ctx, s, key, 0, -1)
		if err := wantErr("read of missing "+key, err, blob.ErrNotFound); err != nil {
			return err
		}
		if !strings.Contains(err.Error(), key) {
			return fmt.Errorf("the error %q does not name the key", err)
		}
		if err := s.Delete(ctx, key); err != nil {
			return fmt.Errorf("delete of missing %s: %w", key, err)
		}
	}
	return holds(ctx, s, base+"/o/p", nil)
}

func checkBadKeys(ctx context.Context, s blob.Store, base string) error {
	bad := []string{
		"", "/", "/" + base, base + "/", base + "//o", base + "/.", base + "/../o", "..",
		base + "/.hidden/o", base + "/a b", base + "/a\x00b", base + "/a\nb", base + "/\u00e9", base + "/a\\b",
		base + "/" + strings.Repeat("x", blob.MaxSegment+1),
		base + strings.Repeat("/xxxxxxx", blob.MaxKey/8),
	}
	for _, key := range bad {
		_, statErr := s.Stat(ctx, key)
		_, readErr := readRange(ctx, s, key, 0, -1)
		for op, err := range map[string]error{
			"create": create(ctx, s, key, []byte("x")),
			"stat":   statErr,
			"read":   readErr,
			"delete": s.Delete(ctx, key),
		} {
			if err := wantErr(fmt.Sprintf("%s of bad key %q", op, key), err, blob.ErrBadKey); err != nil {
				return err
			}
		}
	}
	_, err := listKeys(ctx, s, base+"/../", blob.ListOptions{})
	return wantErr("list of a bad prefix", err, blob.ErrBadKey)
}

// checkCancelled: an ended context stops every call, also amid a body.
func checkCancelled(ctx context.Context, s blob.Store, base string) error {
	if err := create(ctx, s, base+"/o", pattern(3, 1<<20)); err != nil {
		return err
	}
	ended, cancel := context.WithCancel(ctx)
	r, err := s.Read(ended, base+"/o", 0, -1)
	if err != nil {
		cancel()
		return err
	}
	_, firstErr := io.ReadFull(r, make([]byte, 10))
	cancel()
	_, restErr := io.Copy(io.Discard, r)
	if err := errors.Join(firstErr, r.Close()); err != nil {
		return err
	}
	_, statErr := s.Stat(ended, base+"/o")
	_, readErr := readRange(ended, s, base+"/o", 0, 1)
	_, listErr := listKeys(ended, s, base+"/", blob.ListOptions{})
	for op, err := range map[string]error{
		"read amid a body": restErr,
		"create":           create(ended, s, base+"/new", pattern(1, 10)),
		"stat":             statErr,
		"read":             readErr,
		"list":             listErr,
		"delete":           s.Delete(ended, base+"/o"),
	} {
		if err := wantErr(op+" with an ended context", err, context.Canceled); err != nil {
			return err
		}
	}
	if _, err := s.Stat(ctx, base+"/new"); !errors.Is(err, blob.ErrNotFound) {
		return fmt.Errorf("a cancelled create left something: %v", err)
	}
	return holds(ctx, s, base+"/o", pattern(3, 1<<20))
}
