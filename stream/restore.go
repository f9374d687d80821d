package stream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// What a restore's share of the budget is made of, bytes.
const (
	planReserve  = windows*windowBytes + windowBytes/2 + (cachedFrames+1)*frameReserve
	fetchReserve = rangeSize + 2*frameReserve
	restoreBase  = planReserve + 2*fetchReserve // two fetchers
)

const _ = uint(MinBudget - restoreBase)

// restorer is one Restore.
type restorer struct {
	l       *repo.Lineage
	o       Options
	retry   retrier
	packs   *packCache
	files   *openFiles
	windows chan struct{}

	bytes, stored atomic.Int64
	mu            sync.Mutex
	packsRead     map[repo.PackID]struct{}
}

// Restore writes a backup's items to t: planned by pack, ranged reads
// coalesced, every extent checked against its id before it is written.
// skip, if not nil, leaves items out. A file is complete or Restore fails;
// errors name the item, the pack and the place in both, and wrap
// repo.ErrDamaged where stored bytes are not what was stored.
//
// It waits until its share of the budget is free. Outside the budget it keeps
// about 400 bytes a file, plus 40 for every 64 MiB.
func Restore(ctx context.Context, l *repo.Lineage, m *repo.Manifest, t Target, skip func(repo.Item) bool, o Options) (Stats, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Stats{}, err
	}
	fetchers, release, err := takeRestoreShare(ctx, o)
	if err != nil {
		return Stats{}, err
	}
	defer release()
	retry := newRetrier(o)
	r := &restorer{
		l: l, o: o, retry: retry, packs: newPackCache(l, retry), files: newOpenFiles(t),
		windows: make(chan struct{}, windows), packsRead: make(map[repo.PackID]struct{}),
	}
	for range windows {
		r.windows <- struct{}{}
	}
	files, items, err := r.prepare(ctx, m, t, skip)
	if err != nil {
		return Stats{}, err
	}
	if err := r.run(ctx, m, files, fetchers); err != nil {
		r.files.abandon()
		return Stats{}, err
	}
	if f, ok := t.(Finisher); ok {
		if err := f.Finish(ctx); err != nil {
			return Stats{}, fmt.Errorf("make the restored files durable: %w", err)
		}
	}
	return Stats{Items: items, Bytes: r.bytes.Load(), NewStored: r.stored.Load(), Packs: int64(len(r.packsRead))}, nil
}

// takeRestoreShare reserves for the plan and as many fetchers as there is
// room for, up to two a worker: one waits for the store while the other
// decodes.
func takeRestoreShare(ctx context.Context, o Options) (fetchers int, release func(), err error) {
	if err := o.Budget.Acquire(ctx, restoreBase); err != nil {
		return 0, nil, fmt.Errorf("wait for %d bytes of the memory budget: %w", int64(restoreBase), err)
	}
	held := int64(restoreBase)
	fetchers = 2
	for fetchers < 2*o.Workers && fetchers < maxFetchers && o.Budget.TryAcquire(fetchReserve) {
		fetchers++
		held += fetchReserve
	}
	return fetchers, func() { o.Budget.Release(held) }, nil
}

// maxFetchers keeps the number of open files under 256.
const maxFetchers = 48

