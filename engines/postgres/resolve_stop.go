package postgres

import (
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// nextWithin bounds how much log is read only to name what is left out first.
const nextWithin = 16 << 20

// stopAt makes a stop at the first record that begins at or after p, and
// proves it by that record, which must be whole. If the whole records end
// exactly at p, the stop is at the end of the log.
func (q *query) stopAt(p repo.Position) (*engines.Stop, error) {
	to := q.rd.Plan().To()
	stop := &engines.Stop{}
	seen := &lastSeen{base: q.base.Stop, before: p}
	s := &scan{rd: q.rd}
	s.skip = func(x piece) bool {
		return x.to <= p && x.to < to && seen.skip(x)
	}
	s.record = func(r *walrecord.Record, e *walrecord.Event) error {
		m, named := markOf(r, e)
		at := repo.Position(r.Start)
		if at < p {
			if named {
				seen.see(&m)
			}
			return nil
		}
		if stop.At == 0 {
			stop.At = at
		}
		switch {
		case named && endsTransaction(&m):
			stop.Next = &m
			return errDone
		case at > stop.At+nextWithin:
			return errDone
		}
		return nil
	}
	if err := s.run(q.ctx); err != nil {
		return nil, err
	}
	stop.Last = seen.mark
	if stop.At == 0 {
		if p > s.next {
			return nil, q.beyond(s)
		}
		stop.At, stop.AtEnd = min(s.last, to), true
	}
	stop.Branch = q.branchOf(stop)
	return stop, nil
}

// beyond says that the log ends before a place.
func (q *query) beyond(s *scan) error {
	if s.ended != nil {
		return q.late("the log held makes no sense from %s on: %s", FormatLSN(repo.Position(s.ended.At)), s.ended.Why)
	}
	return q.late("the last whole record in the log held ends at %s", FormatLSN(s.last))
}

// branchOf is the branch a stop is on: that of the record that begins there,
// or of the last record before it.
func (q *query) branchOf(stop *engines.Stop) string {
	legs := q.rd.Plan().Legs
	i := len(legs) - 1
	for i > 0 && (legs[i].From > stop.At || stop.AtEnd && legs[i].From == stop.At) {
		i--
	}
	return legs[i].Branch.ID
}
