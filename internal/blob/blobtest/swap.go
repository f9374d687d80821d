package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// swapRounds is how often the racers race.
const swapRounds = 4

// checkSwap holds a driver to the compare-and-swap that it says it has.
func checkSwap(ctx context.Context, s blob.Store, base string) error {
	key := base + "/d/o"
	if !s.Capabilities().Swap {
		return checkNoSwap(ctx, s, key)
	}
	if err := checkSwapStates(ctx, s, key); err != nil {
		return err
	}
	if err := checkSwapBeside(ctx, s, base, key); err != nil {
		return err
	}
	return checkSwapRefusals(ctx, s, base, key)
}

func checkNoSwap(ctx context.Context, s blob.Store, key string) error {
	_, err := s.Swap(ctx, key, "", nil)
	if err := wantErr("swap", err, blob.ErrUnsupported); err != nil {
		return err
	}
	_, _, err = s.ReadVersion(ctx, key)
	return wantErr("read of a version", err, blob.ErrUnsupported)
}

// checkSwapStates takes an object from state to state; no state but the
// present one may be swapped.
func checkSwapStates(ctx context.Context, s blob.Store, key string) error {
	_, _, err := s.ReadVersion(ctx, key)
	if err := wantErr("version of a missing object", err, blob.ErrNotFound); err != nil {
		return err
	}
	var states []blob.Version
	now := blob.Version("")
	for i, n := range []int{100, 0, 3000, 50} {
		for _, stale := range append([]blob.Version{"no-such-version"}, states...) {
			_, err := s.Swap(ctx, key, stale, pattern(99, 10))
			if err := wantErr("swap of another state", err, blob.ErrChanged); err != nil {
				return err
			}
		}
		body := pattern(byte(i), n)
		next, err := s.Swap(ctx, key, now, body)
		if err != nil {
			return err
		}
		clear(body) // the store must not have kept it
		if err := inState(ctx, s, key, next, pattern(byte(i), n)); err != nil {
			return err
		}
		states, now = append(states, now), next
	}
	return nil
}

// inState checks that every way of reading key shows the same object.
func inState(ctx context.Context, s blob.Store, key string, v blob.Version, body []byte) error {
	got, now, err := s.ReadVersion(ctx, key)
	if err != nil {
		return err
	}
	if v == "" || now != v || !bytes.Equal(got, body) {
		return fmt.Errorf("%q is %d bytes in state %q, not %d in state %q", key, len(got), now, len(body), v)
	}
	return holds(ctx, s, key, body)
}

// checkSwapBeside: mutable and create-only objects do not take each other's
// keys, and look alike.
func checkSwapBeside(ctx context.Context, s blob.Store, base, key string) error {
	body, v, err := s.ReadVersion(ctx, key)
	if err != nil {
		return err
	}
	if err := wantErr("create over a swapped object", create(ctx, s, key, pattern(7, 10)), blob.ErrExists); err != nil {
		return err
	}
	if err := inState(ctx, s, key, v, body); err != nil {
		return err
	}
	created := base + "/d/p"
	if err := create(ctx, s, created, pattern(8, 10)); err != nil {
		return err
	}
	_, err = s.Swap(ctx, created, "", pattern(9, 10))
	if err := wantErr("first swap over a created object", err, blob.ErrChanged); err != nil {
		return err
	}
	if err := holds(ctx, s, created, pattern(8, 10)); err != nil {
		return err
	}
	keys, err := listKeys(ctx, s, base+"/", blob.ListOptions{})
	if err == nil && (len(keys) != 2 || keys[0] != key || keys[1] != created) {
		err = fmt.Errorf("the list is %q", keys)
	}
	return err
}

// checkSwapRefusals ends with the object's deletion.
func checkSwapRefusals(ctx context.Context, s blob.Store, base, key string) error {
	body, v, err := s.ReadVersion(ctx, key)
	if err != nil {
		return err
	}
	_, err = s.Swap(ctx, base+"/../o", "", nil)
	_, _, rerr := s.ReadVersion(ctx, base+"/a b")
	for _, err := range []error{err, rerr} {
		if err := wantErr("a bad key", err, blob.ErrBadKey); err != nil {
			return err
		}
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, err = s.Swap(ended, key, v, pattern(1, 10))
	_, _, rerr = s.ReadVersion(ended, key)
	for _, err := range []error{err, rerr} {
		if err := wantErr("an ended context", err, context.Canceled); err != nil {
			return err
		}
	}
	if _, err := s.Swap(ctx, key, v, make([]byte, blob.MaxSwap+1)); err == nil {
		return fmt.Errorf("a body of more than %d bytes was taken", blob.MaxSwap)
	}
	if err := inState(ctx, s, key, v, body); err != nil {
		return err
	}
	if err := s.Delete(ctx, key); err != nil {
		return err
	}
	_, err = s.Swap(ctx, key, v, pattern(1, 10))
	if err := wantErr("swap of a deleted object", err, blob.ErrChanged); err != nil {
		return err
	}
	if v, err = s.Swap(ctx, key, "", make([]byte, blob.MaxSwap)); err != nil {
		return fmt.Errorf("first swap after a deletion: %w", err)
	}
	return inState(ctx, s, key, v, make([]byte, blob.MaxSwap))
}

// checkSwapRace: of 16 writers who all saw the same state one wins each
// round, the others are told, and the object is the winner's. The first round
// starts from no object.
func checkSwapRace(ctx context.Context, s blob.Store, base string) error {
	if !s.Capabilities().Swap {
		return nil
	}
	key, now := base+"/o", blob.Version("")
	for round := range swapRounds {
		won, next, err := swapRound(ctx, s, key, now, round)
		if err != nil {
			return fmt.Errorf("round %d: %w", round, err)
		}
		if err := inState(ctx, s, key, next, raceBody(round, won)); err != nil {
			return err
		}
		now = next
	}
	return nil
}

func raceBody(round, writer int) []byte { return pattern(byte(round*racers+writer), 5000+writer) }

func swapRound(ctx context.Context, s blob.Store, key string, now blob.Version, round int) (won int, next blob.Version, err error) {
	var got [racers]blob.Version
	var errs [racers]error
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range racers {
		wg.Go(func() {
			<-start
			got[i], errs[i] = s.Swap(ctx, key, now, raceBody(round, i))
		})
	}
	close(start)
	wg.Wait()
	won = -1
	for i, err := range errs {
		switch {
		case errors.Is(err, blob.ErrChanged):
		case err != nil:
			return 0, "", fmt.Errorf("writer %d: %w", i, err)
		case won >= 0:
			return 0, "", fmt.Errorf("writers %d and %d both swapped one state: swaps are not exclusive", won, i)
		default:
			won = i
		}
	}
	if won < 0 {
		return 0, "", errors.New("every writer was told that the object changed, and nobody changed it")
	}
	return won, got[won], nil
}
