package repo

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// sealMap writes a backup's map (F17): the items, which it sorts by path. It
// refuses what a reader would refuse, before anything is stored. The second
// result is the SHA-256 of the plaintext, by which a retry knows its own map.
func (s *scope) sealMap(key string, items []Item, packs int) ([]byte, [32]byte, error) {
	var none [32]byte
	slices.SortFunc(items, func(a, b Item) int { return cmp.Compare(a.Path, b.Path) })
	w, err := s.newSealWriter(typeMap, key)
	if err != nil {
		return nil, none, err
	}
	sum := sha256.New()
	out := io.MultiWriter(w, sum)
	order := &pathOrder{}
	buf := []byte{mapVersion}
	for i := range items {
		it := &items[i]
		it.Mode &= fs.ModePerm
		if err := errors.Join(it.check(), order.next(it), it.checkBlocks(packs)); err != nil {
			return nil, none, fmt.Errorf("write map: %w", err)
		}
		body := appendItem(nil, it)
		if len(body) > maxItemSize {
			return nil, none, fmt.Errorf("write map: item %q takes %d bytes, at most %d", it.Path, len(body), maxItemSize)
		}
		buf = binary.AppendUvarint(buf, uint64(len(body)))
		buf = append(buf, body...)
		if len(buf) >= FrameSize || i == len(items)-1 {
			_, _ = out.Write(buf) // neither a hash nor a sealWriter fails
			buf = buf[:0]
		}
	}
	_, _ = out.Write(buf) // the version alone, when there is no item
	return w.finish(), [32]byte(sum.Sum(nil)), nil
}

func (it *Item) checkBlocks(packs int) error {
	for _, b := range it.Blocks {
		if uint64(b.Pack) >= uint64(packs) {
			return fmt.Errorf("%w: item %q refers to pack %d of %d", ErrDamaged, it.Path, b.Pack, packs)
		}
	}
	return nil
}

// readItems decodes a map's plaintext, one item at a time.
func readItems(src io.Reader, packs int, fn func(Item) error) error {
	r := bufio.NewReaderSize(src, 64<<10)
	v, err := r.ReadByte()
	if err != nil {
		return cutOff(err)
	}
	if v != mapVersion {
		return formatErr("map", v)
	}
	order := &pathOrder{}
	var body []byte
	for {
		if _, err := r.Peek(1); errors.Is(err, io.EOF) {
			return nil
		}
		n, err := binary.ReadUvarint(r)
		if err != nil {
			return cutOff(err)
		}
		if n > maxItemSize {
			return fmt.Errorf("%w: item of %d bytes", ErrDamaged, n)
		}
		body = grow(body[:0], int(n))
		if err := readFull(r, body); err != nil {
			return err
		}
		it, err := parseItem(body)
		if err != nil {
			return err
		}
		if err := errors.Join(order.next(&it), it.checkBlocks(packs)); err != nil {
			return err
		}
		if err := fn(it); err != nil {
			return err
		}
	}
}

// cutOff makes a premature end damage; other errors stay what they are.
func cutOff(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: cut off", ErrDamaged)
	}
	return err
}

// Items streams a backup's map in path order, one frame in memory. Every item
// fn sees has been authenticated; that none is missing, and that it is the map
// the manifest names (MapSHA256), is known when Items returns nil.
func (l *Lineage) Items(ctx context.Context, m *Manifest, fn func(Item) error) error {
	key := mapKey(l.keys.lineage, m.ID)
	rc, err := l.st.Read(ctx, key, 0, -1)
	if err != nil {
		return storeErr(key, err)
	}
	sum := sha256.New()
	src := io.TeeReader(bufio.NewReaderSize(rc, 256<<10), sum)
	err = l.itemsFrom(src, key, len(m.Packs), fn)
	if err = errors.Join(err, rc.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != m.MapSHA256 {
		return fmt.Errorf("%s: %w: it is not the map its manifest names", key, ErrDamaged)
	}
	return nil
}

func (l *Lineage) itemsFrom(src io.Reader, key string, packs int, fn func(Item) error) error {
	r, err := l.keys.openSealed(src, typeMap, key)
	if err != nil {
		return err
	}
	defer r.close()
	var stopped error
	err = readItems(r, packs, func(it Item) error {
		stopped = fn(it)
		return stopped
	})
	if err != nil && stopped == nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return err
}
