// Package dnstest owns a small authoritative DNS server on real sockets whose records and troubles can be changed while
// it runs. The demo's stand-in for the Internet's DNS and the tests use it.
package dnstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Trouble is how a name misbehaves. The zero value is no trouble of its own.
type Trouble struct {
	// Rcode, if not 0, is answered instead of records: dns.RcodeServerFailure, RcodeNameError, RcodeRefused, …
	Rcode int
	// Empty answers NOERROR without records.
	Empty bool
	// Truncate sets TC and sends no records over UDP; TCP is served in full.
	Truncate bool
	// Drop never answers.
	Drop bool
	// Delay comes before everything else.
	Delay time.Duration
	// OnlyType confines the trouble to one type of question, such as dns.TypeAAAA; 0 means all.
	OnlyType uint16
}

// Server answers on one address, UDP and TCP. Names it has no records of are NXDOMAIN. Safe for concurrent use.
type Server struct {
	// Addr is where it listens.
	Addr netip.AddrPort

	udp, tcp *dns.Server
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu      sync.Mutex
	records map[string][]dns.RR // by canonical name
	trouble map[string]Trouble  // by canonical name; "." for all names
	counts  map[dns.Question]int
}

// Start listens on addr ("127.0.0.1:0", "[::1]:53") and serves until Close.
func Start(addr string) (*Server, error) {
	var last error
	for range 20 { // port 0: the port that UDP gets may be taken on TCP
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return nil, err
		}
		ln, err := net.Listen("tcp", pc.LocalAddr().String())
		if err == nil {
			return StartOn(pc, ln), nil
		}
		last = errors.Join(err, pc.Close())
	}
	return nil, last
}

// StartOn serves on sockets made elsewhere, in another network namespace say, and owns them from then on.
func StartOn(pc net.PacketConn, ln net.Listener) *Server {
	s := &Server{records: map[string][]dns.RR{}, trouble: map[string]Trouble{}, counts: map[dns.Question]int{}}
	s.Addr, _ = netip.ParseAddrPort(pc.LocalAddr().String())
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.udp = &dns.Server{PacketConn: pc, Handler: s}
	s.tcp = &dns.Server{Listener: ln, Handler: s}
	for _, srv := range []*dns.Server{s.udp, s.tcp} {
		up := make(chan struct{})
		srv.NotifyStartedFunc = func() { close(up) }
		s.wg.Go(func() {
			if err := srv.ActivateAndServe(); err != nil && s.ctx.Err() == nil {
				panic(fmt.Sprintf("dnstest: %v", err)) // a socket that is not what StartOn asks for
			}
		})
		<-up
	}
	return s
}

// Close stops serving; questions that are being delayed go unanswered.
func (s *Server) Close() {
	s.cancel()
	s.udp.Shutdown()
	s.tcp.Shutdown()
	s.wg.Wait()
}

// Set makes the name have exactly these addresses, with this TTL in whole seconds. None makes the name exist without
// addresses (NODATA).
func (s *Server) Set(name string, ttl time.Duration, addrs ...netip.Addr) {
	rrs := []dns.RR{}
	for _, a := range addrs {
		h := dns.RR_Header{Name: dns.Fqdn(name), Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
		if a.Is4() {
			h.Rrtype = dns.TypeA
			rrs = append(rrs, &dns.A{Hdr: h, A: a.AsSlice()})
		} else {
			h.Rrtype = dns.TypeAAAA
			rrs = append(rrs, &dns.AAAA{Hdr: h, AAAA: a.AsSlice()})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records[dns.CanonicalName(name)] = rrs
}

// Add adds records in zone-file form: "mydb.com. 60 IN CNAME db.example.".
func (s *Server) Add(lines ...string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil || rr == nil {
			return fmt.Errorf("dnstest: record %q: %w", l, errors.Join(err))
		}
		name := dns.CanonicalName(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	return nil
}

// Remove takes all records of the name away: NXDOMAIN.
func (s *Server) Remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.records, dns.CanonicalName(name))
}

// SetTrouble makes the name ("." for every name) misbehave, until it is set to the zero Trouble.
func (s *Server) SetTrouble(name string, t Trouble) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t == (Trouble{}) {
		delete(s.trouble, dns.CanonicalName(name))
		return
	}
	s.trouble[dns.CanonicalName(name)] = t
}

// Count tells how many questions for the name and type have arrived, answered or not.
func (s *Server) Count(name string, qtype uint16) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[dns.Question{Name: dns.CanonicalName(name), Qtype: qtype, Qclass: dns.ClassINET}]
}

// ServeDNS implements dns.Handler.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if len(q.Question) != 1 {
		w.WriteMsg(new(dns.Msg).SetRcodeFormatError(q))
		return
	}
	t, m := s.answer(q)
	if t.Delay > 0 {
		select {
		case <-time.After(t.Delay):
		case <-s.ctx.Done():
			return
		}
	}
	if t.Drop {
		return
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
		if t.Truncate {
			m.Truncated, m.Answer = true, nil
		}
		m.Truncate(size)
		m.Truncated = m.Truncated || t.Truncate
	}
	w.WriteMsg(m) // the peer may be gone; then nobody waits for it
}

func (s *Server) answer(q *dns.Msg) (Trouble, *dns.Msg) {
	question := q.Question[0]
	name := dns.CanonicalName(question.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[dns.Question{Name: name, Qtype: question.Qtype, Qclass: question.Qclass}]++
	t, ok := s.trouble[name]
	if !ok {
		t = s.trouble["."]
	}
	if t.OnlyType != 0 && t.OnlyType != question.Qtype {
		t = Trouble{}
	}
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	if o := q.IsEdns0(); o != nil {
		m.SetEdns0(1232, o.Do())
	}
	switch {
	case t.Rcode != 0:
		m.Rcode = t.Rcode
	case !t.Empty:
		m.Answer, m.Rcode = s.chase(name, question.Qtype)
	}
	return t, m
}

// chase collects the records of a name, through its CNAMEs; s.mu is held.
func (s *Server) chase(name string, qtype uint16) (out []dns.RR, rcode int) {
	for range 8 {
		rrs, ok := s.records[name]
		if !ok {
			return out, dns.RcodeNameError
		}
		next := ""
		for _, rr := range rrs {
			cname, isAlias := rr.(*dns.CNAME)
			if rr.Header().Rrtype == qtype || isAlias {
				out = append(out, dns.Copy(rr))
			}
			if isAlias && qtype != dns.TypeCNAME {
				next = strings.ToLower(cname.Target)
			}
		}
		if next == "" {
			return out, dns.RcodeSuccess
		}
		name = next
	}
	return out, dns.RcodeSuccess
}
