package enginetest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// beatTable is the heartbeat's own table.
const beatTable = "holdfast"

// source implements engines.Source and engines.BeatSource.
type source struct {
	srv  *Server
	slot string
}

func (s *source) Identify(ctx context.Context) (engines.Identity, error) {
	if err := ctx.Err(); err != nil {
		return engines.Identity{}, err
	}
	return s.srv.identity()
}

func (s *source) Check(ctx context.Context) ([]repo.Finding, error) {
	if err := s.srv.alive(); err != nil {
		return nil, err
	}
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	if _, ok := s.srv.slots[s.slot]; !ok {
		return []repo.Finding{{Severity: "warning", Code: "no-slot", Message: "nothing keeps the log for us", Fix: "holdfast stream " + s.srv.name}}, nil
	}
	return nil, nil
}

func (s *source) Clock(ctx context.Context) (time.Time, error) {
	id, err := s.Identify(ctx)
	return id.Time, err
}

func (s *source) Log() engines.LogSource { return &logSource{srv: s.srv, slot: s.slot} }
func (s *source) Close() error           { return nil }

// LastBeat … see engines.BeatSource.
func (s *source) LastBeat(ctx context.Context) (*repo.Beat, error) {
	if err := s.srv.alive(); err != nil {
		return nil, err
	}
	s.srv.mu.Lock()
	defer s.srv.mu.Unlock()
	beats, err := parseBeats(s.srv.data[beatTable])
	if err != nil || len(beats) == 0 {
		return nil, err
	}
	last := beats[len(beats)-1]
	last.Pos = s.srv.end()
	return &last, nil
}

// details is the engine's own part of the manifest.
type details struct {
	Version string `json:"version"`
	Tables  int    `json:"tables"`
}

// Backup copies the tables one by one, by several streams at once, while
// writes go on: the copy is consistent only after the log through Stop.
func (s *source) Backup(ctx context.Context, o engines.BackupOptions, sink engines.Sink) (engines.BackupResult, error) {
	begin, began, err := s.srv.commit(change{Op: opCheckpoint, Key: "begin", Value: o.Label})
	if err != nil {
		return engines.BackupResult{}, err
	}
	names := slices.Sorted(maps.Keys(s.srv.Rows()))
	if err := s.putAll(ctx, names, sink); err != nil {
		return engines.BackupResult{}, fmt.Errorf("back up %s: %w", s.srv.name, err)
	}
	stop, stopped, err := s.srv.commit(change{Op: opCheckpoint, Key: "end", Value: o.Label})
	if err != nil {
		return engines.BackupResult{}, err
	}
	id, err := s.srv.identity()
	if err != nil {
		return engines.BackupResult{}, err
	}
	doc, err := json.Marshal(details{Version: Version, Tables: len(names)})
	if err != nil {
		return engines.BackupResult{}, err
	}
	return engines.BackupResult{
		Branch: id.Branch.ID, Start: begin, LogFrom: begin, Stop: stop,
		StartTime: began, StopTime: stopped, Details: doc,
	}, nil
}

func (s *source) putAll(ctx context.Context, names []string, sink engines.Sink) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	g.Go(func() error {
		return sink.Put(ctx, repo.Item{Path: "tables", Kind: repo.KindDir, Mode: 0o700}, nil)
	})
	g.Go(func() error {
		return sink.Put(ctx, repo.Item{Path: "current", Kind: repo.KindSymlink, Mode: 0o777, Link: "tables"}, nil)
	})
	for _, name := range names {
		g.Go(func() error {
			if err := s.srv.alive(); err != nil {
				return err
			}
			body := formatTable(s.srv.Rows()[name])
			item := repo.Item{Path: "tables/" + name, Mode: 0o600, Size: int64(len(body)), Extent: 4096}
			return sink.Put(ctx, item, strings.NewReader(body))
		})
	}
	return g.Wait()
}

// formatTable and parseTable are a table's file: one quoted pair a line.
func formatTable(rows map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&b, "%q %q\n", k, rows[k])
	}
	return b.String()
}

func parseTable(body string) (map[string]string, error) {
	rows := map[string]string{}
	for line := range strings.Lines(body) {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return nil, fmt.Errorf("table file: %w", err)
		}
		key, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("table file: %w", err)
		}
		value, err := strconv.Unquote(strings.TrimSpace(line[len(quoted):]))
		if err != nil {
			return nil, fmt.Errorf("table file: %w", err)
		}
		rows[key] = value
	}
	return rows, nil
}

func (s *source) Heartbeat(ctx context.Context) (consistency.Pulse, error) {
	if err := s.srv.alive(); err != nil {
		return nil, err
	}
	return &pulse{srv: s.srv}, nil
}

// pulse implements consistency.Pulse.
type pulse struct{ srv *Server }

func (p *pulse) Setup(context.Context) error { return p.srv.alive() }
func (p *pulse) Close() error                { return nil }

// Beat writes row n mod RingSize: "n time".
func (p *pulse) Beat(ctx context.Context) (repo.Beat, error) {
	if err := ctx.Err(); err != nil {
		return repo.Beat{}, err
	}
	p.srv.mu.Lock()
	defer p.srv.mu.Unlock()
	beats, err := parseBeats(p.srv.data[beatTable])
	if err != nil {
		return repo.Beat{}, err
	}
	b := repo.Beat{N: 1, At: p.srv.now()}
	if len(beats) > 0 {
		b.N = beats[len(beats)-1].N + 1
	}
	pos, _, err := p.srv.commitLocked(change{
		Op: opSet, Table: beatTable, Key: strconv.FormatInt(b.N%consistency.RingSize, 10),
		Value: fmt.Sprintf("%d %d", b.N, b.At.UnixMicro()),
	})
	b.Pos = pos
	return b, err
}

// parseBeats reads the ring, ordered by number. Positions are not stored.
func parseBeats(rows map[string]string) ([]repo.Beat, error) {
	var beats []repo.Beat
	for _, v := range rows {
		var n, at int64
		if _, err := fmt.Sscanf(v, "%d %d", &n, &at); err != nil {
			return nil, fmt.Errorf("heartbeat row %q: %w", v, err)
		}
		beats = append(beats, repo.Beat{N: n, At: time.UnixMicro(at).UTC()})
	}
	slices.SortFunc(beats, func(a, b repo.Beat) int { return int(a.N - b.N) })
	return beats, nil
}
