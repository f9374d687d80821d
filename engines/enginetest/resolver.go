package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Resolver … see engines.Engine.
func (e *Engine) Resolver() engines.Resolver { return resolver{} }

// resolver reads all the log there is. Every record but a checkpoint is a
// commit; its transaction's id is the position where it begins, in decimal.
// Nothing has a name.
type resolver struct{}

var errTarget = errors.New("not a place in the fake engine's notation")

// wanted says of a mark whether the replay stops before it, and whether right
// behind it.
type wanted func(m repo.Mark) (before, behind bool)

func (resolver) wanted(base *repo.Manifest, g engines.Goal) (wanted, error) {
	if g.Point == nil {
		return func(m repo.Mark) (bool, bool) { return m.Kind == repo.MarkCommit && !m.Time.Before(g.Time), false }, nil
	}
	at, err := parsePosition(g.Point.Value)
	switch g.Point.Kind {
	case engines.PointConsistent:
		return func(m repo.Mark) (bool, bool) { return m.Start >= base.Stop, m.End == base.Stop }, nil
	case engines.PointName:
		return func(repo.Mark) (bool, bool) { return false, false }, nil
	case engines.PointPosition:
		return func(m repo.Mark) (bool, bool) { return m.Start >= at, m.End == at }, err
	case engines.PointTransaction:
		return func(m repo.Mark) (bool, bool) { return false, m.ID == g.Point.Value }, err
	default:
		return func(m repo.Mark) (bool, bool) { return m.ID == g.Point.Value, false }, err
	}
}

// parsePosition reads what FormatPosition prints, or a plain number.
func parsePosition(s string) (repo.Position, error) {
	high, low, ok := strings.Cut(s, "/")
	if !ok {
		high, low = "0", s
	}
	h, err := strconv.ParseUint(high, 10, 44)
	l, lerr := strconv.ParseUint(low, 10, 64)
	if err = errors.Join(err, lerr); err != nil {
		return 0, hferr.NewUsage(fmt.Sprintf("place %q", s), errTarget, "write it as list --points prints it")
	}
	return repo.Position(h<<20 + l), nil
}

// Resolve … see engines.Resolver.
func (r resolver) Resolve(ctx context.Context, base *repo.Manifest, g engines.Goal, rd *wal.Reader) (*engines.Stop, error) {
	is, err := r.wanted(base, g)
	if err != nil {
		return nil, err
	}
	target := "the target time"
	if g.Point != nil {
		target = g.Point.String()
	}
	s := &engines.Stop{AtEnd: true, Consistent: g.Point != nil && g.Point.Kind == engines.PointConsistent}
	miss := &engines.UnreachableError{Target: target, Why: "no such place in the log held"}
	err = r.walk(ctx, rd, func(m repo.Mark) error {
		before, behind := is(m)
		if s.At == 0 && before {
			s.At = m.Start
		}
		commit := m.Kind == repo.MarkCommit
		if s.At != 0 && m.Start >= s.At {
			s.AtEnd = false
			if commit && s.Next == nil {
				s.Next = &m
			}
		} else if commit {
			s.Last = &m
		}
		if s.At == 0 && behind {
			s.At = m.End
		}
		if commit && m.Start >= base.Stop {
			if miss.Before = &m; miss.After == nil {
				miss.After = &m
			}
		}
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case s.At == 0:
		miss.After = nil
		return nil, miss
	case s.At < base.Stop:
		miss.Before = nil
		return nil, miss
	}
	for _, leg := range rd.Plan().Legs {
		if leg.From <= s.At {
			s.Branch = leg.Branch.ID
		}
	}
	return s, nil
}

// Marks … see engines.Resolver.
func (r resolver) Marks(ctx context.Context, rd *wal.Reader, from, to repo.Position, all bool, fn func(repo.Mark) error) error {
	return r.walk(ctx, rd, func(m repo.Mark) error {
		if !all || m.Kind != repo.MarkCommit || m.Start < from || m.Start >= to {
			return nil
		}
		return fn(m)
	})
}

// walk calls fn with every whole record. A plan begins with a record.
func (resolver) walk(ctx context.Context, rd *wal.Reader, fn func(repo.Mark) error) error {
	p := rd.Plan()
	var log bytes.Buffer
	if err := rd.Copy(ctx, p.Legs[len(p.Legs)-1].Branch.ID, p.From(), p.To(), &log); err != nil {
		return err
	}
	at, b := p.From(), log.Bytes()
	for {
		c, n, err := parseChange(b)
		if errors.Is(err, errShort) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("log at %s: %w", at.Key(), err)
		}
		m := repo.Mark{Kind: repo.MarkCommit, Start: at, End: at + repo.Position(n), Time: c.Time, ID: strconv.FormatUint(uint64(at), 10)}
		if c.Op == opCheckpoint {
			m.Kind, m.ID = repo.MarkCheckpoint, ""
		}
		if err := fn(m); err != nil {
			return err
		}
		at, b = m.End, b[n:]
	}
}
