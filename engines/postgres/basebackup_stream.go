package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// The answer to BASE_BACKUP is (manual, "Streaming Replication Protocol"): a
// row with start position and timeline; a result with one row a tablespace;
// the archives; a row with stop position and timeline. Up to 14 each archive
// is a COPY of its own, in the order of the tablespace rows, and the manifest
// is the last; from 15 all travel in one COPY whose messages begin with a
// type: 'n' a new archive, 'm' the manifest, 'd' bytes, 'p' progress.

// Messages of the one COPY of 15 and later.
const (
	copyNewArchive = 'n'
	copyManifest   = 'm'
	copyBytes      = 'd'
	copyProgress   = 'p'
)

// newArchive is the header of one archive.
type newArchive struct {
	Name     string // "base.tar", "16384.tar"
	Location string // tablespace's path at the server; "" for the main directory
}

var errFraming = errors.New("unexpected message in the answer to BASE_BACKUP")

// parseNewArchive reads the body of an 'n' message: two strings, each ended
// by a zero byte.
func parseNewArchive(b []byte) (newArchive, error) {
	name, rest, ok := bytes.Cut(b, []byte{0})
	location, rest, ok2 := bytes.Cut(rest, []byte{0})
	if !ok || !ok2 || len(rest) != 0 {
		return newArchive{}, fmt.Errorf("%w: archive header %q", errFraming, b)
	}
	return newArchive{Name: string(name), Location: string(location)}, nil
}

// oid is the tablespace's, 0 for the main directory.
func (a newArchive) oid() (uint32, error) {
	if a.Location == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(a.Name, ".tar"), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%w: archive %q of tablespace %q", errFraming, a.Name, a.Location)
	}
	return uint32(n), nil
}

// backupStream reads one BASE_BACKUP answer in order.
type backupStream struct {
	conn  *pgconn.PgConn
	ctx   context.Context // of the whole backup; io.Reader has no room for one
	typed bool            // one COPY with typed messages (15+)
	stall *time.Timer     // stopped while nobody reads

	inCopy bool
	rest   []byte // unread bytes of the current message
	ahead  pgproto3.BackendMessage
}

// backupStall is how long the server may stay silent while it copies.
// Before the first byte it may be silent for as long as a spread checkpoint
// takes, which only the connection's keepalives bound.
const backupStall = 5 * time.Minute

// receive returns the next message that is not a notice or a parameter.
func (b *backupStream) receive() (pgproto3.BackendMessage, error) {
	if m := b.ahead; m != nil {
		b.ahead = nil
		return m, nil
	}
	if b.inCopy {
		b.stall.Reset(backupStall)
		defer b.stall.Stop()
	}
	for {
		msg, err := b.conn.ReceiveMessage(b.ctx)
		if err != nil {
			if cause := context.Cause(b.ctx); cause != nil {
				return nil, cause
			}
			return nil, fmt.Errorf("the connection was lost during the base backup: %w", err)
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus, *pgproto3.NotificationResponse:
		case *pgproto3.ErrorResponse:
			return nil, pgconn.ErrorResponseToPgError(m)
		default:
			return msg, nil
		}
	}
}

// rows reads one result set; null is "".
func (b *backupStream) rows(columns int) ([][]string, error) {
	var out [][]string
	for {
		msg, err := b.receive()
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.RowDescription:
		case *pgproto3.DataRow:
			if len(m.Values) < columns {
				return nil, fmt.Errorf("%w: a row of %d columns", errFraming, len(m.Values))
			}
			row := make([]string, len(m.Values))
			for i, v := range m.Values {
				row[i] = string(v)
			}
			out = append(out, row)
		case *pgproto3.CommandComplete:
			return out, nil
		default:
			return nil, fmt.Errorf("%w: %T in place of rows", errFraming, msg)
		}
	}
}

// point reads the one-row result that opens and closes a backup.
func (b *backupStream) point() (repo.Position, uint32, error) {
	rows, err := b.rows(2)
	if err != nil {
		return 0, 0, err
	}
	if len(rows) != 1 {
		return 0, 0, fmt.Errorf("%w: %d rows for a position", errFraming, len(rows))
	}
	lsn, err := ParseLSN(rows[0][0])
	if err != nil {
		return 0, 0, err
	}
	tli, err := strconv.ParseUint(rows[0][1], 10, 32)
	if err != nil {
		return 0, 0, fmt.Errorf("%w: timeline %q", errFraming, rows[0][1])
	}
	return lsn, uint32(tli), nil
}

