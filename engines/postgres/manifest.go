package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
)

// The server's backup_manifest (manual, "Backup Manifest Format") is JSON:
// a version, the files with size and checksum, the WAL ranges, and last, on a
// line of its own, a SHA-256 of everything before that line.

// manifestFile is one file the server says it sent.
type manifestFile struct {
	Path        string `json:"Path"`
	EncodedPath string `json:"Encoded-Path"` // hexadecimal, where the name is not UTF-8
	Size        int64  `json:"Size"`
	Algorithm   string `json:"Checksum-Algorithm"`
	Checksum    string `json:"Checksum"`
}

var errManifest = errors.New("malformed backup manifest")

// readManifest calls file for each entry, without holding the document in
// memory, and checks the document's own checksum.
func readManifest(r io.Reader, file func(manifestFile) error) error {
	sum := &lastLineHash{h: sha256.New()}
	tee := io.TeeReader(r, sum)
	dec := json.NewDecoder(tee)
	if err := expectDelim(dec, '{'); err != nil {
		return err
	}
	var stated string
	files := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return manifestError(err)
		}
		switch key {
		case "Files":
			files = true
			err = readManifestFiles(dec, file)
		case "Manifest-Checksum":
			err = manifestError(dec.Decode(&stated))
		default:
			var skip json.RawMessage
			err = manifestError(dec.Decode(&skip))
		}
		if err != nil {
			return err
		}
	}
	if err := expectDelim(dec, '}'); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, tee); err != nil {
		return err
	}
	if !files {
		return fmt.Errorf("%w: no list of files", errManifest)
	}
	if have := hex.EncodeToString(sum.h.Sum(nil)); !strings.EqualFold(have, stated) {
		return fmt.Errorf("%w: its checksum is %q, its bytes have %s", errManifest, stated, have)
	}
	return nil
}

func readManifestFiles(dec *json.Decoder, file func(manifestFile) error) error {
	if err := expectDelim(dec, '['); err != nil {
		return err
	}
	for dec.More() {
		var f manifestFile
		if err := dec.Decode(&f); err != nil {
			return manifestError(err)
		}
		if f.EncodedPath != "" {
			name, err := hex.DecodeString(f.EncodedPath)
			if err != nil {
				return fmt.Errorf("%w: path %q", errManifest, f.EncodedPath)
			}
			f.Path = string(name)
		}
		if f.Path == "" || f.Size < 0 {
			return fmt.Errorf("%w: path %q of %d bytes", errManifest, f.Path, f.Size)
		}
		if err := file(f); err != nil {
			return err
		}
	}
	return expectDelim(dec, ']')
}

func expectDelim(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return manifestError(err)
	}
	if t != want {
		return fmt.Errorf("%w: %v in place of %v", errManifest, t, want)
	}
	return nil
}

// manifestError keeps an error of the connection as it is: only a complete
// document can be malformed.
func manifestError(err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &kind) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", errManifest, err)
	}
	return err
}

// lastLineHash hashes what is written up to the last line, whose bytes it
// holds back until it knows that another line follows.
type lastLineHash struct {
	h    hash.Hash
	held []byte
}

func (l *lastLineHash) Write(p []byte) (int, error) {
	l.held = append(l.held, p...)
	if n := len(l.held); n > 0 {
		if i := bytes.LastIndexByte(l.held[:n-1], '\n'); i >= 0 {
			l.h.Write(l.held[:i+1])
			l.held = append(l.held[:0], l.held[i+1:]...)
		}
	}
	return len(p), nil
}
