//go:build linux

package feature

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"detour.dev/detour/internal/testcert"
)

// delivery is one request as a regional server received it.
type delivery struct {
	Site   string // name of the server that got it
	Port   uint16
	Method string
	Path   string
	Host   string
	SNI    string
	TLS    *tls.ConnectionState // nil: plain text
	ID     string               // X-Request-Id, which the tests' clients make unique
	Header http.Header
}

// site is a regional server: a name, addresses in a namespace of its own, and services on some ports.
type site struct {
	w     *world
	name  string
	ip    netip.Addr
	alt   netip.Addr // a second address
	ip6   netip.Addr
	n     *namespace
	ports map[uint16]*service
}

func (s *site) addrs() []netip.Addr { return []netip.Addr{s.ip, s.alt, s.ip6} }

// behaviour is what a service does with what reaches it. The zero value serves.
type behaviour struct {
	// Status is answered instead of 200.
	Status int
	// Hello is what becomes of a connection after its ClientHello: "reset", "close", "hold" (no answer), or "alert" (a fatal
	// one).
	Hello string
	// After is what becomes of a connection once a request is read: "reset" or "close", without an answer.
	After string
	// Header is part of the answer.
	Header map[string]string
	// Cert is presented; nil: the service's own.
	Cert *testcert.Pair
	// Gate, if not nil, holds answers to /slow until it is closed.
	Gate chan struct{}
}

// service is one listening port of a site.
type service struct {
	s    *site
	port uint16
	cert *testcert.Pair
	tls  func() *tls.Config // nil: plain HTTP; called at each start

	mu    sync.Mutex
	now   behaviour
	srv   *http.Server
	ended chan struct{}
	cx    int
	open  atomic.Int64
}

// http begins to serve HTTP on a port.
func (s *site) http(port uint16) *service { return s.serve(port, nil, nil) }

// https begins to serve HTTP over TLS on a port.
func (s *site) https(port uint16, cert *testcert.Pair) *service {
	return s.serve(port, cert, newTLS)
}

// newTLS makes the configuration of a server that has just started: it knows no session of an earlier one.
func newTLS() *tls.Config { return &tls.Config{} }

func (s *site) serve(port uint16, cert *testcert.Pair, config func() *tls.Config) *service {
	v := &service{s: s, port: port, cert: cert, tls: config}
	s.ports[port] = v
	v.start(s.w.t)
	return v
}

// behave changes what the service does from now on.
func (v *service) behave(b behaviour) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.now = b
}

func (v *service) behaviour() behaviour {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.now
}

// connections counts those accepted so far.
func (v *service) connections() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.cx
}

func (v *service) count(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		v.open.Add(1)
	case http.StateClosed, http.StateHijacked:
		v.open.Add(-1)
	}
}

// start listens, at first and after stop.
func (v *service) start(t testing.TB) {
	t.Helper()
	var ls []net.Listener
	for _, ip := range v.s.addrs() {
		ls = append(ls, &hearing{Listener: v.s.n.listener(t, netip.AddrPortFrom(ip, v.port).String()), v: v})
	}
	srv := &http.Server{Handler: v, ErrorLog: log.New(io.Discard, "", 0), ConnState: v.count}
	ended := make(chan struct{})
	v.mu.Lock()
	v.srv, v.ended = srv, ended
	v.mu.Unlock()
	var config *tls.Config
	if v.tls != nil {
		if config = v.tls(); config.GetCertificate == nil {
			config.GetCertificate = v.certificate
		}
	}
	var wg sync.WaitGroup
	for _, l := range ls {
		if config != nil {
			l = tls.NewListener(l, config)
		}
		wg.Go(func() { _ = srv.Serve(l) })
	}
	go func() { wg.Wait(); close(ended) }()
}

// stop closes the port and all connections, as a process does that is killed.
func (v *service) stop() {
	v.mu.Lock()
	srv, ended := v.srv, v.ended
	v.srv = nil
	v.mu.Unlock()
	if srv != nil {
		_ = srv.Close()
		<-ended
	}
}

func (v *service) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	b := v.behaviour()
	if b.Hello == "alert" {
		return nil, errors.New("as the test wants it")
	}
	p := b.Cert
	if p == nil {
		p = v.cert
	}
	c, err := p.TLS()
	return &c, err
}

// ServeHTTP implements http.Handler: it answers as Amazon DynamoDB does at its root.
func (v *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := delivery{Site: v.s.name, Port: v.port, Method: r.Method, Path: r.URL.Path, Host: r.Host, ID: r.Header.Get("X-Request-Id"), Header: r.Header}
	if r.TLS != nil {
		d.SNI, d.TLS = r.TLS.ServerName, r.TLS
	}
	v.s.w.deliver(d)
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	b := v.behaviour()
	if b.After != "" {
		hangUp(w, b.After == "reset")
		return
	}
	if r.URL.Path == "/slow" && b.Gate != nil {
		select {
		case <-b.Gate:
		case <-r.Context().Done():
			return
		}
	}
	body := "healthy: " + v.s.name
	if b.Status != 0 {
		body = "status " + strconv.Itoa(b.Status)
	}
	for k, val := range b.Header {
		w.Header().Set(k, val)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if b.Status != 0 {
		w.WriteHeader(b.Status)
	}
	_, _ = io.WriteString(w, body)
}

func hangUp(w http.ResponseWriter, reset bool) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	if h, ok := c.(*heard); ok && reset {
		_ = h.Conn.(*net.TCPConn).SetLinger(0)
	}
	c.Close()
}

// hearing is a listener whose connections obey behaviour.Hello.
type hearing struct {
	net.Listener
	v *service
}

func (l *hearing) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.v.mu.Lock()
	l.v.cx++
	l.v.mu.Unlock()
	return &heard{Conn: c, v: l.v}, nil
}

type heard struct {
	net.Conn
	v *service
}

// Read takes the first bytes and ends the connection where the behaviour says so.
func (c *heard) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil {
		return n, err
	}
	switch c.v.behaviour().Hello {
	case "reset":
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
		c.Conn.Close()
		return 0, io.EOF
	case "close":
		c.Conn.Close()
		return 0, io.EOF
	case "hold":
		_, err := io.Copy(io.Discard, c.Conn)
		return 0, errors.Join(err, io.EOF)
	}
	return n, nil
}

// loseRequests drops every packet that goes to the site, loseAnswers every packet that comes from it, until undo.
func (s *site) loseRequests() (undo func()) {
	return filter{n: s.n, addrs: s.addrs(), side: "daddr"}.drop(s.w.t)
}

func (s *site) loseAnswers() (undo func()) {
	return filter{n: s.w.app, addrs: s.addrs(), side: "saddr"}.drop(s.w.t)
}
