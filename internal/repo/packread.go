package repo

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// PutPack stores a finished pack, durable when it returns nil. An existing
// object of that name counts as stored once it was read back and has the
// bytes its name says (F14). It does not check the pack's inside: CheckPack.
func (l *Lineage) PutPack(ctx context.Context, info PackInfo, body []byte) error {
	if err := l.writable(); err != nil {
		return err
	}
	if info.Size != int64(len(body)) {
		return fmt.Errorf("put pack %s: it has %d bytes, not %d", info.ID, len(body), info.Size)
	}
	key := packKey(l.keys.lineage, info.ID)
	return create(ctx, l.st, key, body, func(existing []byte) error {
		if sha256.Sum256(existing) != info.ID {
			return fmt.Errorf("%s: %w: the stored bytes do not match their name", key, ErrDamaged)
		}
		return nil
	})
}

// StatPack checks that a pack exists with its recorded size.
func (l *Lineage) StatPack(ctx context.Context, info PackInfo) error {
	key := packKey(l.keys.lineage, info.ID)
	o, err := l.st.Stat(ctx, key)
	if err != nil {
		return storeErr(key, err)
	}
	if o.Size != info.Size {
		return fmt.Errorf("%s: %w: %d bytes stored, %d recorded", key, ErrDamaged, o.Size, info.Size)
	}
	return nil
}

// ReadPack reads a whole pack and checks its bytes against its name and
// recorded size, for scrubs and copies. CheckPack then proves its inside.
// ErrNotFound, ErrDamaged.
func (l *Lineage) ReadPack(ctx context.Context, info PackInfo) ([]byte, error) {
	key := packKey(l.keys.lineage, info.ID)
	if info.Size <= 0 || info.Size > maxPack {
		return nil, fmt.Errorf("%s: %w: no pack has %d bytes", key, ErrDamaged, info.Size)
	}
	rc, err := l.st.Read(ctx, key, 0, -1)
	if err != nil {
		return nil, storeErr(key, err)
	}
	body, err := readBounded(rc, info.Size+1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(body)) != info.Size || sha256.Sum256(body) != info.ID {
		return nil, fmt.Errorf("%s: %w: the stored bytes do not match their name", key, ErrDamaged)
	}
	return body, nil
}

// CheckPack opens a finished pack's bytes the way a reader will: header,
// footer, then every frame in order, decrypted and decompressed. fn sees each
// frame's plaintext, valid during the call, and its error ends the check.
// Before a put it proves that what is about to be stored can be read.
func (l *Lineage) CheckPack(body []byte, fn func(ref FrameRef, plain []byte) error) error {
	start, n, err := splitPack(body)
	if err != nil {
		return err
	}
	c, err := l.keys.openCipher(body[:headerSize], typePack, packName(l.keys.lineage))
	if err != nil {
		return err
	}
	d, err := l.keys.coders.decoder()
	if err != nil {
		return err
	}
	defer l.keys.coders.dec.Put(d)
	footer, err := c.open(nil, footerFrame, true, body[start:start+n])
	if err != nil {
		return fmt.Errorf("footer: %w", err)
	}
	frames, err := parseFooter(footer, start)
	if err != nil {
		return err
	}
	var plain []byte
	for i, f := range frames {
		ref := FrameRef{Index: uint32(i), Offset: f.offset, Stored: f.stored}
		plain, err = d.openFrame(c, ref.Index, false, body[f.offset:f.offset+f.stored], plain[:0])
		if err != nil {
			return err
		}
		if len(plain) != int(f.raw) {
			return fmt.Errorf("%w: frame %d holds %d bytes, the footer says %d", ErrDamaged, i, len(plain), f.raw)
		}
		if fn == nil {
			continue
		}
		if err := fn(ref, plain); err != nil {
			return err
		}
	}
	return nil
}

// PackReader reads frames of one stored pack. Safe for concurrent use.
type PackReader struct {
	st  blob.Store
	key string
	c   *frameCipher
}

// OpenPack fetches a pack's header. ErrNotFound, ErrDamaged, ErrFormat.
func (l *Lineage) OpenPack(ctx context.Context, id PackID) (*PackReader, error) {
	p := &PackReader{st: l.st, key: packKey(l.keys.lineage, id)}
	head, err := p.Fetch(ctx, 0, headerSize, nil)
	if err != nil {
		return nil, err
	}
	if p.c, err = l.keys.openCipher(head, typePack, packName(l.keys.lineage)); err != nil {
		return nil, fmt.Errorf("%s: %w", p.key, err)
	}
	return p, nil
}

// Fetch appends stored bytes [off, off+n) of the pack to dst, for coalesced
// reads. A pack that ends earlier is ErrDamaged.
func (p *PackReader) Fetch(ctx context.Context, off, n int64, dst []byte) ([]byte, error) {
	if off < 0 || n < 0 || off > maxPack || n > maxPack-off {
		return nil, fmt.Errorf("%s: %w: no pack holds bytes %d to %d", p.key, ErrDamaged, off, off+n)
	}
	rc, err := p.st.Read(ctx, p.key, off, n)
	if err != nil {
		return nil, storeErr(p.key, err)
	}
	start := len(dst)
	dst = grow(dst, int(n))
	err = readFull(rc, dst[start:])
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, fmt.Errorf("%s: bytes %d to %d: %w", p.key, off, off+n, err)
	}
	return dst, nil
}

// Open authenticates, decrypts and decompresses one frame's stored bytes,
// appending the plaintext to dst; stored is left as it is. ErrDamaged.
func (p *PackReader) Open(d *Decoder, ref FrameRef, stored, dst []byte) ([]byte, error) {
	if uint32(len(stored)) != ref.Stored {
		return nil, fmt.Errorf("%s: %w: frame %d has %d bytes, not %d", p.key, ErrDamaged, ref.Index, len(stored), ref.Stored)
	}
	out, err := d.openFrame(p.c, ref.Index, false, stored, dst)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.key, err)
	}
	return out, nil
}

// grow lengthens b by n bytes of any content.
func grow(b []byte, n int) []byte {
	if cap(b)-len(b) < n {
		bigger := make([]byte, len(b), len(b)+n)
		copy(bigger, b)
		b = bigger
	}
	return b[:len(b)+n]
}
