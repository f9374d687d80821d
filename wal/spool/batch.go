package spool

import (
	"maps"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// batch is what one write makes durable: records, cut into frames.
type batch struct {
	frame  int   // most plaintext of a frame, bytes
	start  Point // where the branch stood before it
	end    Point // … and behind it
	frames [][]byte
	used   int // frames in use
	plain  int // bytes of records
	facts  facts
}

func (b *batch) reset() {
	if b.plain > maxBatch {
		b.frames = nil // one large chunk is no reason to keep its memory
	}
	b.start, b.end = Point{}, Point{}
	b.used, b.plain, b.facts = 0, 0, facts{}
}

// add appends a record of at most n bytes to the last frame, or to a new one
// when that is full.
func (b *batch) add(n int, record func(dst []byte) []byte) {
	if b.used == 0 || len(b.frames[b.used-1])+n > b.frame {
		if b.used == len(b.frames) {
			b.frames = append(b.frames, nil)
		}
		b.frames[b.used] = b.frames[b.used][:0]
		b.used++
	}
	f := &b.frames[b.used-1]
	was := len(*f)
	*f = record(*f)
	b.plain += len(*f) - was
}

func (b *batch) begin(p Point) {
	b.add(len(p.Branch)+maxRecord, func(dst []byte) []byte { return appendBegin(dst, p) })
	b.end = p
}

// log adds data at p, in pieces of at most a frame.
func (b *batch) log(p Point, data []byte, sent time.Time) {
	b.startAt(p)
	for from := 0; from < len(data); {
		to := min(len(data), from+b.frame-maxRecord)
		b.add(to-from+maxRecord, func(dst []byte) []byte { return appendLog(dst, data[from:to], sent) })
		from = to
	}
	b.facts.log(p, len(data), sent)
	b.end = Point{Branch: p.Branch, Pos: p.Pos + Position(len(data))}
}

func (b *batch) beat(p Point, beat repo.Beat) {
	b.startAt(p)
	b.add(maxRecord, func(dst []byte) []byte { return appendBeat(dst, beat) })
	b.facts.beat(p)
	b.end = p
}

// startAt notes where the batch begins; one that begins with Begin needs none.
func (b *batch) startAt(p Point) {
	if b.used == 0 {
		b.start = p
	}
}

func (b *batch) bound() int64 { return bound(b.plain, b.used) }

// bound is the most that n bytes of records in so many frames take on disk: a
// frame's back, algorithm, length, tag and padding; the header, link and
// branch of a new file.
func bound(n, frames int) int64 { return int64(n + frames*(unit+64) + 2*unit) }

// Range is a stretch of log: [Start, End) of a branch.
type Range struct {
	Branch     string
	Start, End Position
}

// facts is what is in a file, a batch or a spool.
type facts struct {
	ranges      []Range             // in the order written
	need        map[string]Position // it may go when the store holds each branch up to here
	first, last time.Time           // source's clock when its log was sent
	beats       int
}

func (f *facts) log(p Point, n int, sent time.Time) {
	end := p.Pos + Position(n)
	f.cover(Range{p.Branch, p.Pos, end})
	f.want(p.Branch, end)
	f.sent(sent)
}

// beat: see Spool.Beat for when it may go.
func (f *facts) beat(p Point) {
	f.beats++
	f.want(p.Branch, p.Pos+1)
}

func (f *facts) cover(r Range) {
	if r.Start == r.End {
		return
	}
	if n := len(f.ranges); n > 0 && f.ranges[n-1].Branch == r.Branch && f.ranges[n-1].End == r.Start {
		f.ranges[n-1].End = r.End
		return
	}
	f.ranges = append(f.ranges, r)
}

func (f *facts) want(branch string, upTo Position) {
	if f.need == nil {
		f.need = map[string]Position{}
	}
	f.need[branch] = max(f.need[branch], upTo)
}

func (f *facts) sent(t time.Time) {
	if t.IsZero() {
		return
	}
	if f.first.IsZero() || t.Before(f.first) {
		f.first = t
	}
	if t.After(f.last) {
		f.last = t
	}
}

// add takes over what o, written later, holds.
func (f *facts) add(o facts) {
	for _, r := range o.ranges {
		f.cover(r)
	}
	for branch, upTo := range maps.All(o.need) {
		f.want(branch, upTo)
	}
	f.sent(o.first)
	f.sent(o.last)
	f.beats += o.beats
}

// gone reports whether the store holds all of it.
func (f *facts) gone(stored map[string]Position) bool {
	for branch, upTo := range f.need {
		if stored[branch] < upTo {
			return false
		}
	}
	return true
}
