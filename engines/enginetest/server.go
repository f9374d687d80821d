package enginetest

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// firstPosition is where every fake log begins: zero stays "no position".
const firstPosition repo.Position = 0x1000

var errDown = errors.New("server is not running")

// Server is one fake database server. Safe for concurrent use.
type Server struct {
	name, id string
	clock    func() time.Time

	mu       sync.Mutex
	data     tables
	log      []byte        // from logStart
	logStart repo.Position // older log was removed
	branches []repo.Branch
	slots    map[string]*slot
	last     time.Time // of the newest commit
	down     bool
	changed  chan struct{}
}

// slot keeps log on the server.
type slot struct {
	active   bool
	restart  repo.Position // log from here is kept
	reported repo.Position // the highest position ever acknowledged
}

// NewServer makes a running server. id is its system identity; clock is the
// source's clock.
func NewServer(name, id string, clock func() time.Time) *Server {
	return &Server{
		name: name, id: id, clock: clock,
		data: tables{}, logStart: firstPosition,
		branches: []repo.Branch{{ID: "b1", Number: 1, Proof: map[string]string{"system": id}}},
		slots:    map[string]*slot{}, changed: make(chan struct{}),
	}
}

// URL is the server's address for Engine.Connect.
func (s *Server) URL() string { return Name + "://" + s.name }

// Set commits one row. Values carry their own check: see Copy.Integrity.
func (s *Server) Set(table, key, value string) error {
	_, _, err := s.commit(change{Op: opSet, Table: table, Key: key, Value: value})
	return err
}

// Delete commits the removal of one row.
func (s *Server) Delete(table, key string) error {
	_, _, err := s.commit(change{Op: opDelete, Table: table, Key: key})
	return err
}

// Drop commits the removal of a table.
func (s *Server) Drop(table string) error {
	_, _, err := s.commit(change{Op: opDrop, Table: table})
	return err
}

// Rows is a copy of the content, heartbeat included.
func (s *Server) Rows() map[string]map[string]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.data.clone()
}

// End is the end of the log.
func (s *Server) End() repo.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end()
}

// Acknowledged is the highest position a client ever reported as durable.
func (s *Server) Acknowledged() repo.Position {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p repo.Position
	for _, sl := range s.slots {
		p = max(p, sl.reported)
	}
	return p
}

// Promote starts a new branch at the end of the log.
func (s *Server) Promote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	parent := s.branches[len(s.branches)-1]
	n := parent.Number + 1
	s.branches = append(s.branches, repo.Branch{
		ID: fmt.Sprintf("b%d", n), Parent: parent.ID, Fork: s.end(), Number: n,
		Proof: map[string]string{"system": s.id, "fork": s.end().Key()},
	})
	s.wake()
}

// Recycle removes all log that no slot needs.
func (s *Server) Recycle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	keep := s.end()
	for _, sl := range s.slots {
		keep = min(keep, sl.restart)
	}
	if keep > s.logStart {
		s.log = append([]byte(nil), s.log[keep-s.logStart:]...)
		s.logStart = keep
	}
}

// Kill stops the server for good; every later call fails.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	s.wake()
}

func (s *Server) alive() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.aliveLocked()
}

func (s *Server) aliveLocked() error {
	if s.down {
		return hferr.New("reach "+s.name, errDown, "start the server")
	}
	return nil
}

func (s *Server) end() repo.Position { return s.logStart + repo.Position(len(s.log)) }

// wake tells every tail that something changed.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// commit appends a change to the log and applies it; commit times never run
// backwards and never repeat. It returns the end of the record.
func (s *Server) commit(c change) (repo.Position, time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commitLocked(c)
}

func (s *Server) commitLocked(c change) (repo.Position, time.Time, error) {
	if err := s.aliveLocked(); err != nil {
		return 0, time.Time{}, err
	}
	c.Time = s.clock().UTC().Truncate(time.Microsecond)
	if !c.Time.After(s.last) {
		c.Time = s.last.Add(time.Microsecond)
	}
	s.last = c.Time
	s.log = appendChange(s.log, c)
	s.data.apply(c)
	s.wake()
	return s.end(), c.Time, nil
}

// now is the server's clock, never behind its own commits.
func (s *Server) now() time.Time {
	t := s.clock().UTC().Truncate(time.Microsecond)
	if t.Before(s.last) {
		t = s.last
	}
	return t
}

// piece is what one read of the log yields.
type piece struct {
	branch  repo.Branch
	data    []byte
	end     repo.Position // of the server's log
	time    time.Time
	changed <-chan struct{}
}

// read returns up to n bytes of log at pos, never across a fork. A position
// at a fork belongs to the new branch.
func (s *Server) read(pos repo.Position, n int) (piece, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.aliveLocked(); err != nil {
		return piece{}, err
	}
	if pos < s.logStart || pos > s.end() {
		return piece{}, hferr.New("read the log", fmt.Errorf("position %s was removed or is not yet written", pos.Key()), "take a new base backup")
	}
	b, limit := s.branchAt(pos)
	stop := min(pos+repo.Position(n), limit)
	return piece{
		branch: b, data: append([]byte(nil), s.log[pos-s.logStart:stop-s.logStart]...),
		end: s.end(), time: s.now(), changed: s.changed,
	}, nil
}

// branchAt is the branch that holds the byte at pos, and where it ends.
func (s *Server) branchAt(pos repo.Position) (repo.Branch, repo.Position) {
	b, limit := s.branches[0], s.end()
	for i, next := range s.branches {
		if next.Fork > pos {
			return b, s.branches[i].Fork
		}
		b = next
	}
	return b, limit
}

func (s *Server) identity() (engines.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.aliveLocked(); err != nil {
		return engines.Identity{}, err
	}
	var size int64
	for _, rows := range s.data {
		for k, v := range rows {
			size += int64(len(k) + len(v))
		}
	}
	return engines.Identity{
		Lineage: repo.LineageInfo{ID: "fake-" + s.id, Engine: Name, Identity: map[string]string{"system": s.id}},
		Branch:  s.branches[len(s.branches)-1], Position: s.end(),
		Version: Version, Major: Major, Time: s.now(), Size: size,
		Facts: map[string]string{"tables": fmt.Sprint(len(s.data))},
	}, nil
}
