package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres/walrecord"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Resolver finds places by reading all of a plan's log.
func (*Engine) Resolver() engines.Resolver { return logScan{} }

// logScan reads a plan's log from its beginning, one record at a time: exact,
// in bounded memory, and as slow as the log is long.
type logScan struct{}

// scanned is one whole record; named says that mark is one a person can name.
type scanned struct {
	mark  repo.Mark
	named bool
	subs  []byte // of a transaction; valid during the call
	last  repo.Position
}

// Resolve: see engines.Resolver.
func (logScan) Resolve(ctx context.Context, base *repo.Manifest, g engines.Goal, rd *wal.Reader) (*engines.Stop, error) {
	s, err := newSearch(base, g)
	if err != nil {
		return nil, err
	}
	if err := scan(ctx, rd, s.take); err != nil {
		return nil, err
	}
	return s.result(rd.Plan())
}

// Marks: see engines.Resolver.
func (logScan) Marks(ctx context.Context, rd *wal.Reader, from, to repo.Position, all bool, fn func(repo.Mark) error) error {
	return scan(ctx, rd, func(r scanned) error {
		m := r.mark
		if !r.named || m.Start < from || m.Start >= to || m.Kind != repo.MarkRestorePoint && !(all && endsTransaction(&m)) {
			return nil
		}
		return fn(m)
	})
}

// search takes records in order.
type search struct {
	base *repo.Manifest
	// is says whether the replay is to stop before a record, or behind it.
	is      func(r scanned) (before, behind bool)
	order   func(m repo.Mark) int // whether a commit lies before (<0) or behind the target; nil: it has no order
	target  string
	why     string
	stop    engines.Stop
	hits    []repo.Mark // restore points of the name asked for
	miss    engines.UnreachableError
	atOnce  bool // the first hit is the one; otherwise each is looked at
	stopped bool
}

func newSearch(base *repo.Manifest, g engines.Goal) (*search, error) {
	s := &search{base: base, atOnce: true, why: "there is none in the log held"}
	if g.Point == nil {
		s.target = "the target time " + g.Time.UTC().Format(targetTimeFormat)
		s.is = func(r scanned) (bool, bool) {
			return r.mark.Kind == repo.MarkCommit && r.mark.Start >= base.Stop && !r.mark.Time.Before(g.Time), false
		}
		s.order = func(m repo.Mark) int { return m.Time.Compare(g.Time) }
		s.why = "no commit at or after it is in the log held"
		return s, nil
	}
	s.target = g.Point.String()
	return s, s.point(*g.Point)
}

func (s *search) point(p engines.Point) error {
	at, lsnErr := ParseLSN(p.Value)
	xid, xidErr := strconv.ParseUint(p.Value, 10, 32)
	byID := func(r scanned) bool { return r.isTransaction(uint32(xid)) }
	switch p.Kind {
	case engines.PointConsistent:
		s.stop = engines.Stop{At: s.base.Stop, Consistent: true}
		s.stopped = true
		return nil
	case engines.PointName:
		s.atOnce = false
		s.is = func(r scanned) (bool, bool) {
			return false, r.mark.Kind == repo.MarkRestorePoint && r.mark.Name == p.Value
		}
		return nil
	case engines.PointPosition:
		s.is = func(r scanned) (bool, bool) { return r.mark.Start >= at, r.last < at && at <= r.mark.End }
		s.order = func(m repo.Mark) int { return cmpLSN(m.Start, at) }
		s.why = "it is outside the log held"
		return usage(p, lsnErr, "write it like 0/3000028")
	case engines.PointTransaction:
		s.is = func(r scanned) (bool, bool) { return false, byID(r) }
		return usage(p, xidErr, "write the transaction's id as a number")
	case engines.PointBefore:
		s.is = func(r scanned) (bool, bool) {
			if lsnErr == nil {
				return r.mark.Kind == repo.MarkCommit && r.mark.Start <= at && at < r.mark.End, false
			}
			return r.mark.Kind == repo.MarkCommit && byID(r), false
		}
		if lsnErr == nil {
			s.order = func(m repo.Mark) int { return cmpLSN(m.Start, at) }
			return nil
		}
		return usage(p, xidErr, "write a transaction's id, or a position inside its commit record like 0/3000028")
	}
	return usage(p, errors.New("unknown kind of target"), "")
}

func usage(p engines.Point, err error, hint string) error {
	if err == nil {
		return nil
	}
	return hferr.NewUsage("read the target "+p.String(), fmt.Errorf("%q is none: %w", p.Value, err), hint)
}

