package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// Messages inside the COPY of a running stream (manual, "Streaming
// Replication Protocol").
const (
	msgWAL       = 'w' // start, server's end, clock, bytes
	msgKeepalive = 'k' // server's end, clock, reply requested
	msgStatus    = 'r' // ours: written, flushed, applied, clock, reply requested
)

// arrival is one message of the server.
type arrival struct {
	Pos   repo.Position // of Data's first byte
	Data  []byte        // nil: a keepalive
	End   repo.Position // end of the server's log as far as it says
	Sent  time.Time     // server's clock
	Reply bool          // it wants an answer now
}

var errStream = errors.New("unexpected message in the log stream")

// parseArrival reads the body of a CopyData message. Data aliases b.
func parseArrival(b []byte) (arrival, error) {
	switch {
	case len(b) >= 25 && b[0] == msgWAL:
		return arrival{
			Pos:  repo.Position(binary.BigEndian.Uint64(b[1:])),
			End:  repo.Position(binary.BigEndian.Uint64(b[9:])),
			Sent: fromServerTime(int64(binary.BigEndian.Uint64(b[17:]))),
			Data: b[25:],
		}, nil
	case len(b) == 18 && b[0] == msgKeepalive:
		return arrival{
			End:   repo.Position(binary.BigEndian.Uint64(b[1:])),
			Sent:  fromServerTime(int64(binary.BigEndian.Uint64(b[9:]))),
			Reply: b[17] != 0,
		}, nil
	}
	return arrival{}, fmt.Errorf("%w: %d bytes", errStream, len(b))
}

// serverEpoch is where the server counts microseconds from.
var serverEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func fromServerTime(us int64) time.Time { return time.UnixMicro(serverEpoch.UnixMicro() + us).UTC() }
func toServerTime(t time.Time) int64    { return t.UnixMicro() - serverEpoch.UnixMicro() }

// appendStatus encodes our report. A position of 0 means "nothing yet" and
// moves nothing at the server. (pglogrepl's encoder is not used: it replaces a
// flush position of 0 by the written one, which would acknowledge bytes that
// are not durable.) Applied is always 0: we apply nothing.
func appendStatus(b []byte, written, flushed repo.Position, now time.Time, wantReply bool) []byte {
	b = append(b, msgStatus)
	b = binary.BigEndian.AppendUint64(b, uint64(written))
	b = binary.BigEndian.AppendUint64(b, uint64(flushed))
	b = binary.BigEndian.AppendUint64(b, 0)
	b = binary.BigEndian.AppendUint64(b, uint64(toServerTime(now)))
	if wantReply {
		return append(b, 1)
	}
	return append(b, 0)
}

// ErrServerStopped: the server ended the stream because it shuts down.
var ErrServerStopped = errors.New("the server shut down and ended the stream")

// errEndOfTimeline: everything of the timeline asked for has been sent.
var errEndOfTimeline = errors.New("end of timeline")

// link is a connection in the middle of a stream. The connection is taken out
// of pgconn (Hijack), whose per-call contexts set one deadline for both
// directions: here reads and writes have deadlines of their own, one
// goroutine reads and one writes.
type link struct {
	hijacked *pgconn.HijackedConn
	conn     net.Conn
	arrivals chan arrival
	ended    chan struct{} // closed when the reader has ended, after err
	err      error         // why: errEndOfTimeline, ErrServerStopped, the server's error, I/O
	stopping atomic.Bool   // nobody listens any more
	waiting  atomic.Int64  // since when the reader waits for the server, by the link's age; 0: it does not
	made     time.Time
	stall    time.Duration
	write    sync.Mutex
}

// queued bounds what is read ahead of the archiver: messages carry at most
// 128 KiB (MAX_SEND_SIZE in replication/walsender.c).
const queued = 32

// startReplication begins streaming at pos; slot "" is none.
func startReplication(ctx context.Context, conn *pgconn.PgConn, slot string, pos repo.Position, timeline uint64, stall time.Duration) (*link, error) {
	if slot != "" {
		slot = "SLOT " + slot + " "
	}
	command := fmt.Sprintf("START_REPLICATION %sPHYSICAL %s TIMELINE %d", slot, FormatLSN(pos), timeline)
	conn.Frontend().SendQuery(&pgproto3.Query{String: command})
	if err := conn.Frontend().Flush(); err != nil {
		return nil, fmt.Errorf("send START_REPLICATION: %w", err)
	}
	var refused error
	for {
		msg, err := conn.ReceiveMessage(ctx)
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		case *pgproto3.ErrorResponse:
			refused = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			if refused == nil {
				refused = fmt.Errorf("%w: START_REPLICATION ended at once", errStream)
			}
			return nil, refused
		case *pgproto3.CopyBothResponse:
			hijacked, err := conn.Hijack()
			if err != nil {
				return nil, err
			}
			l := &link{hijacked: hijacked, conn: hijacked.Conn, stall: stall,
				arrivals: make(chan arrival, queued), ended: make(chan struct{}), made: time.Now()}
			go l.read()
			return l, nil
		default:
			return nil, fmt.Errorf("%w: %T", errStream, msg)
		}
	}
}

