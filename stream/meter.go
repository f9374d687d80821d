package stream

import (
	"math"
	"sync"
	"time"
)

// rateHalfLife is how fast the shown rate forgets: a stall shows within
// seconds, one slow file does not make the ETA jump.
const rateHalfLife = 5 * time.Second

// Meter is a Progress that computes a rate and an ETA. Safe for concurrent use.
type Meter struct {
	clock func() time.Time

	mu                  sync.Mutex
	total, read, stored int64
	item                string
	started, last       time.Time
	lastRead            int64
	rate                float64
	rated               bool
}

// Snapshot is a Meter at one moment.
type Snapshot struct {
	Read, Stored int64 // bytes so far
	Total        int64 // bytes expected; 0: unknown
	Rate         float64
	ETA          time.Duration // until Read reaches Total; negative: unknown
	Elapsed      time.Duration
	Item         string // that began last
}

// NewMeter starts a meter. clock must not run backwards (time.Now does not).
func NewMeter(clock func() time.Time) *Meter {
	now := clock()
	return &Meter{clock: clock, started: now, last: now}
}

func (m *Meter) Total(bytes int64)  { m.mu.Lock(); m.total = bytes; m.mu.Unlock() }
func (m *Meter) Read(bytes int64)   { m.mu.Lock(); m.read += bytes; m.mu.Unlock() }
func (m *Meter) Stored(bytes int64) { m.mu.Lock(); m.stored += bytes; m.mu.Unlock() }
func (m *Meter) Item(path string)   { m.mu.Lock(); m.item = path; m.mu.Unlock() }

// Snapshot returns the counts, the rate in bytes a second (an exponentially
// weighted mean over the intervals between snapshots) and the time left.
func (m *Meter) Snapshot() Snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock()
	if dt := now.Sub(m.last); dt > 0 {
		current := float64(m.read-m.lastRead) / dt.Seconds()
		keep := math.Exp2(-float64(dt) / float64(rateHalfLife))
		if !m.rated {
			keep = 0
		}
		m.rate = keep*m.rate + (1-keep)*current
		m.last, m.lastRead, m.rated = now, m.read, true
	}
	s := Snapshot{
		Read: m.read, Stored: m.stored, Total: m.total, Rate: m.rate,
		ETA: -1, Elapsed: now.Sub(m.started), Item: m.item,
	}
	switch left := m.total - m.read; {
	case m.total <= 0:
	case left <= 0:
		s.ETA = 0
	case m.rate >= 1:
		if secs := float64(left) / m.rate; secs < 1e8 {
			s.ETA = time.Duration(secs * float64(time.Second))
		}
	}
	return s
}
