package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Writer is the backup sink: Put may be called for many items concurrently;
// each item's reader is drained by the caller's goroutine.
type Writer struct {
	l     *repo.Lineage
	o     Options
	retry retrier

	ctx    context.Context
	cancel context.CancelCauseFunc

	share   writerShare
	buffers chan []byte // free input buffers
	jobs    chan job
	workers sync.WaitGroup
	uploads sync.WaitGroup // packs being finished, checked and put

	checks  chan struct{} // a token for each check at a time
	pending *pending
	collect *collector
	data    *packer
	maps    *packer
	mapper  *mapper
	parent  *parentIndex // nil without a parent
	packs   *packTable

	mu       sync.Mutex
	items    map[string]*itemState
	order    []*itemState
	finished bool
	closed   bool

	bytes, newBytes, stored, packsPut atomic.Int64
}

// itemState is an item while its blocks find their places.
type itemState struct {
	item   repo.Item
	extent int
	mu     sync.Mutex
	refs   []repo.BlockRef // a zero Len means: not known yet
}

func (it *itemState) setRef(index int, ref repo.BlockRef) {
	it.mu.Lock()
	it.refs[index] = ref
	it.mu.Unlock()
}

var errClosed = errors.New("the writer is closed")

// NewWriter starts a pipeline into one lineage. With a parent manifest,
// extents equal to the parent's at the same position of the same path are
// referred to, not stored. Cancelling ctx stops it. It waits until its share
// of the budget is free, and holds it until Finish or Close.
//
// Outside the budget it keeps about 300 bytes an item plus 40 for every 64
// MiB, and with a parent as much again for the parent's items.
//
// A parent whose map cannot be read is an error (repo.ErrDamaged or
// ErrNotFound); the caller may go on without a parent.
func NewWriter(ctx context.Context, l *repo.Lineage, parent *repo.Manifest, o Options) (*Writer, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	share, err := takeWriterShare(ctx, o.Budget, o.Workers)
	if err != nil {
		return nil, fmt.Errorf("wait for %d bytes of the memory budget: %w", writerBase, err)
	}
	w := &Writer{
		l: l, o: o, retry: newRetrier(o), share: share,
		buffers: make(chan []byte, share.buffers),
		jobs:    make(chan job, share.buffers),
		checks:  make(chan struct{}, share.checks),
		pending: newPending(pendingReserve),
		packs:   newPackTable(),
		items:   make(map[string]*itemState),
	}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	if err := w.start(parent); err != nil {
		w.cancel(err)
		w.release()
		return nil, err
	}
	return w, nil
}

func (w *Writer) start(parent *repo.Manifest) (err error) {
	if parent != nil {
		if w.parent, err = openParent(w.ctx, w.l, parent, w.retry); err != nil {
			return fmt.Errorf("read the parent backup %s: %w", parent.ID, err)
		}
	}
	w.data = newPacker(w, packLimit, packReserve, maxDataPacks)
	w.maps = newPacker(w, mapPackLimit, mapReserve, 1)
	if w.collect, err = newCollector(w.data); err != nil {
		return err
	}
	if w.mapper, err = newMapper(w.l, w.maps); err != nil {
		return err
	}
	encoders := make([]*repo.Encoder, w.share.workers)
	for i := range encoders {
		if encoders[i], err = repo.NewEncoder(); err != nil {
			return err
		}
	}
	for range w.share.buffers {
		w.buffers <- nil // allocated when first used
	}
	for _, enc := range encoders {
		w.workers.Go(func() { w.work(enc) })
	}
	return nil
}

// Put stores one item, reading r to EOF (r is nil for directories and links).
// item.Size may be an estimate; the bytes read decide. item.Extent is the cut:
// 4 KiB to 1 MiB, or 0, which means 1 MiB. An error from r or the pipeline is
// returned by this and every later Put, and by Finish; so is the end of ctx,
// because half an item was read. Readers must not wait for each other: some
// may be kept waiting for a buffer.
//
// When Put returns nil, the item has been read, not yet stored.
func (w *Writer) Put(ctx context.Context, item repo.Item, r io.Reader) error {
	stop := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	defer stop()
	if err := w.put(item, r); err != nil {
		return w.fail(err)
	}
	return nil
}

func (w *Writer) put(item repo.Item, r io.Reader) error {
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	it, err := w.register(item)
	if err != nil {
		return err
	}
	w.o.Progress.Item(item.Path)
	if item.Kind != repo.KindFile {
		return nil
	}
	if r == nil {
		return fmt.Errorf("put %s: a file needs a reader", item.Path)
	}
	return w.read(it, r)
}

