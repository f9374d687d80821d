package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// proxy passes TCP on, and can cut or freeze what passes.
type proxy struct {
	ln     net.Listener
	target string
	mu     sync.Mutex
	conns  []net.Conn
	frozen atomic.Bool
}

func newProxy(t *testing.T, target string) *proxy {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, target: target}
	t.Cleanup(func() { _ = ln.Close(); p.cut() })
	go p.serve()
	return p
}

func (p *proxy) serve() {
	for {
		client, err := p.ln.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
		if err != nil {
			_ = client.Close()
			continue
		}
		p.mu.Lock()
		p.conns = append(p.conns, client, server)
		p.mu.Unlock()
		go p.pass(client, server)
		go p.pass(server, client)
	}
}

func (p *proxy) pass(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		for p.frozen.Load() {
			time.Sleep(time.Millisecond)
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// cut closes every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// through connects by way of the proxy.
func (s *site) through(p *proxy) engines.Source {
	s.t.Helper()
	o := s.options()
	u, err := url.Parse(o.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	u.Host = p.ln.Addr().String()
	o.URL = u.String()
	src, err := New().Connect(s.t.Context(), o)
	if err != nil {
		s.t.Fatal(err)
	}
	return src
}

// load writes to the server until stop.
func (s *site) load(workers int) (stop func()) {
	s.exec("create table if not exists load (id bigint generated always as identity primary key, pad text)")
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	for range workers {
		conn := connectTo(s.t, s.server.AdminURL())
		wg.Add(1)
		go func() {
			defer wg.Done()
			work(ctx, conn)
		}()
	}
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); wg.Wait() }) }
	s.t.Cleanup(stop)
	return stop
}

func work(ctx context.Context, conn *pgx.Conn) {
	for i := 0; ctx.Err() == nil; i++ {
		q := "insert into load (pad) select repeat(md5(random()::text), 30) from generate_series(1, 50)"
		switch {
		case i%97 == 50:
			q = "delete from load where id % 3 = 0"
		case i%397 == 100:
			q = "select pg_switch_wal()"
		}
		if _, err := conn.Exec(ctx, q); err != nil {
			return
		}
	}
}

// serverLog reads [from, to) from the server's own files of a timeline.
func (s *site) serverLog(timeline uint64, from, to repo.Position) []byte {
	s.t.Helper()
	const segment = 16 << 20
	var out []byte
	for at := from; at < to; {
		n := uint64(at) / segment
		name := fmt.Sprintf("%08X%08X%08X", timeline, n/256, n%256)
		data, err := os.ReadFile(filepath.Join(s.server.DataDir(), "pg_wal", name))
		if err != nil {
			s.t.Fatal(err)
		}
		lo := uint64(at) % segment
		hi := min(uint64(segment), lo+uint64(to-at))
		out = append(out, data[lo:hi]...)
		at += repo.Position(hi - lo)
	}
	return out
}

var keepLog = map[string]string{"wal_keep_size": "2GB"}

// TestStreamIsByteForByteAcrossReconnects cuts the connection at ten random
// moments under load; each Tail resumes from what is held.
func TestStreamIsByteForByteAcrossReconnects(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, keepLog)
		p := newProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.server.Port())))
		src := s.through(p)
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		stopLoad := s.load(2)
		for range 10 {
			in.set(func(m *memoryIntake) { m.lag = !m.lag })
			stop, ready := background(t, src.Log(), engines.TailOptions{Held: in.held}, in)
			if _, ok := <-ready; !ok {
				t.Fatalf("the stream did not begin: %v", stop())
			}
			time.Sleep(rand.N(300 * time.Millisecond))
			p.cut()
			if _, ok := <-ready; ok {
				t.Fatal("ready twice")
			}
			if err := stop(); engines.ConditionOf(err) != engines.ConditionConnectionLost || engines.IsPermanent(err) {
				t.Fatalf("after a cut: %v", err)
			}
		}
		stopLoad()
		end := s.flushLog()
		in.set(func(m *memoryIntake) { m.lag = false })
		until := make(chan repo.Position, 1)
		until <- end
		if err := src.Log().Tail(t.Context(), engines.TailOptions{Held: in.held, Until: until}, in); err != nil {
			t.Fatal(err)
		}
		start := in.runs[0].start
		if start%(16<<20) != 0 || len(in.runs) != 11 {
			t.Fatalf("%d runs, the first from %s", len(in.runs), FormatLSN(start))
		}
		for i, r := range in.runs[1:] {
			if r.start != in.runs[i].end() {
				t.Errorf("run %d begins at %s, what is held ends at %s", i+1, FormatLSN(r.start), FormatLSN(in.runs[i].end()))
			}
		}
		if !bytes.Equal(in.bytes(t, "00000001-root", start, end), s.serverLog(1, start, end)) {
			t.Error("the archive differs from the server's files")
		}
		if end-start < 32<<20 {
			t.Errorf("only %d bytes were written", end-start)
		}
	})
}

