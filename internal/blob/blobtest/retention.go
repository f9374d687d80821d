package blobtest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// retainFor is how long the suite retains its objects: long enough for a few
// calls to a distant store, short enough to wait for.
const (
	retainAdvisory = 400 * time.Millisecond
	retainEnforced = 5 * time.Second
)

// checkRetention holds a driver to the retention that it says it has.
func checkRetention(ctx context.Context, s blob.Store, base string) error {
	switch kind := s.Capabilities().Retention; kind {
	case blob.RetentionNone:
		return checkNoRetention(ctx, s, base)
	case blob.RetentionAdvisory:
		return checkRetained(ctx, s, base, retainAdvisory)
	case blob.RetentionEnforced:
		return checkRetained(ctx, s, base, retainEnforced)
	default:
		return fmt.Errorf("unknown kind of retention %q", kind)
	}
}

func checkNoRetention(ctx context.Context, s blob.Store, base string) error {
	key, until := base+"/o", time.Now().Add(retainAdvisory)
	err := s.Create(ctx, key, nil, blob.CreateOptions{RetainUntil: until})
	if err := wantErr("create with retention", err, blob.ErrUnsupported); err != nil {
		return err
	}
	if err := create(ctx, s, key, nil); err != nil {
		return err
	}
	return wantErr("retain", s.Retain(ctx, key, until), blob.ErrUnsupported)
}

func checkRetained(ctx context.Context, s blob.Store, base string, d time.Duration) error {
	if err := wantErr("retain of a missing object", s.Retain(ctx, base+"/none", time.Now().Add(d)), blob.ErrNotFound); err != nil {
		return err
	}
	atCreate, later := base+"/at-create", base+"/later"
	if err := create(ctx, s, later, pattern(1, 10)); err != nil {
		return err
	}
	o, err := s.Stat(ctx, later)
	if err != nil {
		return err
	}
	until := time.Now()
	if o.Modified.After(until) {
		until = o.Modified // the store's clock is ahead of ours
	}
	until = until.Add(d)
	if err := s.Create(ctx, atCreate, pattern(1, 10), blob.CreateOptions{RetainUntil: until}); err != nil {
		return err
	}
	// The earlier moment must not undo the later one.
	for _, t := range []time.Time{until, until.Add(-d / 2), {}} {
		if err := s.Retain(ctx, later, t); err != nil {
			return fmt.Errorf("retain until %s: %w", t, err)
		}
	}
	for _, key := range []string{atCreate, later} {
		if err := refusesDelete(ctx, s, key, until); err != nil {
			return err
		}
	}
	for _, key := range []string{atCreate, later} {
		if err := deleteWhenFree(ctx, s, key); err != nil {
			return err
		}
	}
	return nil
}

// refusesDelete checks that key cannot be deleted, unless the machine was so
// slow that its retention has lapsed: then nothing is known, and nothing said.
func refusesDelete(ctx context.Context, s blob.Store, key string, until time.Time) error {
	err := s.Delete(ctx, key)
	if err == nil && time.Now().Before(until) {
		return fmt.Errorf("%q was deleted while retained", key)
	}
	if err != nil && !errors.Is(err, blob.ErrRetained) {
		return wantErr("delete while retained", err, blob.ErrRetained)
	}
	if err == nil {
		return nil
	}
	return holds(ctx, s, key, pattern(1, 10))
}