// register checks an item and makes its path unique.
func (w *Writer) register(item repo.Item) (*itemState, error) {
	if !fs.ValidPath(item.Path) || item.Path == "." {
		return nil, fmt.Errorf("put %q: not a relative slash-separated path", item.Path)
	}
	if item.Kind == repo.KindFile && item.Extent == 0 {
		item.Extent = repo.FrameSize
	}
	if item.Kind == repo.KindFile && (item.Extent < minExtent || item.Extent > repo.FrameSize) {
		return nil, fmt.Errorf("put %s: extents of %d bytes; want %d to %d", item.Path, item.Extent, minExtent, repo.FrameSize)
	}
	item.Blocks = nil
	it := &itemState{item: item, extent: int(item.Extent)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.finished || w.closed {
		return nil, errClosed
	}
	if _, taken := w.items[item.Path]; taken {
		return nil, fmt.Errorf("put %s: the backup has an item of this path already", item.Path)
	}
	w.items[item.Path] = it
	w.order = append(w.order, it)
	return it, nil
}

// read drains r, block by block.
func (w *Writer) read(it *itemState, r io.Reader) error {
	estimate := it.item.Size
	var pos int64
	defer func() {
		it.item.Size = pos
		w.bytes.Add(pos)
	}()
	for {
		n, err := w.readBlock(it, r, pos, estimate)
		pos += n
		if err == io.EOF { //nolint:errorlint // readBlock's own, bare; a reader's failure that wraps io.EOF is no end
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readBlock reads one block's bytes into buffers for the workers; io.EOF says
// that the item ends in it. A place among the pending blocks comes before the
// first buffer: who waits for a place must not hold what those with a place
// need to get on.
func (w *Writer) readBlock(it *itemState, r io.Reader, pos, estimate int64) (done int64, err error) {
	charge := w.charge(it, pos, estimate)
	if err := w.admit(charge); err != nil {
		return 0, err
	}
	var b *block
	defer func() {
		if b == nil {
			w.pending.release(charge)
		} else {
			w.unref(b)
		}
	}()
	span, full := blockSpan(it.item.Extent), int64(repo.FrameSize/it.extent*it.extent)
	for done < span {
		buf, err := w.takeBuffer()
		if err != nil {
			return done, err
		}
		n, readErr := fill(r, buf[:min(full, span-done)])
		if n > 0 && b == nil {
			b, err = w.openBlock(it, pos, charge)
		}
		if n == 0 || err != nil {
			w.buffers <- buf
		} else {
			w.o.Progress.Read(int64(n))
			done += int64(n)
			w.jobs <- b.job(buf, n) // never blocks: it has room for every buffer
		}
		switch {
		case err != nil:
			return done, err
		case readErr == io.EOF: //nolint:errorlint // bare: see fill
			return done, io.EOF
		case readErr != nil:
			return done, fmt.Errorf("read %s at %d: %w", it.item.Path, pos+done, readErr)
		}
	}
	return done, nil
}

// fill reads until buf is full. io.EOF, bare, means that r ended properly.
// Not io.ReadFull: its io.ErrUnexpectedEOF does not tell a short last read
// from a reader that was cut off, and a cut-off file must never look whole.
func fill(r io.Reader, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (w *Writer) takeBuffer() ([]byte, error) {
	select {
	case buf := <-w.buffers:
		if buf == nil {
			buf = make([]byte, repo.FrameSize)
		}
		return buf, nil
	case <-w.ctx.Done():
		return nil, context.Cause(w.ctx)
	}
}

// fail stops the pipeline; the first cause is kept and returned.
func (w *Writer) fail(err error) error {
	w.cancel(err)
	return context.Cause(w.ctx)
}

// Finish drains the pipeline, waits until every pack is durable and returns
// the items with their blocks, in the order they were put, and the packs they
// refer to. Every Put must have returned. Afterwards the writer is closed.
func (w *Writer) Finish(ctx context.Context) ([]repo.Item, []repo.PackInfo, Stats, error) {
	stop := context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	defer stop()
	defer w.Close()
	w.mu.Lock()
	again := w.finished || w.closed
	w.finished = true
	w.mu.Unlock()
	if again {
		return nil, nil, Stats{}, errClosed
	}
	if err := w.drain(); err != nil {
		return nil, nil, Stats{}, w.fail(err)
	}
	items := make([]repo.Item, len(w.order))
	for i, it := range w.order {
		items[i] = it.item
		items[i].Blocks = it.refs
		for _, ref := range it.refs {
			if ref.Len == 0 {
				return nil, nil, Stats{}, w.fail(fmt.Errorf("internal: a block of %s was not stored", it.item.Path))
			}
		}
	}
	return items, w.packs.list(), Stats{
		Items: int64(len(items)), Bytes: w.bytes.Load(), NewBytes: w.newBytes.Load(),
		NewStored: w.stored.Load(), Packs: w.packsPut.Load(),
	}, nil
}

// drain runs the pipeline empty, front to back.
func (w *Writer) drain() error {
	close(w.jobs)
	w.workers.Wait()
	if err := context.Cause(w.ctx); err != nil {
		return err
	}
	if err := w.collect.flush(w.ctx); err != nil {
		return err
	}
	w.data.rotate()
	w.uploads.Wait() // names every data pack, so that every block is with the mapper
	if err := w.mapper.flush(w.ctx); err != nil {
		return err
	}
	w.maps.rotate()
	w.uploads.Wait()
	return context.Cause(w.ctx)
}

// Close stops the pipeline and frees it, waiting for its goroutines; after
// Finish a no-op. Packs already put stay, harmless, for reuse or collection.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	w.cancel(errClosed)
	w.workers.Wait()
	w.uploads.Wait()
	w.release()
	return nil
}

// release frees codecs and the share of the budget.
func (w *Writer) release() {
	for _, p := range []*packer{w.data, w.maps} {
		if p != nil {
			p.close()
		}
	}
	if w.collect != nil {
		w.collect.close()
	}
	if w.mapper != nil {
		w.mapper.close()
	}
	if w.parent != nil {
		w.parent.close()
	}
	w.share.release()
}
