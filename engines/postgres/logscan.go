package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// errDone ends a scan that has found what it looked for.
var errDone = errors.New("done")

// piece is a stretch of the log whose index says all about the records whose
// last bytes are in it.
type piece struct {
	from, to repo.Position
	index    *repo.LogIndex
}

// scan goes through the log of a plan from its beginning to its end. Of what
// the segments' indexes say it asks whether it can be skipped; everything else
// is read and walked. A scan goes on behind what was skipped with exactly the
// first record that did not end in it.
type scan struct {
	rd     *wal.Reader
	skip   func(piece) bool                                    // nil: never. It may take notes
	record func(r *walrecord.Record, e *walrecord.Event) error // errDone ends the scan

	size   int64         // of a WAL segment
	cur    repo.Position // what is before it has been walked or skipped
	sync   repo.Position // a walk from here sees every record that ends at or behind cur
	floor  repo.Position // records that end before it were skipped
	walker *walrecord.Walker

	last  repo.Position       // where the last whole record ends
	next  repo.Position       // where the next one would begin
	ended *walrecord.EndError // why the log ends before the plan does
}

// run scans. Log that stops making sense ends it like the end of the plan
// does, as it would end a server's recovery: see ended.
func (s *scan) run(ctx context.Context) error {
	p := s.rd.Plan()
	var err error
	if s.size, err = segmentSizeOf(ctx, s.rd); err != nil {
		return err
	}
	s.cur, s.sync = p.From(), p.From()
	s.last, s.next = p.From(), p.From()
	err = s.rd.Headers(ctx, p.From(), func(leg wal.Leg, m *repo.SegmentMeta) error {
		from, to := max(m.Start, leg.From), min(m.End, leg.To)
		if to <= s.cur {
			return nil
		}
		// Beyond the fork a segment tells another history too, so its index
		// may say more than is there, never less.
		if x := m.Index; x != nil && x.Complete && from <= s.cur && s.skip != nil && s.skip(piece{from, to, x}) {
			s.cur, s.walker = to, nil
			if x.First != 0 && x.First < to {
				s.sync = x.First / walrecord.BlockSize * walrecord.BlockSize
			}
			return nil
		}
		return s.walk(ctx, to)
	})
	if err == nil && s.cur < p.To() {
		err = s.walk(ctx, p.To())
	}
	if errors.As(err, &s.ended) || errors.Is(err, errDone) {
		return nil
	}
	if err == nil {
		s.incomplete()
	}
	return err
}

// incomplete: a record that has begun ends what is whole.
func (s *scan) incomplete() {
	if s.walker == nil {
		return
	}
	if start, ok := s.walker.Pending(); ok {
		s.last, s.next = repo.Position(start), repo.Position(start)
	}
}

// walk goes through the log up to a position.
func (s *scan) walk(ctx context.Context, to repo.Position) error {
	legs := s.rd.Plan().Legs
	from := s.cur
	if s.walker == nil {
		from = max(s.sync, s.rd.Plan().From())
		w, err := walrecord.New(s.size, uint64(from), false)
		if err != nil {
			return err
		}
		s.walker, s.floor = w, s.cur
	}
	s.cur = to
	return s.rd.Copy(ctx, legs[len(legs)-1].Branch.ID, from, to, scanWriter{s})
}

// scanWriter is the scan's side of wal.Reader.Copy.
type scanWriter struct{ *scan }

func (s scanWriter) Write(b []byte) (int, error) {
	return len(b), s.walker.Walk(b, s.take)
}

func (s *scan) take(r *walrecord.Record) error {
	s.last, s.next = repo.Position(r.End), repo.Position(r.Next)
	if repo.Position(r.Last) < s.floor {
		return nil
	}
	e, err := r.Decode(0)
	if err != nil {
		return err
	}
	return s.record(r, &e)
}

// segmentSizeOf reads the size of WAL segments from the header of the first
// one of a plan, with which the log of every base begins.
func segmentSizeOf(ctx context.Context, rd *wal.Reader) (int64, error) {
	p := rd.Plan()
	var head headWriter
	if end := p.From() + walrecord.SegmentHeader; end <= p.To() {
		if err := rd.Copy(ctx, p.Legs[len(p.Legs)-1].Branch.ID, p.From(), end, &head); err != nil {
			return 0, err
		}
	}
	size, err := walrecord.SegmentSize(uint64(p.From()), head)
	if err != nil {
		return 0, fmt.Errorf("the log from %s on: %w: %w", FormatLSN(p.From()), err, repo.ErrDamaged)
	}
	return size, nil
}

// headWriter keeps what is written.
type headWriter []byte

func (h *headWriter) Write(b []byte) (int, error) {
	*h = append(*h, b...)
	return len(b), nil
}