// prepare makes directories and links, and returns the files in the order
// their blocks were stored, which is about the order of their data.
func (r *restorer) prepare(ctx context.Context, m *repo.Manifest, t Target, skip func(repo.Item) bool) ([]*openFile, int64, error) {
	var files []*openFile
	var items, total int64
	last := "" // the map is in strict path order: after a transient error go on behind it
	var own error
	err := r.retry.moving(ctx, "read the map of backup "+m.ID, func(ctx context.Context, moved func()) error {
		err := r.l.Items(ctx, m, func(it repo.Item) error {
			moved()
			if it.Path <= last || skip != nil && skip(it) {
				return nil
			}
			last = it.Path
			items++
			if it.Kind == repo.KindFile {
				total += it.Size
				files = append(files, &openFile{item: it, set: r.files, left: it.Size})
			}
			if own = makeItem(t, it); own != nil {
				return fmt.Errorf("restore %s: %w", it.Path, own)
			}
			return nil
		})
		if own != nil { // the target's trouble, not the store's: do not try again
			own = err
			return nil
		}
		return err
	})
	if err = errors.Join(err, own); err != nil {
		return nil, 0, err
	}
	r.o.Progress.Total(total)
	slices.SortStableFunc(files, func(a, b *openFile) int {
		if len(a.item.Blocks) == 0 || len(b.item.Blocks) == 0 {
			return cmp.Compare(len(a.item.Blocks), len(b.item.Blocks))
		}
		x, y := a.item.Blocks[0], b.item.Blocks[0]
		return cmp.Or(cmp.Compare(x.Pack, y.Pack), cmp.Compare(x.Frame.Offset, y.Frame.Offset), cmp.Compare(x.Off, y.Off))
	})
	return files, items, nil
}

// makeItem makes a directory or a link, and checks a file's description.
func makeItem(t Target, it repo.Item) error {
	switch it.Kind {
	case repo.KindDir:
		return t.Mkdir(it)
	case repo.KindSymlink:
		return t.Symlink(it)
	case repo.KindFile:
		return checkItem(it)
	}
	return fmt.Errorf("an item of kind %d: %w", it.Kind, repo.ErrFormat)
}

// checkItem makes sure that an item's size, cut and blocks agree.
func checkItem(it repo.Item) error {
	if it.Size < 0 || it.Size > 0 && (it.Extent < minExtent || it.Extent > repo.FrameSize) {
		return fmt.Errorf("%d bytes in extents of %d: %w", it.Size, it.Extent, repo.ErrDamaged)
	}
	var want int64
	if it.Size > 0 {
		span := blockSpan(it.Extent)
		want = (it.Size + span - 1) / span
	}
	if int64(len(it.Blocks)) != want {
		return fmt.Errorf("%d bytes in %d blocks, want %d: %w", it.Size, len(it.Blocks), want, repo.ErrDamaged)
	}
	return nil
}

// run plans and fetches until all files are written.
func (r *restorer) run(ctx context.Context, m *repo.Manifest, files []*openFile, fetchers int) error {
	blocks, err := newBlockReader(r.packs, m, r.fetched)
	if err != nil {
		return err
	}
	defer blocks.close()
	g, ctx := errgroup.WithContext(ctx)
	ranges := make(chan *readRange)
	g.Go(func() error {
		defer close(ranges)
		return r.plan(ctx, &planner{blocks: blocks, free: r.windows, out: ranges}, files)
	})
	for range fetchers {
		g.Go(func() error {
			dec, err := repo.NewDecoder()
			if err != nil {
				return err
			}
			defer dec.Close()
			f := &fetcher{r: r, dec: dec}
			return f.run(ctx, ranges)
		})
	}
	err = g.Wait()
	if err == nil && len(r.files.open) > 0 {
		err = errors.New("internal: files were left incomplete")
	}
	return err
}

func (r *restorer) plan(ctx context.Context, p *planner, files []*openFile) error {
	for i, f := range files {
		files[i] = nil // its memory is needed no longer than its pieces
		r.o.Progress.Item(f.item.Path)
		if f.item.Size == 0 {
			if err := r.files.create(f.item); err != nil {
				return err
			}
			continue
		}
		if err := p.add(ctx, f); err != nil {
			return fmt.Errorf("restore %w", err)
		}
	}
	return p.flush(ctx)
}

func (r *restorer) fetched(n int64) {
	r.stored.Add(n)
	r.o.Progress.Stored(n)
}

func (r *restorer) wrote(n int64) {
	r.bytes.Add(n)
	r.o.Progress.Read(n)
}

func (r *restorer) packRead(id repo.PackID) {
	r.mu.Lock()
	r.packsRead[id] = struct{}{}
	r.mu.Unlock()
}
