package stream

import (
	"context"
	"errors"
	"io/fs"

	"golang.org/x/sync/errgroup"
)

// syncWidth is how many fsyncs wait for the disk at a time: file systems
// commit neighbours together.
const syncWidth = 32

// syncEach makes every file and directory below the target durable, one by
// one: what is left where the system has no syncfs.
func (t *DirTarget) syncEach(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(syncWidth)
	err := fs.WalkDir(t.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if d.IsDir() || d.Type().IsRegular() {
			g.Go(func() error { return t.syncOne(name) })
		}
		return nil
	})
	return errors.Join(err, g.Wait())
}

func (t *DirTarget) syncOne(name string) error {
	f, err := t.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
