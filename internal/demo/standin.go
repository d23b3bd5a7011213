package demo

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"detour.dev/detour/internal/testcert"
)

// behaviour is what is wrong with a stand-in's TLS port. The zero value is nothing.
type behaviour int

const (
	wellBehaved    behaviour = iota
	failsHandshake           // a fatal alert answers every ClientHello
	otherName                // its certificate is for another name
	unavailable              // every request is answered 503
	resetsHello              // the connection is reset when the ClientHello has come
)

// standIn is a regional server: "healthy: NAME" on ports 80 and 443 of an address of its own, as DynamoDB answers at
// its root. Safe for concurrent use.
type standIn struct {
	name string
	addr netip.Addr
	ca   *testcert.CA

	mu        sync.Mutex
	behaves   behaviour
	certified []string // names that the certificate carries
	certs     map[string]*tls.Certificate
	seen      []request
	server    *http.Server // nil while stopped
	done      sync.WaitGroup
}

// request is what a stand-in saw of one request.
type request struct {
	TLS       uint16 // version, 0 without
	SNI, Host string
}

func newStandIn(name string, addr netip.Addr, ca *testcert.CA) *standIn {
	return &standIn{name: name, addr: addr, ca: ca, certified: []string{name}, certs: map[string]*tls.Certificate{}}
}

// start listens; it may be called again after stop.
func (s *standIn) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	plain, err := net.Listen("tcp", netip.AddrPortFrom(s.addr, 80).String())
	if err != nil {
		return err
	}
	secure, err := net.Listen("tcp", netip.AddrPortFrom(s.addr, 443).String())
	if err != nil {
		plain.Close()
		return err
	}
	server := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)}
	s.server = server
	cfg := &tls.Config{GetConfigForClient: s.hello, NextProtos: []string{"http/1.1"}}
	for _, l := range []net.Listener{plain, tls.NewListener(secure, cfg)} {
		s.done.Go(func() { _ = server.Serve(l) }) // ends by stop only
	}
	return nil
}

// stop closes both ports and every connection, as the end of a process does.
func (s *standIn) stop() {
	s.mu.Lock()
	server := s.server
	s.server = nil
	s.mu.Unlock()
	if server != nil {
		_ = server.Close()
		s.done.Wait()
	}
}

func (s *standIn) behave(b behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.behaves = b
}

// certify sets the names that its certificate carries.
func (s *standIn) certify(names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.certified = names
}

// take gives what was seen since the last take.
func (s *standIn) take() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := s.seen
	s.seen = nil
	return seen
}

// ServeHTTP implements http.Handler. As a provider's front end does, it refuses over TLS a Host that does not fit the SNI.
func (s *standIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	saw := request{Host: r.Host}
	if r.TLS != nil {
		saw.TLS, saw.SNI = r.TLS.Version, r.TLS.ServerName
	}
	s.seen = append(s.seen, saw)
	behaves := s.behaves
	s.mu.Unlock()
	switch {
	case behaves == unavailable:
		http.Error(w, "service unavailable", http.StatusServiceUnavailable)
	case r.TLS != nil && saw.Host != saw.SNI:
		http.Error(w, "misdirected request", http.StatusMisdirectedRequest)
	default:
		fmt.Fprintf(w, "healthy: %s\n", s.name)
	}
}

// hello decides on the certificate when a ClientHello has come.
func (s *standIn) hello(h *tls.ClientHelloInfo) (*tls.Config, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := s.certified
	switch s.behaves {
	case failsHandshake:
		return nil, errors.New("out of order")
	case resetsHello:
		if c, ok := h.Conn.(*net.TCPConn); ok {
			_ = c.SetLinger(0)
		}
		h.Conn.Close()
		return nil, errors.New("reset")
	case otherName:
		names = []string{"elsewhere.example"}
	}
	cert, err := s.certificate(names)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{*cert}, NextProtos: []string{"http/1.1"}}, nil
}

// certificate needs s.mu held.
func (s *standIn) certificate(names []string) (*tls.Certificate, error) {
	key := fmt.Sprint(names)
	if c := s.certs[key]; c != nil {
		return c, nil
	}
	pair, err := s.ca.Server(slices.Clone(names)...)
	if err != nil {
		return nil, err
	}
	c, err := pair.TLS()
	if err != nil {
		return nil, err
	}
	s.certs[key] = &c
	return &c, nil
}