// TestNothingIsAcknowledgedBeforeItIsDurable looks at the slot and at
// pg_stat_replication while the store lags, then catches up.
func TestNothingIsAcknowledgedBeforeItIsDurable(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		const slot = "holdfast_orders_1"
		restart := "select restart_lsn::text from pg_replication_slots where slot_name = '" + slot + "'"
		before := s.position(restart)
		in := newMemoryIntake()
		in.lag = true
		var last atomic.Pointer[engines.TailStatus]
		stop, ready := background(t, src.Log(), engines.TailOptions{Held: in.held, Status: func(st engines.TailStatus) { last.Store(&st) }}, in)
		start := <-ready
		s.exec("create table t as select g from generate_series(1, 10000) g")
		end := s.position("select pg_current_wal_flush_lsn()::text")
		waitFor(t, "all is received", func() bool { return in.received() >= end })
		waitFor(t, "the server knows that it is written", func() bool {
			return s.text("select coalesce(max(write_lsn) >= '"+FormatLSN(end)+"', false)::text from pg_stat_replication where application_name like 'holdfast%'") == "true"
		})
		flush := "select coalesce(flush_lsn::text, '0/0') from pg_stat_replication where application_name = 'holdfast_orders_1'"
		if got := s.position(flush); got > start {
			t.Errorf("flushed %s is reported, durable is %s", FormatLSN(got), FormatLSN(start))
		}
		if got := s.position(restart); got > before {
			t.Errorf("the slot moved from %s to %s", FormatLSN(before), FormatLSN(got))
		}
		if got := s.text("select (replay_lsn is null)::text from pg_stat_replication"); got != "true" {
			t.Error("something is reported as applied")
		}
		half := start + (end-start)/2
		in.set(func(m *memoryIntake) { m.durable = half })
		waitFor(t, "half is acknowledged", func() bool { return s.position(flush) == half && s.position(restart) == half })
		if st := last.Load(); st == nil || st.Received < end || st.Durable > half || st.Branch != "00000001-root" || st.ServerTime.IsZero() {
			t.Errorf("status: %+v", st)
		}
		if err := stop(); err != nil {
			t.Fatal(err)
		}
		kept, err := src.Log().Retained(t.Context())
		if err != nil || len(kept) != 1 || kept[0].Name != slot || !kept[0].Ours || kept[0].Active || kept[0].Position != half || kept[0].Bytes <= 0 || kept[0].State != "reserved" {
			t.Fatalf("retained: %+v %v", kept, err)
		}
		if err := src.Log().Release(t.Context(), slot); err != nil {
			t.Fatal(err)
		}
		if kept, err = src.Log().Retained(t.Context()); err != nil || len(kept) != 0 {
			t.Fatalf("retained after the drop: %+v %v", kept, err)
		}
	})
}

