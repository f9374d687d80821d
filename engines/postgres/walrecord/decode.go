package walrecord

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// What a record does: xl_info of resource manager XLOG (catalog/pg_control.h)
// and Transaction (access/xact.h).
const (
	opMask = 0xF0

	xlogCheckpointShutdown  = 0x00
	xlogCheckpointOnline    = 0x10
	xlogSwitch              = 0x40
	xlogBackupEnd           = 0x50
	xlogRestorePoint        = 0x70
	xlogEndOfRecovery       = 0x90
	xlogOverwriteContrecord = 0xD0

	xactOpMask         = 0x70
	xactCommit         = 0x00
	xactPrepare        = 0x10
	xactAbort          = 0x20
	xactCommitPrepared = 0x30
	xactAbortPrepared  = 0x40
	xactHasInfo        = 0x80
)

// Kind is what a record is, as far as a restore may care.
type Kind uint8

// Kinds of records.
const (
	Other Kind = iota
	Commit
	Abort
	Prepare
	RestorePoint
	CheckpointShutdown
	CheckpointOnline
	EndOfRecovery
	BackupEnd
	Switch
	OverwriteContrecord
)

// Kind says what the record is.
func (r *Record) Kind() Kind { return kindOf(r.RM, r.Info) }

func kindOf(rm, info uint8) Kind {
	switch {
	case rm == RMXact:
		switch info & xactOpMask {
		case xactCommit, xactCommitPrepared:
			return Commit
		case xactAbort, xactAbortPrepared:
			return Abort
		case xactPrepare:
			return Prepare
		}
	case rm == RMXLOG:
		switch info & opMask {
		case xlogCheckpointShutdown:
			return CheckpointShutdown
		case xlogCheckpointOnline:
			return CheckpointOnline
		case xlogSwitch:
			return Switch
		case xlogBackupEnd:
			return BackupEnd
		case xlogRestorePoint:
			return RestorePoint
		case xlogEndOfRecovery:
			return EndOfRecovery
		case xlogOverwriteContrecord:
			return OverwriteContrecord
		}
	}
	return Other
}

// wanted says whether a record's body is kept for Decode.
func wanted(rm, info uint8) bool {
	if rm > RMXact {
		return false
	}
	k := kindOf(rm, info)
	return k != Other && k != Switch
}

var errBody = errors.New("malformed record")

// Event is what a record of a kind other than Other says. Which fields are
// set depends on the kind.
type Event struct {
	Kind Kind
	// Time is that of a commit, abort, prepare, restore point or end of
	// recovery, by the server's clock, to the microsecond; of a checkpoint to
	// the second.
	Time time.Time
	// XID is the transaction that was committed, aborted or prepared. Of
	// COMMIT PREPARED and ROLLBACK PREPARED it is that of the prepared
	// transaction, which the record's own header does not have.
	XID uint32
	// Subs are the committed or aborted subtransactions: little-endian numbers
	// of four bytes each, a part of the record's Body. See HasSub.
	Subs     []byte
	Prepared bool   // a commit or abort of a prepared transaction
	GID      string // a prepared transaction's name, where the record has it

	Origin     uint64    // position at the source a replayed transaction came from (logical replication); 0: none
	OriginTime time.Time // likewise

	Name string // of a restore point

	Redo     uint64 // a checkpoint's redo position; the start of the base backup that ended
	NextXID  uint64 // at a checkpoint, the epoch in the upper half
	Timeline uint32 // of a checkpoint or from an end of recovery on
	PrevTLI  uint32 // the one before it, or the same

	Aborted uint64 // where a record begins that a crash left incomplete

	Truncated bool // the record is larger than what is kept of one: Subs or XID may be incomplete
}

// HasSub says whether a transaction is one of the subtransactions.
func (e *Event) HasSub(xid uint32) bool {
	for s := e.Subs; len(s) >= 4; s = s[4:] {
		if binary.LittleEndian.Uint32(s) == xid {
			return true
		}
	}
	return false
}

