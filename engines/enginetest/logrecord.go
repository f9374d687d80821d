package enginetest

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"time"
)

// op is what a log record does. Every op sets or removes an absolute value,
// so replaying one twice changes nothing: a base may be older in some tables
// than in others.
type op byte

const (
	opSet        op = 1
	opDelete     op = 2
	opDrop       op = 3 // the whole table
	opCheckpoint op = 4 // a base backup begins or ends; changes nothing
)

// change is one committed change in the log.
type change struct {
	Op                op
	Time              time.Time // commit time, microseconds
	Table, Key, Value string
}

var (
	// errShort: the log ends inside a record; more may follow.
	errShort = errors.New("log ends inside a record")
	// errCorrupt: the bytes are no record.
	errCorrupt = errors.New("corrupt log record")
)

const (
	recordHead = 8 // length of the payload, its CRC-32
	recordMax  = 1 << 20
)

// appendChange encodes c.
func appendChange(dst []byte, c change) []byte {
	payload := []byte{byte(c.Op)}
	payload = binary.LittleEndian.AppendUint64(payload, uint64(c.Time.UnixMicro()))
	for _, s := range []string{c.Table, c.Key, c.Value} {
		payload = binary.AppendUvarint(payload, uint64(len(s)))
		payload = append(payload, s...)
	}
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.ChecksumIEEE(payload))
	return append(dst, payload...)
}

// parseChange decodes the first record of b and its length.
func parseChange(b []byte) (change, int, error) {
	if len(b) < recordHead {
		return change{}, 0, errShort
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n < 9 || n > recordMax {
		return change{}, 0, errCorrupt
	}
	if len(b) < recordHead+n {
		return change{}, 0, errShort
	}
	payload := b[recordHead : recordHead+n]
	if crc32.ChecksumIEEE(payload) != binary.LittleEndian.Uint32(b[4:]) {
		return change{}, 0, errCorrupt
	}
	c := change{Op: op(payload[0]), Time: time.UnixMicro(int64(binary.LittleEndian.Uint64(payload[1:]))).UTC()}
	rest := payload[9:]
	for _, s := range []*string{&c.Table, &c.Key, &c.Value} {
		length, used := binary.Uvarint(rest)
		if used <= 0 || length > uint64(len(rest)-used) {
			return change{}, 0, errCorrupt
		}
		*s = string(rest[used : used+int(length)])
		rest = rest[used+int(length):]
	}
	if len(rest) != 0 || c.Op < opSet || c.Op > opCheckpoint {
		return change{}, 0, errCorrupt
	}
	return c, recordHead + n, nil
}

// tables is a database's content: table, key, value.
type tables map[string]map[string]string

// apply replays one change.
func (t tables) apply(c change) {
	switch c.Op {
	case opSet:
		if t[c.Table] == nil {
			t[c.Table] = map[string]string{}
		}
		t[c.Table][c.Key] = c.Value
	case opDelete:
		delete(t[c.Table], c.Key)
	case opDrop:
		delete(t, c.Table)
	case opCheckpoint:
	}
}

func (t tables) clone() tables {
	out := tables{}
	for name, rows := range t {
		out[name] = map[string]string{}
		for k, v := range rows {
			out[name][k] = v
		}
	}
	return out
}
