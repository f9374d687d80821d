package wal

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Why a segment was sealed (SegmentMeta.Reason).
const (
	reasonTime     = "time"
	reasonSize     = "size"
	reasonBoundary = "boundary"
	reasonShutdown = "shutdown"
)

// openSegment collects bytes until it is sealed. It exists only while it
// holds at least one byte.
type openSegment struct {
	start       Position
	data        []byte
	sum         hash.Hash // of data, kept up as it arrives: the next segment names it before the store has answered
	first, last time.Time // source's clock when its first and last byte were sent
	timer       *time.Timer
	due         bool // its time is up, but the uploaders are all busy
}

func newOpenSegment(start Position, sent time.Time) *openSegment {
	return &openSegment{start: start, sum: sha256.New(), first: sent, last: sent}
}

func (s *openSegment) add(data []byte, sent time.Time) {
	s.data = append(s.data, data...)
	s.sum.Write(data)
	if sent.After(s.last) {
		s.last = sent
	}
}

func (s *openSegment) end() Position { return s.start + Position(len(s.data)) }

// link is the end and hash of the segment before the next one.
type link struct {
	end  Position
	hash string
}

// sealedSegment is on its way into the store.
type sealedSegment struct {
	meta    repo.SegmentMeta
	data    []byte // nil: in the spool
	hash    string // what the store must report back
	started bool
	stored  bool
	err     error     // of the last attempt; nil while none has failed
	since   time.Time // this host's clock at the first failed attempt
}

func (s *sealedSegment) size() int { return int(s.meta.End - s.meta.Start) }

// seal closes a segment. prev is taken over only if it ends where s starts.
func (s *openSegment) seal(branch, reason string, prev link, beats []repo.Beat, source, now time.Time) *sealedSegment {
	if s.timer != nil {
		s.timer.Stop()
	}
	m := repo.SegmentMeta{
		Branch: branch, Start: s.start, End: s.end(),
		FirstTime: s.first, LastTime: s.last, SourceTime: source,
		Sealed: now, Reason: reason, Beats: beats,
	}
	if prev.hash != "" && prev.end == s.start {
		m.PrevEnd, m.PrevHash = prev.end, prev.hash
	}
	return &sealedSegment{meta: m, data: s.data, hash: hex.EncodeToString(s.sum.Sum(nil))}
}
