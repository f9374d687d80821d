package postgres

import (
	"archive/tar"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"path"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

const (
	manifestItem   = "backup_manifest"
	tablespaceDir  = "pg_tblspc"
	checksumCRC32C = "CRC32C"
	maxMismatches  = 5 // named in an error
)

// unpacker turns a backup's archives into items, and remembers what came so
// that the server's manifest can be held against it.
type unpacker struct {
	ctx       context.Context
	sink      engines.Sink
	blockSize uint32
	seen      map[string]receivedFile
	spaces    map[uint32]*Tablespace
	files     int
}

type receivedFile struct {
	size int64
	crc  uint32
}

// archive stores the files of one tar. A tablespace's files go below
// pg_tblspc/<oid>/, where a server sees them through its link.
func (u *unpacker) archive(header newArchive, r io.Reader) error {
	oid, err := header.oid()
	if err != nil {
		return err
	}
	prefix := ""
	if oid != 0 {
		prefix = fmt.Sprintf("%s/%d", tablespaceDir, oid)
		u.spaces[oid] = &Tablespace{OID: oid, Location: header.Location}
		root := repo.Item{Path: prefix, Kind: repo.KindDir, Mode: 0o700}
		if err := u.sink.Put(u.ctx, root, nil); err != nil {
			return err
		}
	}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("archive %s: %w", header.Name, err)
		}
		if err := u.entry(prefix, h, tr); err != nil {
			return fmt.Errorf("archive %s: %w", header.Name, err)
		}
		if oid != 0 {
			u.spaces[oid].Items++
		}
	}
}

func (u *unpacker) entry(prefix string, h *tar.Header, r io.Reader) error {
	name, err := itemPath(prefix, h.Name)
	if err != nil || name == prefix || name == "" {
		return err // the archive's own root needs no item
	}
	item := repo.Item{Path: name, Mode: h.FileInfo().Mode().Perm(), ModTime: h.ModTime}
	switch h.Typeflag {
	case tar.TypeDir:
		item.Kind = repo.KindDir
		return u.sink.Put(u.ctx, item, nil)
	case tar.TypeSymlink:
		item.Kind, item.Link = repo.KindSymlink, h.Linkname
		return u.sink.Put(u.ctx, item, nil)
	case tar.TypeReg:
		item.Size, item.Extent = h.Size, extentOf(name, u.blockSize)
		return u.file(item, r)
	}
	return fmt.Errorf("%q has the unknown type %q", h.Name, h.Typeflag)
}

func (u *unpacker) file(item repo.Item, r io.Reader) error {
	if _, twice := u.seen[item.Path]; twice {
		return fmt.Errorf("%q came twice", item.Path)
	}
	count := &countingHash{Hash32: crc32.New(crc32.MakeTable(crc32.Castagnoli))}
	if err := u.sink.Put(u.ctx, item, io.TeeReader(r, count)); err != nil {
		return err
	}
	if count.n != item.Size {
		return fmt.Errorf("%q: %d of %d bytes were stored", item.Path, count.n, item.Size)
	}
	u.seen[item.Path] = receivedFile{size: count.n, crc: count.Sum32()}
	return nil
}

type countingHash struct {
	hash.Hash32
	n int64
}

func (c *countingHash) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.Hash32.Write(p)
}

// itemPath makes a tar name an item path. Servers write clean relative names;
// anything else is refused, because it is later joined to a directory.
func itemPath(prefix, name string) (string, error) {
	clean := path.Clean(strings.TrimSuffix(name, "/"))
	if clean == "." || name == "" {
		return prefix, nil
	}
	if path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.Contains("/"+name+"/", "/../") || strings.ContainsRune(name, 0) {
		return "", fmt.Errorf("%q is not a path inside a data directory", name)
	}
	return path.Join(prefix, clean), nil
}

// extentOf is the cut of a file: a page where the server writes pages, so
// that the next backup can be compared page by page; 0 elsewhere.
func extentOf(name string, blockSize uint32) uint32 {
	dir, base := path.Split(name)
	for _, p := range []string{"base/", "global/", tablespaceDir + "/"} {
		if strings.HasPrefix(dir, p) && isRelationFile(base) {
			return blockSize
		}
	}
	return 0
}

// isRelationFile knows relation files by their names: a relfilenode, then
// optionally a fork ("_fsm", "_vm", "_init") and a segment (".1").
func isRelationFile(base string) bool {
	digits := strings.TrimLeft(base, "0123456789")
	if digits == base {
		return false
	}
	for _, fork := range []string{"_fsm", "_vm", "_init"} {
		if rest, ok := strings.CutPrefix(digits, fork); ok {
			digits = rest
			break
		}
	}
	segment, ok := strings.CutPrefix(digits, ".")
	return digits == "" || ok && segment != "" && strings.Trim(segment, "0123456789") == ""
}

// manifest stores the server's manifest and compares it with what came.
func (u *unpacker) manifest(r io.Reader) error {
	pr, pw := io.Pipe()
	var wrong []string
	missing := map[string]struct{}{}
	parsed := make(chan error, 1)
	left := u.seen // what the server does not list stays in it
	go func() {
		err := readManifest(pr, func(f manifestFile) error {
			u.files++
			got, ok := left[f.Path]
			switch {
			case !ok:
				missing[f.Path] = struct{}{}
			case got.size != f.Size:
				wrong = append(wrong, fmt.Sprintf("%s (%d bytes, the server says %d)", f.Path, got.size, f.Size))
			case f.Algorithm == checksumCRC32C && !sameCRC(got.crc, f.Checksum):
				wrong = append(wrong, f.Path+" (checksum)")
			}
			delete(left, f.Path)
			return nil
		})
		pr.CloseWithError(err) // an early end must not block the writer
		parsed <- err
	}()
	item := repo.Item{Path: manifestItem, Mode: 0o600}
	putErr := u.sink.Put(u.ctx, item, io.TeeReader(r, pw))
	pw.CloseWithError(orEOF(putErr))
	if err := <-parsed; putErr == nil && err != nil {
		return err
	}
	if putErr != nil {
		return putErr
	}
	return mismatch(missing, left, wrong)
}

func orEOF(err error) error {
	if err == nil {
		return io.EOF
	}
	return err
}

// sameCRC: the server prints the checksum's bytes in its own byte order.
func sameCRC(have uint32, stated string) bool {
	b, err := hex.DecodeString(stated)
	if err != nil || len(b) != 4 {
		return false
	}
	little := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
	big := uint32(b[3]) | uint32(b[2])<<8 | uint32(b[1])<<16 | uint32(b[0])<<24
	return have == little || have == big
}

// IncompleteError: what came is not what the server says it sent.
type IncompleteError struct {
	Missing, Extra int
	Wrong          int
	Examples       []string
}

func (e *IncompleteError) Error() string {
	return fmt.Sprintf("the base backup differs from the server's own list: %d files missing, %d not listed, %d different (%s)",
		e.Missing, e.Extra, e.Wrong, strings.Join(e.Examples, "; "))
}

func mismatch(missing map[string]struct{}, extra map[string]receivedFile, wrong []string) error {
	if len(missing)+len(extra)+len(wrong) == 0 {
		return nil
	}
	e := &IncompleteError{Missing: len(missing), Extra: len(extra), Wrong: len(wrong)}
	add := func(s string) {
		if len(e.Examples) < maxMismatches {
			e.Examples = append(e.Examples, s)
		}
	}
	for p := range missing {
		add(p + " (missing)")
	}
	for p := range extra {
		add(p + " (not listed)")
	}
	for _, w := range wrong {
		add(w)
	}
	return e
}
