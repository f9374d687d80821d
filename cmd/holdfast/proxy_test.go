package main

import (
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy is a network between holdfast and its server that can be cut,
// stalled, and led to another server.
type proxy struct {
	t  *testing.T
	ln net.Listener

	mu      sync.Mutex
	network string
	address string
	down    bool
	moving  chan struct{} // closed while bytes move
	conns   map[net.Conn]bool
}

func newProxy(t *testing.T) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{t: t, ln: ln, moving: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.moving)
	go p.accept()
	t.Cleanup(func() { ln.Close(); p.cut() })
	return p
}

// to leads new connections to a server.
func (p *proxy) to(network, address string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.network, p.address = network, address
}

func (p *proxy) accept() {
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		network, address, down := p.network, p.address, p.down
		p.mu.Unlock()
		if down {
			c.Close()
			continue
		}
		go p.serve(c, network, address)
	}
}

func (p *proxy) serve(c net.Conn, network, address string) {
	s, err := net.DialTimeout(network, address, 5*time.Second)
	if err != nil {
		c.Close()
		return
	}
	p.mu.Lock()
	p.conns[c], p.conns[s] = true, true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{c, s}, {s, c}} {
		wg.Go(func() {
			defer c.Close()
			defer s.Close()
			p.move(way[0], way[1])
		})
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.conns, c)
	delete(p.conns, s)
	p.mu.Unlock()
}

func (p *proxy) move(from, to net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		p.mu.Lock()
		moving := p.moving
		p.mu.Unlock()
		<-moving
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// stall lets connections stand while nothing comes through.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moving = make(chan struct{})
}

// flow ends a stall or a cut.
func (p *proxy) flow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
	select {
	case <-p.moving:
	default:
		close(p.moving)
	}
}

// cut ends all connections and takes no new ones.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = true
	for c := range p.conns {
		c.Close()
	}
	select {
	case <-p.moving:
	default:
		close(p.moving)
	}
}

// through makes every command of a site reach its server by way of the proxy.
func (s *site) through(p *proxy) {
	s.t.Helper()
	p.to("tcp", "127.0.0.1:"+portOf(s.server))
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	u.Host = p.ln.Addr().String()
	u.RawQuery = "sslmode=disable"
	s.url = u.String()
}