// tablespaces reads the second result: the main directory has a null oid.
func (b *backupStream) tablespaces() ([]newArchive, error) {
	rows, err := b.rows(2)
	if err != nil {
		return nil, err
	}
	out := make([]newArchive, len(rows))
	for i, r := range rows {
		out[i] = newArchive{Name: "base.tar"}
		if r[0] != "" {
			out[i] = newArchive{Name: r[0] + ".tar", Location: r[1]}
		}
	}
	return out, nil
}

// archives calls archive for each tar and manifest for the manifest. What a
// callback leaves unread is skipped.
func (b *backupStream) archives(listed []newArchive, archive func(newArchive, io.Reader) error, manifest func(io.Reader) error) error {
	if b.typed {
		return b.typedArchives(archive, manifest)
	}
	for i := 0; i <= len(listed); i++ {
		if err := b.expectCopy(); err != nil {
			return err
		}
		err := error(nil)
		if i < len(listed) {
			err = archive(listed[i], plainCopy{b})
		} else {
			err = manifest(plainCopy{b})
		}
		if err == nil {
			_, err = io.Copy(io.Discard, plainCopy{b})
		}
		if err != nil {
			return err
		}
		b.inCopy, b.ahead = false, nil // the copy's end, see plainCopy
	}
	return nil
}

func (b *backupStream) expectCopy() error {
	msg, err := b.receive()
	if err != nil {
		return err
	}
	if _, ok := msg.(*pgproto3.CopyOutResponse); !ok {
		return fmt.Errorf("%w: %T in place of a copy", errFraming, msg)
	}
	b.inCopy = true
	return nil
}

// plainCopy reads one COPY to its end (13 and 14).
type plainCopy struct{ b *backupStream }

func (c plainCopy) Read(p []byte) (int, error) {
	b := c.b
	for len(b.rest) == 0 {
		msg, err := b.receive()
		if err != nil {
			return 0, err
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			b.rest = m.Data
		case *pgproto3.CopyDone:
			// Left for the next Read too, so that the end stays the end.
			b.ahead = &pgproto3.CopyDone{}
			return 0, io.EOF
		default:
			return 0, fmt.Errorf("%w: %T in a copy", errFraming, msg)
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

// typedArchives reads the one COPY of 15 and later.
func (b *backupStream) typedArchives(archive func(newArchive, io.Reader) error, manifest func(io.Reader) error) error {
	if err := b.expectCopy(); err != nil {
		return err
	}
	for {
		data, done, err := b.typedMessage()
		if err != nil {
			return err
		}
		if done {
			b.inCopy = false
			return nil
		}
		switch data[0] {
		case copyNewArchive:
			header, err := parseNewArchive(data[1:])
			if err != nil {
				return err
			}
			if err := b.section(func(r io.Reader) error { return archive(header, r) }); err != nil {
				return err
			}
		case copyManifest:
			if err := b.section(manifest); err != nil {
				return err
			}
		case copyProgress:
		default:
			return fmt.Errorf("%w: type %q between archives", errFraming, data[0])
		}
	}
}

func (b *backupStream) section(use func(io.Reader) error) error {
	if err := use(typedCopy{b}); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, typedCopy{b})
	return err
}

// typedMessage returns the next message of the COPY, or done at its end.
func (b *backupStream) typedMessage() (data []byte, done bool, err error) {
	msg, err := b.receive()
	if err != nil {
		return nil, false, err
	}
	switch m := msg.(type) {
	case *pgproto3.CopyData:
		if len(m.Data) == 0 {
			return nil, false, fmt.Errorf("%w: an empty one", errFraming)
		}
		return m.Data, false, nil
	case *pgproto3.CopyDone:
		return nil, true, nil
	}
	return nil, false, fmt.Errorf("%w: %T in a copy", errFraming, msg)
}

// typedCopy reads bytes up to the next message that is no data.
type typedCopy struct{ b *backupStream }

func (c typedCopy) Read(p []byte) (int, error) {
	b := c.b
	for len(b.rest) == 0 {
		data, done, err := b.typedMessage()
		switch {
		case err != nil:
			return 0, err
		case done:
			b.ahead = &pgproto3.CopyDone{}
			return 0, io.EOF
		case data[0] == copyBytes:
			b.rest = data[1:]
		case data[0] == copyNewArchive, data[0] == copyManifest:
			b.ahead = &pgproto3.CopyData{Data: bytes.Clone(data)}
			return 0, io.EOF
		case data[0] != copyProgress:
			return 0, fmt.Errorf("%w: type %q", errFraming, data[0])
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}