// Decode reads what a record says; a record of kind Other says nothing. Where
// the record's Major is 0, assume is taken for it (0: whatever fits).
func (r *Record) Decode(assume int) (Event, error) {
	e := Event{Kind: r.Kind()}
	if e.Kind == Other || e.Kind == Switch {
		return e, nil
	}
	major := r.Major
	if major == 0 {
		major = assume
	}
	e.Truncated = len(r.Body) < int(r.Length)-recordHeader
	data, err := mainData(r.Body, int(r.Length)-recordHeader)
	if err == nil {
		err = e.decode(r, data, major)
	}
	if err != nil {
		return e, fmt.Errorf("%w at %X/%X: %w", errBody, uint32(r.Start>>32), uint32(r.Start), err)
	}
	return e, nil
}

func (e *Event) decode(r *Record, data []byte, major int) error {
	switch e.Kind {
	case Commit, Abort:
		return e.transaction(r, data, major)
	case Prepare:
		return e.prepare(data, major)
	case RestorePoint: // xl_restore_point
		if len(data) < 9 {
			return errShort
		}
		e.Time = timestamp(data)
		name, _, _ := bytes.Cut(data[8:], []byte{0})
		e.Name = string(name)
	case CheckpointShutdown, CheckpointOnline:
		return e.checkpoint(data)
	case EndOfRecovery: // xl_end_of_recovery
		if len(data) < 16 {
			return errShort
		}
		e.Time, e.Timeline, e.PrevTLI = timestamp(data), le32(data[8:]), le32(data[12:])
	case BackupEnd: // an XLogRecPtr
		if len(data) < 8 {
			return errShort
		}
		e.Redo = le64(data)
	case OverwriteContrecord: // xl_overwrite_contrecord
		if len(data) < 16 {
			return errShort
		}
		e.Aborted, e.Time = le64(data), timestamp(data[8:])
	}
	return nil
}

// checkpoint reads a CheckPoint (catalog/pg_control.h), whose beginning is the
// same in all versions but for what 17 put into a hole in it.
func (e *Event) checkpoint(data []byte) error {
	if len(data) < 72 {
		return errShort
	}
	e.Redo, e.Timeline, e.PrevTLI = le64(data), le32(data[8:]), le32(data[12:])
	e.NextXID = le64(data[24:])
	e.Time = time.Unix(int64(le64(data[64:])), 0).UTC()
	return nil
}

var errShort = errors.New("it ends too early")

// Block ids that are none (access/xlogrecord.h).
const (
	idShort    = 255
	idLong     = 254
	idOrigin   = 253
	idTopLevel = 252
)

// mainData finds the resource manager's own part of a record without blocks:
// it ends with the record. size is the body's length, of which b may be the
// beginning only.
func mainData(b []byte, size int) ([]byte, error) {
	for off := 0; off < len(b); {
		var head, n int
		switch b[off] {
		case idOrigin:
			off += 3
			continue
		case idTopLevel:
			off += 5
			continue
		case idShort:
			head = off + 2
			if head <= len(b) {
				n = int(b[off+1])
			}
		case idLong:
			head = off + 5
			if head <= len(b) {
				n = int(le32(b[off+1:]))
			}
		default:
			return nil, fmt.Errorf("it refers to block %d", b[off])
		}
		if head > len(b) || n != size-head {
			return nil, fmt.Errorf("%d bytes of data in %d of body", n, size)
		}
		return b[head:], nil
	}
	return nil, errShort
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// epoch is where TimestampTz begins: microseconds since 2000-01-01 UTC.
const epoch = 946684800

// timestamp reads a TimestampTz.
func timestamp(b []byte) time.Time {
	us := int64(le64(b))
	return time.Unix(epoch+us/1e6, us%1e6*1e3).UTC()
}
