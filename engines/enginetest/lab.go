package enginetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/holdfastdb/holdfast/consistency"
	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/holdfastdb/holdfast/wal"
)

// Backup takes and commits one base backup as cmd does: the log must reach
// the backup's stop before the manifest is written; wait sees to that.
func Backup(ctx context.Context, src engines.Source, l *repo.Lineage, parent *repo.Manifest, wait func(repo.Position) error) (*repo.Manifest, error) {
	var parentID string
	if parent != nil {
		parentID = parent.ID
	}
	commit, err := l.BeginBackup(ctx, parentID)
	if err != nil {
		return nil, err
	}
	m, err := fill(ctx, src, l, parent, commit, wait)
	if err != nil {
		return nil, errors.Join(err, commit.Abort(ctx))
	}
	return m, nil
}

func fill(ctx context.Context, src engines.Source, l *repo.Lineage, parent *repo.Manifest, commit *repo.BackupWriter, wait func(repo.Position) error) (*repo.Manifest, error) {
	budget, err := stream.NewBudget(stream.MinBudget)
	if err != nil {
		return nil, err
	}
	w, err := stream.NewWriter(ctx, l, parent, stream.Options{Budget: budget, Workers: 2})
	if err != nil {
		return nil, err
	}
	defer w.Close()
	res, err := src.Backup(ctx, engines.BackupOptions{Label: "enginetest", Fast: true}, w)
	if err != nil {
		return nil, err
	}
	items, packs, stats, err := w.Finish(ctx)
	if err != nil {
		return nil, err
	}
	if err := wait(res.Stop); err != nil {
		return nil, fmt.Errorf("wait for the log of the backup: %w", err)
	}
	info := l.Info()
	m := &repo.Manifest{
		Packs: packs, Engine: info.Engine, Database: info.Database, Branch: res.Branch,
		Start: res.Start, LogFrom: res.LogFrom, Stop: res.Stop, StartTime: res.StartTime, StopTime: res.StopTime,
		Items: stats.Items, Bytes: stats.Bytes, NewBytes: stats.NewBytes, NewStored: stats.NewStored,
		Details: res.Details, Findings: res.Findings, Tool: "enginetest",
	}
	return m, commit.Commit(ctx, m, items)
}

// Stream follows a source's log into a lineage and beats on request.
type Stream struct {
	Archiver *wal.Archiver

	pulse   consistency.Pulse
	lineage *repo.Lineage
	cancel  context.CancelFunc
	ended   chan error
	ready   chan repo.Position
}

// StartStream prepares the source, starts following, and returns once the
// log flows.
func StartStream(ctx context.Context, src engines.Source, l *repo.Lineage, o engines.TailOptions) (*Stream, error) {
	if err := src.Log().Prepare(ctx); err != nil {
		return nil, err
	}
	pulse, err := src.Heartbeat(ctx)
	if err != nil {
		return nil, err
	}
	if err := pulse.Setup(ctx); err != nil {
		return nil, errors.Join(err, pulse.Close())
	}
	s := &Stream{
		Archiver: wal.NewArchiver(l, wal.ArchiverOptions{FlushEvery: 20 * time.Millisecond, Log: slog.New(slog.NewTextHandler(io.Discard, nil))}),
		pulse:    pulse, lineage: l, ended: make(chan error, 1), ready: make(chan repo.Position, 1),
	}
	ctx, s.cancel = context.WithCancel(ctx)
	o.Held = s.held
	o.Ready = func(p repo.Position) { s.ready <- p }
	go func() { s.ended <- src.Log().Tail(ctx, o, s.Archiver) }()
	select {
	case <-s.ready:
		return s, nil
	case err := <-s.ended:
		s.ended <- err
		return nil, errors.Join(fmt.Errorf("the log ended before it began: %w", err), s.Stop(ctx, "shutdown"))
	}
}

func (s *Stream) held(ctx context.Context, branch string) ([]wal.Range, error) {
	refs, err := s.lineage.Segments(ctx, branch, 0)
	return wal.Coverage(refs), err
}

// Beat commits a heartbeat on the source and notes it.
func (s *Stream) Beat(ctx context.Context) (repo.Beat, error) {
	b, err := s.pulse.Beat(ctx)
	if err == nil {
		s.Archiver.Beat(b)
	}
	return b, err
}

// Wait blocks until the log is durable through pos.
func (s *Stream) Wait(ctx context.Context, pos repo.Position) error {
	for {
		changed := s.Archiver.Changed()
		if s.Archiver.Durable() >= pos {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("the log ended before %s: %w", pos.Key(), err)
		}
		if err := s.Archiver.Err(); err != nil {
			return err
		}
	}
}

// StopTail ends following; beats can still be noted.
func (s *Stream) StopTail() error {
	s.cancel()
	err := <-s.ended
	s.ended <- nil
	return err
}

// Stop ends following and closes the archiver with an event.
func (s *Stream) Stop(ctx context.Context, event string) error {
	return errors.Join(s.StopTail(), s.pulse.Close(), s.Archiver.Close(context.WithoutCancel(ctx), event))
}
