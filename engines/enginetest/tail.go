package enginetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

var errInUse = errors.New("slot is in use")

// logSource implements engines.LogSource.
type logSource struct {
	srv  *Server
	slot string
}

func (l *logSource) Prepare(ctx context.Context) error {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if err := l.srv.aliveLocked(); err != nil {
		return err
	}
	if l.srv.slots[l.slot] == nil {
		l.srv.slots[l.slot] = &slot{restart: l.srv.end()}
	}
	return nil
}

func (l *logSource) Retained(ctx context.Context) ([]engines.Retained, error) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if err := l.srv.aliveLocked(); err != nil {
		return nil, err
	}
	var out []engines.Retained
	for name, sl := range l.srv.slots {
		out = append(out, engines.Retained{
			Name: name, Kind: "slot", Active: sl.active, Position: sl.restart,
			Bytes: int64(l.srv.end() - sl.restart), State: "reserved", Ours: name == l.slot,
		})
	}
	return out, nil
}

func (l *logSource) Release(ctx context.Context, name string) error {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	sl := l.srv.slots[name]
	if sl == nil {
		return hferr.New("drop slot "+name, errors.New("no such slot"), "list the slots first")
	}
	if sl.active {
		return hferr.New("drop slot "+name, errInUse, "stop the stream that uses it first")
	}
	delete(l.srv.slots, name)
	return nil
}

// Compare … see engines.LogSource.
func (l *logSource) Compare(ctx context.Context, branch string, from repo.Position, archived []byte) error {
	for len(archived) > 0 {
		p, err := l.srv.read(from, len(archived))
		if err != nil {
			return err
		}
		if len(p.data) == 0 || !bytes.HasPrefix(archived, p.data) {
			return fmt.Errorf("the server's log differs from %s on: %w", from.Key(), repo.ErrFork)
		}
		from, archived = from+repo.Position(len(p.data)), archived[len(p.data):]
	}
	return nil
}

// Guarantee … see engines.LogSource: nobody ever waits for the fake's stream.
func (l *logSource) Guarantee(ctx context.Context) (engines.Guarantee, error) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if err := l.srv.aliveLocked(); err != nil {
		return engines.Guarantee{}, err
	}
	g := engines.Guarantee{Level: engines.GuaranteeAsynchronous, Sentence: "asynchronous: no commit waits for us", Receiver: l.slot, Behind: -1}
	if sl := l.srv.slots[l.slot]; sl != nil {
		g.Connected, g.Behind = sl.active, int64(l.srv.end()-sl.restart)
	}
	return g, nil
}

// Tail streams from the first byte the store lacks, or, with a temporary
// slot, from the end of the log now.
func (l *logSource) Tail(ctx context.Context, o engines.TailOptions, in wal.Intake) error {
	id, err := l.srv.identity()
	if err != nil {
		return err
	}
	if o.Lineage != "" && o.Lineage != id.Lineage.ID {
		return engines.Classify(engines.ConditionOtherSystem, engines.Permanent(hferr.New("follow the log",
			fmt.Errorf("the server is %s, the archive is of %s", id.Lineage.ID, o.Lineage), "connect to the right server")))
	}
	name := l.slot
	if o.Temporary {
		name += "_temporary"
	}
	sl, err := l.acquire(name, o.Temporary)
	if err != nil {
		return err
	}
	defer l.release(name, o.Temporary)
	pos := sl.restart
	if !o.Temporary {
		if pos, err = l.resume(ctx, o, pos); err != nil {
			return err
		}
	}
	t := &tail{l: l, o: o, in: in, slot: sl, pos: pos, until: o.Until}
	return t.run(ctx)
}

func (l *logSource) acquire(name string, temporary bool) (*slot, error) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	if err := l.srv.aliveLocked(); err != nil {
		return nil, err
	}
	sl := l.srv.slots[name]
	if sl == nil && !temporary {
		return nil, hferr.New("follow the log", fmt.Errorf("slot %s does not exist", name), "call Prepare first")
	}
	if sl == nil {
		sl = &slot{restart: l.srv.end()}
		l.srv.slots[name] = sl
	}
	if sl.active {
		return nil, hferr.New("follow the log", errInUse, "one log, one writer: stop the other stream")
	}
	sl.active = true
	return sl, nil
}

func (l *logSource) release(name string, temporary bool) {
	l.srv.mu.Lock()
	defer l.srv.mu.Unlock()
	l.srv.slots[name].active = false
	if temporary {
		delete(l.srv.slots, name)
	}
}

// resume asks the store, never memory, where to go on: newest branch first.
func (l *logSource) resume(ctx context.Context, o engines.TailOptions, fallback repo.Position) (repo.Position, error) {
	if o.Held == nil {
		return fallback, nil
	}
	l.srv.mu.Lock()
	branches := append([]repo.Branch(nil), l.srv.branches...)
	l.srv.mu.Unlock()
	for i := len(branches) - 1; i >= 0; i-- {
		ranges, err := o.Held(ctx, branches[i].ID)
		if err != nil {
			return 0, fmt.Errorf("ask what the store holds: %w", err)
		}
		if len(ranges) > 0 {
			return ranges[len(ranges)-1].End, nil
		}
	}
	return fallback, nil
}

// tail is one running Tail.
type tail struct {
	l      *logSource
	o      engines.TailOptions
	in     wal.Intake
	slot   *slot
	pos    repo.Position
	branch string
	until  <-chan repo.Position
	target repo.Position // 0: none yet
}

func (t *tail) run(ctx context.Context) error {
	for {
		moved := t.in.Changed()
		p, err := t.l.srv.read(t.pos, 8<<10)
		if err != nil {
			return err
		}
		if err := t.take(ctx, p); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		durable := t.in.Durable()
		t.acknowledge(durable)
		t.status(p, durable)
		if t.target > 0 && durable >= t.target {
			return nil
		}
		if len(p.data) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-moved:
		case t.target = <-t.until:
			t.until = nil
		}
		if err := t.in.Err(); err != nil {
			return fmt.Errorf("archive the log: %w", err)
		}
	}
}

// take hands one piece to the intake, beginning its branch first if new.
func (t *tail) take(ctx context.Context, p piece) error {
	if p.branch.ID != t.branch {
		if err := t.in.Begin(ctx, p.branch, t.pos, nil); err != nil {
			return err
		}
		if t.branch == "" && t.o.Ready != nil {
			t.o.Ready(t.pos)
		}
		t.branch = p.branch.ID
	}
	if len(p.data) == 0 {
		t.in.Tick(p.time)
		return nil
	}
	if err := t.in.Write(ctx, wal.Chunk{Pos: t.pos, Data: p.data, SentTime: p.time}); err != nil {
		return err
	}
	t.pos += repo.Position(len(p.data))
	return nil
}

// acknowledge lets the server forget what is durable.
func (t *tail) acknowledge(durable repo.Position) {
	t.l.srv.mu.Lock()
	defer t.l.srv.mu.Unlock()
	t.slot.restart = max(t.slot.restart, durable)
	t.slot.reported = max(t.slot.reported, durable)
}

func (t *tail) status(p piece, durable repo.Position) {
	if t.o.Status == nil {
		return
	}
	t.o.Status(engines.TailStatus{
		Branch: t.branch, ServerEnd: p.end, Received: t.pos, Durable: durable, ServerTime: p.time,
	})
}
