package dnsproxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	detourdns "detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/dns/dnstest"
	"detour.dev/detour/internal/xds"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(s string) (out []netip.Addr) {
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

func names() []xds.Name {
	var many []netip.Addr
	for i := range 100 {
		many = append(many, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	return []xds.Name{
		{Host: "mydb.com", Addrs: addrs("240.240.0.1 2001:2::1")},
		{Host: "six.com", Addrs: addrs("2001:2::6")},
		{Host: "four.com", Addrs: addrs("192.0.2.4 240.240.0.4")},
		{Host: "many.com", Addrs: many},
		{Host: "*.wild.com", Addrs: addrs("240.240.0.9")},
	}
}

// start serves on a loopback address, UDP and TCP on one port.
func start(t *testing.T, up Upstream, host string) (*Server, string) {
	t.Helper()
	s := New(Options{Upstream: up})
	s.SetNames(names())
	var pc net.PacketConn
	var ln net.Listener
	for range 20 { // the port that UDP gets may be taken on TCP
		var err error
		if pc, err = net.ListenPacket("udp", net.JoinHostPort(host, "0")); err != nil {
			t.Fatal(err)
		}
		if ln, err = net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	s.Serve([]net.PacketConn{pc}, []net.Listener{ln})
	t.Cleanup(func() { s.Shutdown(context.Background()) })
	return s, pc.LocalAddr().String()
}

func upstream(t *testing.T) (*dnstest.Server, *detourdns.Resolver) {
	t.Helper()
	up, err := dnstest.Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	return up, detourdns.New(detourdns.Options{Server: up.Addr, Timeout: time.Minute})
}

func ask(t *testing.T, network, addr string, q *dns.Msg) *dns.Msg {
	t.Helper()
	c := dns.Client{Net: network, Timeout: time.Minute, UDPSize: 65535}
	m, _, err := c.Exchange(q, addr)
	if err != nil {
		t.Fatalf("%s %v: %v", network, q.Question, err)
	}
	return m
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

// answersOf gives the answer section's data, sorted.
func answersOf(m *dns.Msg) string {
	var out []string
	for _, rr := range m.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestAnswersForOurNames(t *testing.T) {
	up, r := upstream(t)
	up.Set("real.test", time.Minute, addrs("203.0.113.1")...)
	up.Set("mydb.com.corp.test", time.Minute, addrs("203.0.113.2")...)
	for _, host := range []string{"127.0.0.1", "::1"} {
		_, addr := start(t, r, host)
		for _, network := range []string{"udp", "tcp"} {
			for _, tc := range []struct {
				name  string
				qtype uint16
				want  string
				rcode int
				ours  bool
			}{
				{"mydb.com.", dns.TypeA, "240.240.0.1", 0, true},
				{"MyDB.cOm.", dns.TypeA, "240.240.0.1", 0, true},
				{"mydb.com.", dns.TypeAAAA, "2001:2::1", 0, true},
				{"mydb.com.", dns.TypeHTTPS, "", 0, true},
				{"mydb.com.", dns.TypeSVCB, "", 0, true},
				{"mydb.com.", dns.TypeTXT, "", 0, true},
				{"mydb.com.", dns.TypeANY, "", 0, true},
				{"four.com.", dns.TypeA, "192.0.2.4 240.240.0.4", 0, true},
				{"four.com.", dns.TypeAAAA, "", 0, true},
				{"six.com.", dns.TypeA, "", 0, true},
				{"1.0.240.240.in-addr.arpa.", dns.TypePTR, "mydb.com.", 0, true},
				{"4.2.0.192.in-addr.arpa.", dns.TypePTR, "", dns.RcodeNameError, false},
				{strings.Repeat("x", 63) + ".1.0.240.240.in-addr.arpa.", dns.TypePTR, "", dns.RcodeNameError, false},
				{"a.mydb.com.", dns.TypeA, "", dns.RcodeNameError, false},
				{"a.wild.com.", dns.TypeA, "", dns.RcodeNameError, false},
				{"mydb.com.corp.test.", dns.TypeA, "203.0.113.2", 0, false},
				{"ReaL.test.", dns.TypeA, "203.0.113.1", 0, false},
				{"absent.test.", dns.TypeA, "", dns.RcodeNameError, false},
				{"mydb.com.", dns.TypeAXFR, "", dns.RcodeSuccess, true},
				{"real.test.", dns.TypeAXFR, "", dns.RcodeNotImplemented, false},
			} {
				before := up.Count(tc.name, tc.qtype)
				m := ask(t, network, addr, query(tc.name, tc.qtype))
				id := fmt.Sprintf("%s %s %s %s", network, host, tc.name, dns.Type(tc.qtype))
				if m.Rcode != tc.rcode || answersOf(m) != tc.want || m.Question[0].Name != tc.name {
					t.Errorf("%s: got %v, want %q, rcode %d", id, m, tc.want, tc.rcode)
				}
				if asked := up.Count(tc.name, tc.qtype) > before; asked && tc.ours {
					t.Errorf("%s: was forwarded", id)
				}
				if tc.ours && tc.want == "" && (len(m.Ns) != 1 || m.Ns[0].Header().Rrtype != dns.TypeSOA) {
					t.Errorf("%s: no data without a SOA: %v", id, m)
				}
				for _, rr := range m.Answer {
					if tc.ours && (rr.Header().Name != tc.name || rr.Header().Ttl != answerTTL) {
						t.Errorf("%s: record %v", id, rr)
					}
				}
			}
		}
	}
}

func TestReverseIPv6(t *testing.T) {
	_, r := upstream(t)
	_, addr := start(t, r, "127.0.0.1")
	rev, err := dns.ReverseAddr("2001:2::6")
	if err != nil {
		t.Fatal(err)
	}
	if m := ask(t, "udp", addr, query(rev, dns.TypePTR)); answersOf(m) != "six.com." {
		t.Fatal(m)
	}
}

func TestEDNS(t *testing.T) {
	_, r := upstream(t)
	_, addr := start(t, r, "127.0.0.1")
	if m := ask(t, "udp", addr, query("mydb.com.", dns.TypeA)); m.IsEdns0() != nil {
		t.Error("OPT without being asked for")
	}
	q := query("mydb.com.", dns.TypeA)
	q.SetEdns0(4096, true)
	if m := ask(t, "udp", addr, q); m.IsEdns0() == nil || !m.IsEdns0().Do() {
		t.Error("DO is not kept: ", m)
	}
	q.IsEdns0().SetVersion(1)
	if m := ask(t, "udp", addr, q); m.Rcode != dns.RcodeBadVers {
		t.Error("EDNS version 1: ", m)
	}
}

func TestTruncation(t *testing.T) {
	up, r := upstream(t)
	up.Set("big.test", time.Minute, names()[3].Addrs...)
	_, addr := start(t, r, "127.0.0.1")
	for _, name := range []string{"many.com.", "big.test."} {
		for _, tc := range []struct {
			network string
			size    uint16
			tc      bool
		}{{"udp", 0, true}, {"udp", 1232, true}, {"udp", 4096, false}, {"tcp", 0, false}} {
			q := query(name, dns.TypeA)
			limit := 512
			if tc.size > 0 {
				q.SetEdns0(tc.size, false)
				limit = int(tc.size)
			}
			m := ask(t, tc.network, addr, q)
			b, err := m.Pack()
			if err != nil || m.Truncated != tc.tc || !tc.tc && len(m.Answer) != 100 {
				t.Errorf("%s over %s, size %d: TC %v, %d answers", name, tc.network, tc.size, m.Truncated, len(m.Answer))
			}
			if m.Compress = true; tc.network == "udp" && m.Len() > limit {
				t.Errorf("%s: %d bytes to a client that takes %d", name, len(b), limit)
			}
		}
	}
}

// bigUpstream answers with more than any client asked for.
type bigUpstream struct{}

func (bigUpstream) Forward(_ context.Context, q []byte, _ string) ([]byte, error) {
	m := new(dns.Msg)
	if err := m.Unpack(q); err != nil {
		return nil, err
	}
	m.Response = true
	for range 20 {
		h := dns.RR_Header{Name: m.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}
		m.Answer = append(m.Answer, &dns.TXT{Hdr: h, Txt: []string{strings.Repeat("x", 255)}})
	}
	return m.Pack()
}

func TestForwardedAnswerThatDoesNotFit(t *testing.T) {
	_, addr := start(t, bigUpstream{}, "127.0.0.1")
	if m := ask(t, "udp", addr, query("x.test.", dns.TypeTXT)); !m.Truncated || len(m.Answer) != 0 || m.Question[0].Name != "x.test." {
		t.Error(m)
	}
	if m := ask(t, "tcp", addr, query("x.test.", dns.TypeTXT)); m.Truncated || len(m.Answer) != 20 {
		t.Error("over TCP: ", m)
	}
}

func TestForwardIsVerbatim(t *testing.T) {
	up, r := upstream(t)
	if err := up.Add("odd.test. 5 IN TYPE65280 \\# 3 010203"); err != nil {
		t.Fatal(err)
	}
	_, addr := start(t, r, "127.0.0.1")
	q := query("oDD.test.", 65280)
	q.SetEdns0(1400, true)
	q.CheckingDisabled = true
	m := ask(t, "udp", addr, q)
	if !strings.HasSuffix(answersOf(m), `\# 3 010203`) || m.Question[0].Name != "oDD.test." || !m.IsEdns0().Do() {
		t.Fatal(m)
	}
	up.SetTrouble(".", dnstest.Trouble{Rcode: dns.RcodeRefused})
	if m := ask(t, "udp", addr, q); m.Rcode != dns.RcodeRefused {
		t.Fatal("the server's own refusal must come through: ", m)
	}
	up.Close()
	if m := ask(t, "udp", addr, q); m.Rcode != dns.RcodeServerFailure {
		t.Fatal("without a server: ", m)
	}
}

// late is an upstream that is known only once the server's own address is.
type late struct {
	atomic.Pointer[detourdns.Resolver]
	asked atomic.Int32
}

func (l *late) Forward(ctx context.Context, q []byte, network string) ([]byte, error) {
	l.asked.Add(1)
	return l.Load().Forward(ctx, q, network)
}

func (l *late) set(addr string) {
	l.Store(detourdns.New(detourdns.Options{Server: netip.MustParseAddrPort(addr), Timeout: time.Minute}))
}

func TestNeverAsksItself(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		var self late
		_, addr := start(t, &self, "127.0.0.1")
		self.set(addr)
		m := ask(t, network, addr, query("real.test.", dns.TypeA))
		if m.Rcode != dns.RcodeServerFailure {
			t.Errorf("over %s: %v", network, m)
		}
		if n := self.asked.Load(); n != 1 {
			t.Errorf("over %s: forwarded %d times before the loop was seen", network, n)
		}
		if m := ask(t, network, addr, query("mydb.com.", dns.TypeA)); answersOf(m) != "240.240.0.1" {
			t.Errorf("after a loop: %v", m)
		}
	}
}

// TestLoopThroughAnotherServer has two proxies ask each other: the bound on forwards ends it.
func TestLoopThroughAnotherServer(t *testing.T) {
	var toA, toB late
	_, addrA := start(t, &toB, "127.0.0.1")
	_, addrB := start(t, &toA, "127.0.0.1")
	toA.set(addrA)
	toB.set(addrB)
	if m := ask(t, "udp", addrA, query("real.test.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
		t.Error(m)
	}
}

func TestWildcardSocketAnswersFromTheAddressAsked(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is an address on Linux only")
	}
	_, addr := start(t, bigUpstream{}, "0.0.0.0")
	_, port, _ := net.SplitHostPort(addr)
	if m := ask(t, "udp", "127.0.0.2:"+port, query("mydb.com.", dns.TypeA)); answersOf(m) != "240.240.0.1" {
		t.Fatal(m)
	}
}

// gate is an upstream that answers when told.
type gate struct {
	arrived chan struct{}
	open    chan struct{}
}

func (g gate) Forward(ctx context.Context, q []byte, _ string) ([]byte, error) {
	g.arrived <- struct{}{}
	select {
	case <-g.open:
		reply := slices.Clone(q)
		reply[2] |= 0x80
		return reply, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestShutdownDrains(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		g := gate{make(chan struct{}), make(chan struct{})}
		s, addr := start(t, g, "127.0.0.1")
		answered := make(chan *dns.Msg, 1)
		go func() {
			c := dns.Client{Net: network, Timeout: time.Minute}
			m, _, _ := c.Exchange(query("slow.test.", dns.TypeA), addr)
			answered <- m
		}()
		<-g.arrived
		down := make(chan error, 1)
		go func() { down <- s.Shutdown(context.Background()) }()
		for !s.isDraining() {
			runtime.Gosched()
		}
		close(g.open)
		if m := <-answered; m == nil || m.Rcode != 0 {
			t.Errorf("%s: the query under way got %v", network, m)
		}
		if err := <-down; err != nil {
			t.Errorf("%s: %v", network, err)
		}
		if _, err := net.Dial("tcp", addr); err == nil {
			t.Errorf("%s: still listening", network)
		}
	}
}

func TestShutdownGivesUp(t *testing.T) {
	g := gate{make(chan struct{}), make(chan struct{})}
	s, addr := start(t, g, "127.0.0.1")
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, _ := query("slow.test.", dns.TypeA).Pack()
	c.Write(b)
	<-g.arrived
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err != context.Canceled {
		t.Fatal(err)
	}
}

func TestBoundOnForwards(t *testing.T) {
	s, addr := start(t, bigUpstream{}, "127.0.0.1")
	for range maxForwards {
		s.forwards <- struct{}{}
	}
	for _, network := range []string{"udp", "tcp"} {
		if m := ask(t, network, addr, query("x.test.", dns.TypeA)); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %v", network, m)
		}
		if m := ask(t, network, addr, query("mydb.com.", dns.TypeA)); m.Rcode != 0 || len(m.Answer) != 1 {
			t.Errorf("%s: our own names need no slot: %v", network, m)
		}
	}
}

func TestConcurrentSwaps(t *testing.T) {
	up, r := upstream(t)
	up.Set("real.test", time.Minute, addrs("203.0.113.1")...)
	s, addr := start(t, r, "127.0.0.1")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			network := []string{"udp", "tcp"}[i%2]
			for range 50 {
				if m := ask(t, network, addr, query("mydb.com.", dns.TypeA)); answersOf(m) != "240.240.0.1" {
					t.Errorf("%v", m)
				}
				if m := ask(t, network, addr, query("real.test.", dns.TypeA)); answersOf(m) != "203.0.113.1" {
					t.Errorf("%v", m)
				}
				s.SetNames(names())
			}
		})
	}
	wg.Wait()
	s.SetNames(nil)
	if m := ask(t, "udp", addr, query("mydb.com.", dns.TypeA)); m.Rcode != dns.RcodeNameError {
		t.Fatal("a name that is gone: ", m)
	}
}