func cmpLSN(a, b repo.Position) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (r scanned) isTransaction(xid uint32) bool {
	if !r.named || !endsTransaction(&r.mark) {
		return false
	}
	e := walrecord.Event{Subs: r.subs}
	return r.mark.ID == formatXID(xid) || e.HasSub(xid)
}

func (s *search) take(r scanned) error {
	m := r.mark
	commit := r.named && m.Kind == repo.MarkCommit
	var before, behind bool
	if s.is != nil {
		before, behind = s.is(r)
	}
	if before && !s.stopped {
		s.stop.At, s.stopped = m.Start, true
	}
	if s.stopped && m.Start >= s.stop.At {
		if s.stop.Next == nil && r.named && endsTransaction(&m) {
			s.stop.Next = &m
		}
	} else if commit {
		s.stop.Last = &m
	}
	if behind && m.Start >= s.base.Stop {
		s.hits = append(s.hits, m)
	}
	if behind && !s.stopped {
		s.stop.At, s.stopped = m.End, true
	}
	if commit && m.Start >= s.base.Stop {
		s.near(m)
	}
	s.stop.AtEnd = !s.stopped || m.Start < s.stop.At
	return nil
}

// near keeps the nearest commits on both sides of a target that is not there.
func (s *search) near(m repo.Mark) {
	if s.order != nil && s.order(m) >= 0 {
		if s.miss.After == nil {
			s.miss.After = &m
		}
		return
	}
	s.miss.Before = &m
}

func (s *search) result(p *wal.Plan) (*engines.Stop, error) {
	if len(s.hits) > 1 && !s.atOnce {
		var lines []string
		for _, m := range s.hits {
			lines = append(lines, fmt.Sprintf("  of %s: --target-lsn %s", m.Time.UTC().Format(targetTimeFormat), FormatLSN(m.End)))
		}
		return nil, hferr.NewUsage("read the target "+s.target, fmt.Errorf("%d restore points have that name", len(s.hits)),
			"Choose one by its position:\n"+strings.Join(lines, "\n"))
	}
	s.miss.Target, s.miss.Why = s.target, s.why
	if s.stopped && s.stop.At < s.base.Stop {
		s.miss.Why = "it lies before the base backup is consistent"
		return nil, &s.miss
	}
	if !s.stopped {
		return nil, &s.miss
	}
	at := slices.IndexFunc(p.Legs, func(leg wal.Leg) bool { return s.stop.At < leg.To })
	if at < 0 {
		at = len(p.Legs) - 1
	}
	s.stop.Branch = p.Legs[at].Branch.ID
	return &s.stop, nil
}

// longHead is how much of a segment's first block holds its long header
// (XLogLongPageHeaderData in access/xlog_internal.h).
const longHead = 40

// scan calls visit with every whole record of a plan's log, which begins with
// a segment.
func scan(ctx context.Context, rd *wal.Reader, visit func(scanned) error) error {
	p := rd.Plan()
	branch := p.Legs[len(p.Legs)-1].Branch.ID
	if p.To()-p.From() < longHead {
		return nil
	}
	var head bytes.Buffer
	if err := rd.Copy(ctx, branch, p.From(), p.From()+longHead, &head); err != nil {
		return err
	}
	w, err := walrecord.New(int64(binary.LittleEndian.Uint32(head.Bytes()[32:])), uint64(p.From()), false)
	if err != nil {
		return fmt.Errorf("the log at %s: %w", FormatLSN(p.From()), err)
	}
	out := &scanWriter{walker: w, visit: func(r *walrecord.Record) error {
		s := scanned{mark: repo.Mark{Start: repo.Position(r.Start), End: repo.Position(r.Next)}, last: repo.Position(r.Last)}
		if r.Kind() == walrecord.Other {
			return visit(s)
		}
		e, err := r.Decode(0)
		if err != nil {
			return fmt.Errorf("the record at %s: %w", FormatLSN(s.mark.Start), err)
		}
		if m, ok := markOf(r, &e); ok {
			s.mark, s.named, s.subs = m, true, e.Subs
		}
		return visit(s)
	}}
	return rd.Copy(ctx, branch, p.From(), p.To(), out)
}

// scanWriter feeds a walker. What follows the log's end is not looked at.
type scanWriter struct {
	walker *walrecord.Walker
	visit  func(*walrecord.Record) error
	ended  bool
}

func (w *scanWriter) Write(p []byte) (int, error) {
	if w.ended {
		return len(p), nil
	}
	err := w.walker.Walk(p, w.visit)
	if errors.As(err, new(*walrecord.EndError)) {
		w.ended, err = true, nil
	}
	return len(p), err
}
