package walrecord

import (
	"bytes"
	"errors"
	"fmt"
)

// xinfo: what a commit or abort record holds beyond its time, in this order
// (ParseCommitRecord and ParseAbortRecord in rmgrdesc/xactdesc.c).
const (
	hasDatabase     = 1 << 0
	hasSubxacts     = 1 << 1
	hasRelations    = 1 << 2
	hasInvals       = 1 << 3 // commits only
	hasTwoPhase     = 1 << 4
	hasOrigin       = 1 << 5
	hasGID          = 1 << 7
	hasDroppedStats = 1 << 8 // 15 and later
)

// Lengths of what these lists hold.
const (
	databaseBytes = 8
	relationBytes = 12
	invalBytes    = 16
	originBytes   = 16
)

// statBytes is the length of an xl_xact_stats_item; 18 widened its object id.
func statBytes(major int) int {
	if major >= 18 {
		return 16
	}
	return 12
}

// transaction reads xl_xact_commit or xl_xact_abort.
func (e *Event) transaction(r *Record, data []byte, major int) error {
	if major != 0 {
		return e.transactionOf(r, data, statBytes(major))
	}
	// No block header has said which version this is: the lists of one fill
	// the record exactly.
	first := *e
	if err := first.transactionOf(r, data, statBytes(18)); err == nil {
		*e = first
		return nil
	}
	return e.transactionOf(r, data, statBytes(15))
}

func (e *Event) transactionOf(r *Record, data []byte, stat int) error {
	op := r.Info & xactOpMask
	e.XID, e.Prepared = r.XID, op == xactCommitPrepared || op == xactAbortPrepared
	c := cursor{data: data, truncated: e.Truncated}
	e.Time = timestamp(c.take(8))
	var info uint32
	if r.Info&xactHasInfo != 0 {
		info = le32(c.take(4))
	}
	if info&hasDatabase != 0 {
		c.take(databaseBytes)
	}
	if info&hasSubxacts != 0 {
		e.Subs = c.list(4)
	}
	if info&hasRelations != 0 {
		c.list(relationBytes)
	}
	if info&hasDroppedStats != 0 {
		c.list(stat)
	}
	if info&hasInvals != 0 {
		c.list(invalBytes)
	}
	if info&hasTwoPhase != 0 {
		e.XID = le32(c.take(4))
		if info&hasGID != 0 {
			e.GID = c.text()
		}
	}
	if info&hasOrigin != 0 {
		o := c.take(originBytes)
		e.Origin, e.OriginTime = le64(o), timestamp(o[8:])
	}
	switch {
	case c.err != nil:
		return c.err
	case len(c.data) > 0 && !e.Truncated:
		return fmt.Errorf("%d bytes more than expected", len(c.data))
	case e.Prepared && info&hasTwoPhase == 0:
		return errors.New("a prepared transaction without a number")
	}
	return nil
}

// prepare reads an xl_xact_prepare, whose header grew in 15, and the name
// behind it.
func (e *Event) prepare(data []byte, major int) error {
	c := cursor{data: data, truncated: e.Truncated}
	head := c.take(24)
	e.XID, e.Time, e.Prepared = le32(head[8:]), timestamp(head[16:]), true
	size, gidLen := 72, 54
	switch {
	case c.err != nil:
		return c.err
	case major == 0:
		return nil // where the name is cannot be told
	case major < 15:
		size, gidLen = 64, 46
	}
	if len(data) < size {
		return errShort
	}
	n := int(data[gidLen]) | int(data[gidLen+1])<<8
	if n == 0 || len(data)-size < n {
		return errShort
	}
	e.GID = string(bytes.TrimRight(data[size:size+n], "\x00"))
	return nil
}

// cursor reads one thing after the other. After the end it reads zeros, and
// remembers that as an error, unless the data is known to be only a beginning.
type cursor struct {
	data      []byte
	truncated bool
	err       error
	zeros     [24]byte
}

// take reads n bytes, at most 24.
func (c *cursor) take(n int) []byte {
	if len(c.data) < n {
		c.short()
		return c.zeros[:n]
	}
	b := c.data[:n]
	c.data = c.data[n:]
	return b
}

// list reads a count and as many things of size bytes.
func (c *cursor) list(size int) []byte {
	n := int(int32(le32(c.take(4))))
	if n < 0 || n > len(c.data)/size {
		b := c.data[:len(c.data)/size*size]
		c.short()
		return b
	}
	b := c.data[:n*size]
	c.data = c.data[n*size:]
	return b
}

// text reads up to a zero byte.
func (c *cursor) text() string {
	b, rest, ok := bytes.Cut(c.data, []byte{0})
	if !ok {
		c.short()
	}
	c.data = rest
	return string(b)
}

func (c *cursor) short() {
	c.data = nil
	if !c.truncated {
		c.err = errShort
	}
}