// TestATemporaryStreamServesAOneShotBackup: log from before a backup begun
// after Ready, through its stop, and nothing left on the server.
func TestATemporaryStreamServesAOneShotBackup(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, keepLog, "create table t as select g from generate_series(1, 1000) g")
		src := s.source()
		in := newMemoryIntake()
		until := make(chan repo.Position, 1)
		begun := make(chan repo.Position, 1)
		done := make(chan error, 1)
		go func() {
			done <- src.Log().Tail(t.Context(), engines.TailOptions{Temporary: true, Until: until, Ready: func(p repo.Position) { begun <- p }}, in)
		}()
		var start repo.Position
		select {
		case start = <-begun:
		case err := <-done:
			t.Fatal(err)
		}
		if got := s.text("select string_agg(slot_name::text || ' ' || temporary::text, ',') from pg_replication_slots"); !strings.HasPrefix(got, "holdfast_orders_1_once_") || !strings.HasSuffix(got, " true") {
			t.Errorf("slots: %s", got)
		}
		res, err := src.Backup(t.Context(), engines.BackupOptions{Fast: true}, newMemorySink())
		if err != nil {
			t.Fatal(err)
		}
		until <- res.Stop
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if start > res.LogFrom || in.Durable() < res.Stop {
			t.Errorf("log from %s to %s for a backup from %s to %s", FormatLSN(start), FormatLSN(in.Durable()), FormatLSN(res.LogFrom), FormatLSN(res.Stop))
		}
		if !bytes.Equal(in.bytes(t, res.Branch, res.LogFrom, res.Stop), s.serverLog(1, res.LogFrom, res.Stop)) {
			t.Error("the log differs from the server's files")
		}
		if got := s.text("select count(*)::text from pg_replication_slots"); got != "0" {
			t.Errorf("%s slots are left", got)
		}
	})
}

// TestBackPressureKeepsTheConnection blocks Write for twice the server's
// timeout: the reports must go out all the same. The timeout is long enough
// that a busy machine, where nothing runs for a second, does not break it.
func TestBackPressureKeepsTheConnection(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, map[string]string{"wal_sender_timeout": "6s"})
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		stop, ready := background(t, src.Log(), engines.TailOptions{Held: in.held}, in)
		<-ready
		pid := s.text("select pid::text from pg_stat_replication")
		in.set(func(m *memoryIntake) { m.block = true })
		s.exec("create table t as select repeat('x', 1000) from generate_series(1, 20000) g")
		time.Sleep(13 * time.Second) // two timeouts of the server
		if got := s.text("select coalesce(max(pid)::text, 'none') from pg_stat_replication"); got != pid {
			t.Errorf("the walsender was %s, now %s", pid, got)
		}
		in.set(func(m *memoryIntake) { m.block = false })
		end := s.position("select pg_current_wal_flush_lsn()::text")
		waitFor(t, "all is received", func() bool { return in.received() >= end })
		if err := stop(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestAServerThatShutsDownEndsTheStream(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		src := s.source()
		if err := src.Log().Prepare(t.Context()); err != nil {
			t.Fatal(err)
		}
		in := newMemoryIntake()
		in.lag = true
		stop, ready := background(t, src.Log(), engines.TailOptions{Held: in.held}, in)
		<-ready
		stopped := make(chan error, 1)
		go func() { stopped <- s.server.StopFast(context.Background()) }()
		// The server waits for our acknowledgement of its last record.
		time.Sleep(2 * time.Second)
		in.set(func(m *memoryIntake) { m.lag = false; m.durable = m.runs[0].end() })
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		<-ready
		if err := stop(); !errors.Is(err, ErrServerStopped) || engines.ConditionOf(err) != engines.ConditionServerStopped || engines.IsPermanent(err) {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

// TestAFrozenConnectionIsNoticed shortens the stall.
func TestAFrozenConnectionIsNoticed(t *testing.T) {
	s := newSite(t, "15", nil)
	p := newProxy(t, net.JoinHostPort("127.0.0.1", strconv.Itoa(s.server.Port())))
	src := s.through(p)
	if err := src.Log().Prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	in := newMemoryIntake()
	l := src.Log().(*logSource)
	l.stall = time.Second
	stop, ready := background(t, l, engines.TailOptions{Held: in.held}, in)
	<-ready
	p.frozen.Store(true)
	<-ready
	p.frozen.Store(false)
	if err := stop(); engines.ConditionOf(err) != engines.ConditionStalled || !strings.Contains(err.Error(), "stalled") {
		t.Errorf("the stream ended with %v", err)
	}
}
