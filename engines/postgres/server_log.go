package postgres

import (
	"bytes"
	"io"
	"regexp"
	"strings"
	"sync"
)

// serverLog reads a copy's log as it is written: it passes everything on,
// notices the milestones of a recovery, and keeps the lines that say why a
// server ended. The copy runs with lc_messages = C.
type serverLog struct {
	mu      sync.Mutex
	out     io.Writer // may be nil
	partial []byte
	fatal   []string // FATAL and PANIC messages with their DETAIL and HINT, the last few
	tail    []string // the last lines of any kind
	inFatal bool
	redo    bool
	open    bool
	changed chan struct{}
}

const (
	maxLogLine  = 16 << 10 // bytes; longer lines are cut
	keptLines   = 20
	logRedo     = "redo starts at "
	logNoRedo   = "redo is not required"
	logOpen     = "database system is ready to accept connections"
	logStarting = "the database system is " // what clients hear while it is not open
)

func newServerLog(out io.Writer) *serverLog {
	return &serverLog{out: out, changed: make(chan struct{})}
}

// Write never fails: a reader that is in trouble must not stop the server.
func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out != nil {
		_, _ = l.out.Write(p)
	}
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 && len(l.partial) < maxLogLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(l.partial) - 1
		}
		l.line(strings.TrimRight(string(l.partial[:i]), "\r"))
		l.partial = l.partial[i+1:]
	}
}

// logLine finds the severity behind the prefix "%m [%p] ".
var logLine = regexp.MustCompile(`^\S+ \S+ \S+ \[\d+\] ([A-Z0-9]+):  (.*)$`)

func (l *serverLog) line(s string) {
	l.tail = keepLast(append(l.tail, s))
	m := logLine.FindStringSubmatch(s)
	if m == nil {
		return
	}
	severity, text := m[1], m[2]
	switch severity {
	case "FATAL", "PANIC":
		l.inFatal = !strings.HasPrefix(text, logStarting)
		if l.inFatal {
			l.fatal = keepLast(append(l.fatal, severity+": "+text))
		}
	case "DETAIL", "HINT", "CONTEXT":
		if l.inFatal {
			l.fatal = keepLast(append(l.fatal, severity+": "+text))
		}
	default:
		l.inFatal = false
	}
	if severity == "LOG" {
		l.milestone(text)
	}
}

func (l *serverLog) milestone(text string) {
	redo := strings.HasPrefix(text, logRedo) || strings.HasPrefix(text, logNoRedo)
	open := text == logOpen
	if !redo && !open {
		return
	}
	l.redo = l.redo || redo
	l.open = l.open || open
	close(l.changed)
	l.changed = make(chan struct{})
}

// state tells what has been seen; next is closed when that changes.
func (l *serverLog) state() (redo, open bool, next <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.redo, l.open, l.changed
}

// why is what the log says about the server's end: its FATAL lines, else the
// last lines of any kind.
func (l *serverLog) why() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.fatal) > 0 {
		return append([]string(nil), l.fatal...)
	}
	return append([]string(nil), l.tail...)
}

func keepLast(s []string) []string {
	if len(s) > keptLines {
		return s[len(s)-keptLines:]
	}
	return s
}
