package wal

import "time"

// Status is an archiver at one moment.
type Status struct {
	Branch        string
	Begun         Position  // where Begin put this run
	Received      Position  // end of what was written
	Durable       Position  // end of what is durable where the user wants it
	Stored        Position  // end of what is in the store
	StoredTime    time.Time // source's clock when the last stored byte was sent; zero: none in this run
	SourceTime    time.Time // source's clock at the last good round trip
	OpenBytes     int       // in the segment not sealed yet
	PendingBytes  int       // sealed, not in the store
	SpoolFull     bool      // nothing more is received until the store has taken some
	PendingBeats  int       // in no sealed segment yet
	StoreErr      error     // of the latest attempt at what has failed longest; nil: the store answers
	RetryingSince time.Time // this host's clock when that began
	Hole          *Range    // log that was lost before this run began; nil: none
	Err           error     // final failure
}

// Status is a snapshot. Safe for concurrent use.
func (a *Archiver) Status() Status {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Status{
		Branch: a.branch.ID, Begun: a.start, Received: a.end, Durable: a.durable(), Stored: a.stored,
		SourceTime: a.source, PendingBytes: a.pending, SpoolFull: a.full,
		PendingBeats: len(a.beats), Hole: a.hole, Err: a.err,
		StoreErr: a.otherErr, RetryingSince: a.otherFrom,
	}
	if a.open != nil {
		s.OpenBytes = len(a.open.data)
	}
	if a.last != nil {
		s.StoredTime = a.last.LastTime
	}
	for _, q := range a.queue {
		if q.err != nil && !q.stored && (s.StoreErr == nil || q.since.Before(s.RetryingSince)) {
			s.StoreErr, s.RetryingSince = q.err, q.since
		}
	}
	return s
}
