package walrecord

import (
	"encoding/binary"
	"fmt"
)

// Resource managers whose records Decode knows (access/rmgrlist.h).
const (
	RMXLOG = 0
	RMXact = 1
)

// recordHeader is SizeOfXLogRecord; maxRecord is XLogRecordMaxSize (16 and
// later; earlier versions cannot write more than 1 GB either).
const (
	recordHeader = 24
	maxRecord    = 1<<30 - 1
)

// Record is one whole record whose checksum is right. It and its Body are
// valid only during the call that gets it.
type Record struct {
	Start  uint64 // of its first byte
	Last   uint64 // of its last byte
	End    uint64 // what follows it: aligned, or the next segment's start behind a segment switch
	Next   uint64 // where the next record begins: End, behind the block header if one is there
	Prev   uint64 // Start of the record before it
	Length uint32 // bytes, header included, block headers on the way not
	XID    uint32
	RM     uint8  // resource manager
	Info   uint8  // flags, the resource manager's own in the upper half
	Major  int    // of the server that wrote it; 0: no block header has been seen yet
	Body   []byte // what follows the header, of records that Decode knows; nil otherwise
}

// parse fills in what a record's header says (XLogRecord in
// access/xlogrecord.h) and returns its checksum.
func (r *Record) parse(h []byte) (crc uint32) {
	_ = h[recordHeader-1]
	r.Length = binary.LittleEndian.Uint32(h)
	r.XID = binary.LittleEndian.Uint32(h[4:])
	r.Prev = binary.LittleEndian.Uint64(h[8:])
	r.Info = h[16]
	r.RM = h[17]
	return binary.LittleEndian.Uint32(h[20:])
}

// EndError says where the log stops making sense. Written log ends like this
// in a server's own files: zeros, or what an older use of the file left.
type EndError struct {
	At   uint64 // the record or block header that is none
	Why  string
	Zero bool // there are zeros: nothing was written here yet
}

func (e *EndError) Error() string {
	return fmt.Sprintf("the log ends at %X/%X: %s", uint32(e.At>>32), uint32(e.At), e.Why)
}

// align rounds up to where a record may begin.
func align(pos uint64) uint64 { return (pos + 7) &^ 7 }
