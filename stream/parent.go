package stream

import (
	"context"
	"errors"
	"log/slog"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// parentIndex finds a parent backup's block of the same path and place. The
// index is in memory: a path and about 100 bytes an item, and 40 for every
// 64 MiB; the blocks themselves are read when asked for.
type parentIndex struct {
	blocks *blockReader
	items  map[string]parentItem
	sizes  map[repo.PackID]int64 // stored bytes of every pack of the manifest
	log    *slog.Logger
}

type parentItem struct {
	extent uint32
	blocks []repo.BlockRef
}

func openParent(ctx context.Context, l *repo.Lineage, m *repo.Manifest, retry retrier) (*parentIndex, error) {
	blocks, err := newBlockReader(newPackCache(l, retry), m, func(int64) {})
	if err != nil {
		return nil, err
	}
	p := &parentIndex{blocks: blocks, sizes: make(map[repo.PackID]int64, len(m.Packs)), log: retry.log}
	for _, info := range m.Packs {
		p.sizes[info.ID] = info.Size
	}
	err = retry.moving(ctx, "read the map", func(ctx context.Context, moved func()) error {
		p.items = make(map[string]parentItem)
		return l.Items(ctx, m, func(it repo.Item) error {
			moved()
			if it.Kind == repo.KindFile && len(it.Blocks) > 0 {
				p.items[it.Path] = parentItem{extent: it.Extent, blocks: it.Blocks}
			}
			return nil
		})
	})
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *parentIndex) close() { p.blocks.close() }

// lookup gives a new block the parent's block of its place, if there is one
// cut the same way. A block that cannot be read counts as not there: its
// extents are stored again, from the database that is being read anyway.
func (p *parentIndex) lookup(ctx context.Context, b *block) error {
	item, ok := p.items[b.item.item.Path]
	if !ok || item.extent != b.item.item.Extent || b.index >= len(item.blocks) {
		return nil
	}
	ref := item.blocks[b.index]
	old, id, err := p.blocks.read(ctx, ref)
	if errors.Is(err, repo.ErrDamaged) || errors.Is(err, repo.ErrNotFound) {
		p.log.Warn("a block of the parent backup cannot be read; its data is stored again",
			"path", b.item.item.Path, "block", b.index, "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	b.old, b.oldRef, b.oldID = old, ref, id
	return nil
}