// read passes messages on until the stream ends. While the queue is full it
// does not read, so that the server's socket fills and the server waits; the
// status goes out all the same.
func (l *link) read() {
	defer close(l.ended)
	for {
		if err := l.conn.SetReadDeadline(time.Now().Add(l.stall)); err != nil {
			l.err = err
			return
		}
		l.waiting.Store(int64(max(time.Since(l.made), 1)))
		msg, err := l.hijacked.Frontend.Receive()
		l.waiting.Store(0)
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				err = &StalledError{After: l.stall}
			}
			l.err = err
			return
		}
		switch m := msg.(type) {
		case *pgproto3.CopyData:
			a, err := parseArrival(m.Data)
			if err != nil {
				l.err = err
				return
			}
			if l.stopping.Load() {
				continue
			}
			a.Data = append([]byte(nil), a.Data...)
			l.arrivals <- a
		case *pgproto3.CopyDone:
			l.err = errEndOfTimeline
			return
		case *pgproto3.CommandComplete:
			l.err = ErrServerStopped // "COPY 0" without a CopyDone: WalSndDone in walsender.c
			return
		case *pgproto3.ErrorResponse:
			l.err = pgconn.ErrorResponseToPgError(m)
			return
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			l.err = fmt.Errorf("%w: %T", errStream, msg)
			return
		}
	}
}

// silent is how long the reader has been waiting for the server. A reader
// that does not read, because the intake is full, waits for nobody.
func (l *link) silent() time.Duration {
	since := time.Duration(l.waiting.Load())
	if since == 0 {
		return 0
	}
	return time.Since(l.made) - since
}

// send writes one status. Safe for concurrent use.
func (l *link) send(written, flushed repo.Position, now time.Time, wantReply bool) error {
	body := appendStatus(make([]byte, 0, 34), written, flushed, now, wantReply)
	return l.put(&pgproto3.CopyData{Data: body})
}

func (l *link) put(m pgproto3.FrontendMessage) error {
	buf, err := m.Encode(nil)
	if err != nil {
		return err
	}
	l.write.Lock()
	defer l.write.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(l.stall)); err != nil {
		return err
	}
	_, err = l.conn.Write(buf)
	return err
}

// discard drops what still arrives, so that the reader never blocks on a
// queue that nobody empties.
func (l *link) discard() {
	l.stopping.Store(true)
	go func() {
		for {
			select {
			case <-l.arrivals:
			case <-l.ended:
				return
			}
		}
	}()
}

// goodbye bounds the polite end of a stream.
const goodbye = 2 * time.Second

// close ends the stream and the connection, and waits for the server to have
// gone, so that a temporary slot is gone too and a slot is free again.
func (l *link) close() {
	l.discard()
	deadline := time.Now().Add(goodbye)
	if l.put(&pgproto3.CopyDone{}) == nil && l.put(&pgproto3.Terminate{}) == nil {
		select {
		case <-l.ended:
		case <-time.After(goodbye):
		}
		select {
		case <-l.ended: // the reader is done: what follows is ours to skip
			_ = l.conn.SetReadDeadline(deadline)
			for {
				if _, err := l.hijacked.Frontend.Receive(); err != nil {
					break
				}
			}
		default:
		}
	}
	_ = l.conn.Close() // its errors change nothing now
	<-l.ended
}

// nextTimeline ends a finished timeline's copy and gives the connection back.
// The reader has ended with errEndOfTimeline. The server says where its next
// timeline begins.
func (l *link) nextTimeline(ctx context.Context) (*pgconn.PgConn, repo.Position, error) {
	if err := l.put(&pgproto3.CopyDone{}); err != nil {
		return nil, 0, err
	}
	if err := l.conn.SetDeadline(time.Now().Add(l.stall)); err != nil {
		return nil, 0, err
	}
	var at repo.Position
	for {
		msg, err := l.hijacked.Frontend.Receive()
		if err != nil {
			return nil, 0, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			if len(m.Values) != 2 {
				return nil, 0, fmt.Errorf("%w: %d columns for the next timeline", errStream, len(m.Values))
			}
			if at, err = ParseLSN(string(m.Values[1])); err != nil {
				return nil, 0, err
			}
		case *pgproto3.ErrorResponse:
			return nil, 0, pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			if err := l.conn.SetDeadline(time.Time{}); err != nil {
				return nil, 0, err
			}
			conn, err := pgconn.Construct(l.hijacked)
			return conn, at, err
		}
	}
}
