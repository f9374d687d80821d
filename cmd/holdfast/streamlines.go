package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// streamLines prints a stream's life: each change at once, a status line
// every few seconds.
type streamLines struct {
	a        *app
	name     string
	quiet    bool
	position func(repo.Position) string

	mu       sync.Mutex
	last     time.Time
	segments int
	beatDown bool
	trouble  string // the condition that was told last
	level    string // the guarantee that was told last
}

const statusEvery = 5 * time.Second

func (s *streamLines) event(e agent.StreamEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.a.json() {
		s.jsonEvent(e)
		return
	}
	switch e.Kind {
	case "waiting":
		s.line("waiting: %v", e.Err)
		s.hint(hferr.HintOf(e.Err))
	case "draining":
		s.line("the spool holds log of an earlier run (%s on disk); storing it first", size(e.Bytes))
	case "drained":
		s.line("the spool is drained: %s of log stored", size(e.Bytes))
	case "spool-damaged":
		s.line("the spool is damaged; what could be read is stored, the files are put aside: %v", e.Err)
		s.hint(hferr.HintOf(e.Err))
	case "streaming":
		s.line("streaming from %s", s.position(e.At))
	case "segment":
		s.segments++
		if s.beatDown = s.beatDown && len(e.Segment.Beats) == 0; s.segments == 1 {
			s.line("first segment durable: through %s (%s)", s.position(e.Segment.End), e.Segment.Reason)
		}
	case "status":
		s.status(e.Report)
	case "condition":
		s.condition(e.Report)
	case "lost":
		s.line("connection lost: %v", e.Err)
		s.hint(hferr.HintOf(e.Err))
	case "retry":
		s.line("connecting again")
	case "heartbeat-failed":
		if !s.beatDown {
			s.line("no heartbeat: %v", e.Err)
			s.hint(hferr.HintOf(e.Err))
		}
		s.beatDown = true
	case "stopped":
		s.line("stopped; %d segments stored in this run", s.segments)
	}
}

// condition tells what is wrong while streaming, once, and when it is over.
// What ends a connection is told by "lost".
func (s *streamLines) condition(r agent.StreamReport) {
	if r.State != agent.StateStreaming {
		return
	}
	now := string(r.Condition)
	if now == s.trouble {
		return
	}
	if s.trouble != "" {
		s.line("over: %s", s.trouble)
	}
	if now != "" {
		s.line("%s: %s", now, r.Message)
		s.hint(r.Hint)
	}
	s.trouble = now
}

func (s *streamLines) status(r agent.StreamReport) {
	if g := r.Guarantee; g != nil && string(g.Level) != s.level {
		s.level = string(g.Level)
		s.line("%s", g.Sentence)
		for _, f := range g.Findings {
			s.line("%s: %s", f.Severity, f.Message)
			s.hint(f.Fix)
		}
	}
	now := s.a.clock()
	if s.quiet || r.Stored == 0 || now.Sub(s.last).Abs() < statusEvery {
		return
	}
	s.last = now
	behind := int64(0)
	if r.ServerEnd > r.Stored {
		behind = int64(r.ServerEnd - r.Stored)
	}
	text := fmt.Sprintf("stored %s, %s behind the server, %d segments", s.position(r.Stored), size(behind), s.segments)
	if r.Idle {
		text = fmt.Sprintf("stored %s, all that the server has written, %d segments", s.position(r.Stored), s.segments)
	}
	if r.Spool != nil {
		text += fmt.Sprintf("; acknowledged %s, %s of %s spooled", s.position(r.Durable), size(r.Spool.Bytes), size(r.Spool.Limit))
	}
	if r.Condition != "" {
		text += "; " + string(r.Condition)
	}
	s.line("%s", text)
}

func (s *streamLines) hint(text string) {
	if text == "" {
		return
	}
	for line := range strings.Lines(text) {
		s.line("  hint: %s", strings.TrimRight(line, "\n"))
	}
}

func (s *streamLines) line(format string, args ...any) {
	s.a.printf("%s %s: "+format+"\n", append([]any{s.a.clock().Format("15:04:05"), s.name}, args...)...)
}

// jsonEvent prints one object a line: a stream has no single document.
func (s *streamLines) jsonEvent(e agent.StreamEvent) {
	now := s.a.clock()
	if e.Kind == "status" && now.Sub(s.last).Abs() < statusEvery {
		return
	}
	if e.Kind == "status" {
		s.last = now
	}
	doc := map[string]any{"time": now, "database": s.name, "event": e.Kind}
	if e.Err != nil {
		doc["error"], doc["hint"] = e.Err.Error(), hferr.HintOf(e.Err)
	}
	switch e.Kind {
	case "status", "condition":
		doc["durable"], doc["received"], doc["server"] = e.Report.Durable.Key(), e.Report.Received.Key(), e.Report.ServerEnd.Key()
		doc["report"] = e.Report
	case "streaming":
		doc["received"] = e.At.Key()
	}
	if e.Segment != nil {
		doc["start"], doc["end"], doc["reason"] = e.Segment.Start.Key(), e.Segment.End.Key(), e.Segment.Reason
	}
	s.a.printJSONLine(doc)
}
