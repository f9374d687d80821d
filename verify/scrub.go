package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Scrub is what re-reading a lineage's stored objects found. It proves bytes,
// not recovery: only a drill does that.
type Scrub struct {
	Lineage  string         `json:"lineage"`
	Database string         `json:"database"`
	Started  time.Time      `json:"started"`
	Backups  int            `json:"backups"`
	Packs    int            `json:"packs"`
	Segments int            `json:"segments"`
	Records  int            `json:"records"`
	Bytes    int64          `json:"bytes"` // read from the store
	Findings []repo.Finding `json:"findings"`
}

// OK reports whether nothing is damaged or missing.
func (s *Scrub) OK() bool {
	for _, f := range s.Findings {
		if f.Severity == "error" {
			return false
		}
	}
	return true
}

// fetchStep is how much of a pack is read at once.
const fetchStep = 8 << 20

// ScrubLineage re-reads everything the lineage's manifests, maps and log
// consist of against names, hashes and authentication tags, and proves for
// each backup that the log it needs is held without a hole. progress is told
// the bytes read. The error is only for a cancelled ctx; damage is in the
// findings.
func ScrubLineage(ctx context.Context, l *repo.Lineage, clock func() time.Time, progress func(int64)) (*Scrub, error) {
	s := &scrubber{l: l, progress: progress, out: Scrub{Lineage: l.Info().ID, Database: l.Info().Database, Started: clock().UTC(), Findings: []repo.Finding{}}}
	for _, step := range []func(context.Context){s.backups, s.log, s.records, s.lease} {
		step(ctx)
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	return &s.out, nil
}

type scrubber struct {
	l        *repo.Lineage
	progress func(int64)
	out      Scrub
}

func (s *scrubber) finding(severity, code string, err error) {
	s.out.Findings = append(s.out.Findings, repo.Finding{Severity: severity, Code: code, Message: err.Error()})
}

func (s *scrubber) read(n int64) {
	s.out.Bytes += n
	if s.progress != nil {
		s.progress(n)
	}
}

// backups checks manifests, maps, and each pack once.
func (s *scrubber) backups(ctx context.Context) {
	all, err := s.l.Backups(ctx)
	if err != nil {
		s.finding("error", "manifest", err)
	}
	seen := map[repo.PackID]bool{}
	for i := range all {
		m := &all[i]
		s.out.Backups++
		if err := s.l.Items(ctx, m, func(repo.Item) error { return nil }); err != nil {
			s.finding("error", "map", fmt.Errorf("backup %s: %w", m.ID, err))
		}
		for _, p := range m.Packs {
			if seen[p.ID] || ctx.Err() != nil {
				continue
			}
			seen[p.ID] = true
			s.out.Packs++
			if err := s.pack(ctx, p); err != nil {
				s.finding("error", "pack", fmt.Errorf("pack %s, needed by backup %s: %w", p.ID, m.ID, err))
			}
		}
	}
	s.coverage(ctx, all)
}

// pack re-hashes a pack's bytes against its name.
func (s *scrubber) pack(ctx context.Context, info repo.PackInfo) error {
	r, err := s.l.OpenPack(ctx, info.ID)
	if err != nil {
		return err
	}
	h := sha256.New()
	buf := make([]byte, 0, fetchStep)
	for off := int64(0); off < info.Size; {
		n := min(int64(fetchStep), info.Size-off)
		part, err := r.Fetch(ctx, off, n, buf[:0])
		if err != nil {
			return err
		}
		if int64(len(part)) != n {
			return fmt.Errorf("%w: it ends at byte %d of %d", repo.ErrDamaged, off+int64(len(part)), info.Size)
		}
		h.Write(part)
		off += n
		s.read(n)
	}
	if got := repo.PackID(h.Sum(nil)); got != info.ID {
		return fmt.Errorf("%w: its bytes hash to %s", repo.ErrDamaged, got)
	}
	return s.l.StatPack(ctx, info)
}

// coverage proves that every backup's own log is held.
func (s *scrubber) coverage(ctx context.Context, all []repo.Manifest) {
	for _, m := range all {
		if _, err := wal.MakePlan(ctx, s.l, m.Branch, m.LogFrom, m.Branch, m.Stop); err != nil && ctx.Err() == nil {
			s.finding("error", "log-gap", fmt.Errorf("backup %s cannot become consistent: %w", m.ID, err))
		}
	}
}

// log re-reads every segment and names each hole between them.
func (s *scrubber) log(ctx context.Context) {
	branches, err := s.l.Branches(ctx)
	if err != nil {
		s.finding("error", "branch", err)
	}
	for _, b := range branches {
		refs, err := s.l.Segments(ctx, b.ID, 0)
		if err != nil {
			s.finding("error", "log", err)
			continue
		}
		for _, ref := range refs {
			if ctx.Err() != nil {
				return
			}
			s.out.Segments++
			if _, _, err := s.l.ReadSegment(ctx, ref); err != nil {
				s.finding("error", "segment", err)
			}
			s.read(ref.Stored)
		}
		ranges := wal.Coverage(refs)
		for i := 1; i < len(ranges); i++ {
			s.finding("warning", "log-hole", &wal.GapError{Branch: b.ID, From: ranges[i-1].End, To: ranges[i].Start})
		}
	}
}

// records re-reads notes and drill records.
func (s *scrubber) records(ctx context.Context) {
	_, nerr := s.l.Notes(ctx)
	recs, rerr := s.l.Records(ctx)
	s.out.Records = len(recs)
	for _, err := range []error{nerr, rerr} {
		if err != nil && !errors.Is(err, context.Canceled) {
			s.finding("error", "record", err)
		}
	}
}

// lease reads the one mutable object. Damage to it loses nothing, but stops
// the next writer.
func (s *scrubber) lease(ctx context.Context) {
	_, _, err := s.l.ReadLease(ctx)
	if err != nil && !errors.Is(err, repo.ErrNotFound) && ctx.Err() == nil {
		s.finding("error", "lease", err)
	}
}
