package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"detour.dev/detour/internal/dns/dnstest"
	mdns "github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func addrs(s string) (out []netip.Addr) {
	for _, f := range strings.Fields(s) {
		out = append(out, netip.MustParseAddr(f))
	}
	return out
}

func startServer(t *testing.T, addr string) *dnstest.Server {
	t.Helper()
	s, err := dnstest.Start(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// zone fills a server with the names that the tests ask for.
func zone(t *testing.T, s *dnstest.Server) {
	t.Helper()
	s.Set("both.test", 60*time.Second, addrs("192.0.2.2 192.0.2.1 2001:db8::1 192.0.2.1")...)
	s.Set("v4.test", 30*time.Second, addrs("192.0.2.4")...)
	s.Set("none.test", 30*time.Second)
	s.Set("sink.test", 30*time.Second, addrs("0.0.0.0 :: 224.0.0.1")...)
	s.Set("zero.test", 0, addrs("192.0.2.5")...)
	var many []netip.Addr
	for i := range 200 {
		many = append(many, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	s.Set("many.test", 60*time.Second, many...)
	err := s.Add("alias.test. 300 IN CNAME Middle.test.", "middle.test. 7 IN CNAME v4.test.",
		"dangling.test. 60 IN CNAME nowhere.test.", "loop.test. 60 IN CNAME pool.test.", "pool.test. 60 IN CNAME loop.test.",
		"old.test. 4294967295 IN A 192.0.2.6")
	if err != nil {
		t.Fatal(err)
	}
}

func TestLookup(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		s := startServer(t, listen)
		zone(t, s)
		for _, name := range []string{"servfail", "refused", "formerr", "empty", "truncated", "dropped"} {
			s.Set(name+".test", time.Minute, addrs("192.0.2.7 2001:db8::7")...)
		}
		s.SetTrouble("servfail.test", dnstest.Trouble{Rcode: mdns.RcodeServerFailure})
		s.SetTrouble("refused.test", dnstest.Trouble{Rcode: mdns.RcodeRefused})
		s.SetTrouble("empty.test", dnstest.Trouble{Empty: true})
		s.SetTrouble("truncated.test", dnstest.Trouble{Truncate: true})
		s.SetTrouble("dropped.test", dnstest.Trouble{Drop: true})
		patient := New(Options{Server: s.Addr, Timeout: time.Minute})
		hasty := New(Options{Server: s.Addr, Timeout: 20 * time.Millisecond, Attempts: 2})
		for _, tc := range []struct {
			name  string
			f     Family
			addrs string
			ttl   time.Duration
			kind  Kind
		}{
			{name: "both.test", addrs: "192.0.2.1 192.0.2.2 2001:db8::1", ttl: time.Minute},
			{name: "BOTH.Test.", addrs: "192.0.2.1 192.0.2.2 2001:db8::1", ttl: time.Minute},
			{name: "both.test", f: V4, addrs: "192.0.2.1 192.0.2.2", ttl: time.Minute},
			{name: "both.test", f: V6, addrs: "2001:db8::1", ttl: time.Minute},
			{name: "v4.test", addrs: "192.0.2.4", ttl: 30 * time.Second},
			{name: "v4.test", f: V6, kind: NoData},
			{name: "alias.test", addrs: "192.0.2.4", ttl: 7 * time.Second},
			{name: "dangling.test", kind: NXDomain},
			{name: "loop.test", kind: NoData},
			{name: "none.test", kind: NoData},
			{name: "sink.test", kind: NoData},
			{name: "zero.test", addrs: "192.0.2.5"},
			{name: "old.test", addrs: "192.0.2.6"},
			{name: "absent.test", kind: NXDomain},
			{name: "servfail.test", kind: ServFail},
			{name: "refused.test", kind: Refused},
			{name: "empty.test", kind: NoData},
			{name: "truncated.test", addrs: "192.0.2.7 2001:db8::7", ttl: time.Minute},
			{name: "dropped.test", kind: Timeout},
			{name: "203.0.113.9", addrs: "203.0.113.9"},
			{name: "::ffff:203.0.113.9", addrs: "203.0.113.9"},
			{name: "2001:db8::5", f: V4, addrs: "2001:db8::5"},
			{name: "localhost", addrs: "127.0.0.1 ::1"},
			{name: "db.LOCALHOST.", f: V4, addrs: "127.0.0.1"},
			{name: "", kind: NXDomain},
			{name: "a..b", kind: NXDomain},
			{name: strings.Repeat("x", 64) + ".test", kind: NXDomain},
		} {
			r := patient
			if tc.kind == Timeout {
				r = hasty
			}
			ans := r.Lookup(t.Context(), tc.name, tc.f)
			if KindOf(ans.Err) != tc.kind || !slices.Equal(ans.Addrs, addrs(tc.addrs)) || ans.TTL != tc.ttl {
				t.Errorf("%s: Lookup(%q, %d) = %v, want %s, %v, kind %v", listen, tc.name, tc.f, ans, tc.addrs, tc.ttl, tc.kind)
			}
			if ans.Err != nil && !strings.Contains(ans.Err.Error(), tc.name) {
				t.Errorf("error %q does not name %q", ans.Err, tc.name)
			}
		}
		if ans := patient.Lookup(t.Context(), "many.test", V4); len(ans.Addrs) != 200 {
			t.Errorf("%s: %d of 200 addresses, over TCP", listen, len(ans.Addrs))
		}
	}
}

func TestMissingFamily(t *testing.T) {
	s := startServer(t, "127.0.0.1:0")
	zone(t, s)
	r := New(Options{Server: s.Addr, Timeout: time.Hour})
	for _, tr := range []dnstest.Trouble{{Drop: true}, {Rcode: mdns.RcodeServerFailure}} {
		tr.OnlyType = mdns.TypeAAAA
		s.SetTrouble("both.test", tr)
		if ans := r.Lookup(t.Context(), "both.test", All); ans.Err != nil || ans.Missing != V6 || len(ans.Addrs) != 2 {
			t.Errorf("%+v: %+v", tr, ans)
		}
	}
}

func TestErrorKindsOfTheNetwork(t *testing.T) {
	s := startServer(t, "127.0.0.1:0")
	closed := s.Addr
	s.Close()
	r := New(Options{Server: closed, Timeout: 10 * time.Second, Attempts: 1})
	if ans := r.Lookup(t.Context(), "db.test", V4); KindOf(ans.Err) != Refused {
		t.Errorf("nothing listens: %v", ans.Err)
	}
	for _, tc := range []struct {
		err  error
		kind Kind
	}{
		{syscall.ENETUNREACH, Local}, {syscall.EMFILE, Local}, {syscall.EADDRNOTAVAIL, Local},
		{syscall.EHOSTUNREACH, Local}, {errors.New("other"), ServFail},
	} {
		r := New(Options{Server: closed, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", tc.err)}
		}})
		if ans := r.Lookup(t.Context(), "db.test", All); KindOf(ans.Err) != tc.kind {
			t.Errorf("%v: %v, want %v", tc.err, ans.Err, tc.kind)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if ans := r.Lookup(ctx, "db.test", All); KindOf(ans.Err) != Canceled {
		t.Errorf("canceled: %v", ans.Err)
	}
}

func TestNextServerIsAsked(t *testing.T) {
	bad, good := startServer(t, "127.0.0.1:0"), startServer(t, "127.0.0.1:0")
	good.Set("db.test", time.Minute, addrs("192.0.2.1")...)
	c := &config{servers: []netip.AddrPort{bad.Addr, good.Addr}, timeout: 300 * time.Millisecond, attempts: 5}
	r := New(Options{Server: bad.Addr})
	for _, tr := range []dnstest.Trouble{{Rcode: mdns.RcodeServerFailure}, {Rcode: mdns.RcodeRefused}, {Drop: true}} {
		bad.SetTrouble(".", tr)
		if ans := r.lookupFQDN(t.Context(), c, "db.test.", "db.test", V4); ans.Err != nil {
			t.Errorf("%+v on the first server: %v", tr, ans.Err)
		}
	}
	good.SetTrouble(".", dnstest.Trouble{Rcode: mdns.RcodeServerFailure})
	bad.SetTrouble(".", dnstest.Trouble{Rcode: mdns.RcodeServerFailure})
	before := bad.Count("db.test", mdns.TypeA)
	if ans := r.lookupFQDN(t.Context(), c, "db.test.", "db.test", V4); KindOf(ans.Err) != ServFail {
		t.Errorf("both fail: %v", ans.Err)
	}
	if n := bad.Count("db.test", mdns.TypeA) - before; n != 1 {
		t.Errorf("a server that answers SERVFAIL was asked %d times in one lookup", n)
	}
}

// TestForgedAnswersAreIgnored has a server send wrong answers before the right one.
func TestForgedAnswersAreIgnored(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		buf := make([]byte, 2048)
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := new(mdns.Msg)
		if q.Unpack(buf[:n]) != nil {
			return
		}
		reply := func(ip string, change func(*mdns.Msg)) {
			m := new(mdns.Msg).SetReply(q)
			rr, _ := mdns.NewRR("db.test. 60 IN A " + ip)
			m.Answer = []mdns.RR{rr}
			change(m)
			b, _ := m.Pack()
			pc.WriteTo(b, from)
		}
		reply("192.0.2.66", func(m *mdns.Msg) { m.Id++ })
		reply("192.0.2.66", func(m *mdns.Msg) { m.Question[0].Name = "other.test." })
		reply("192.0.2.66", func(m *mdns.Msg) { m.Question[0].Qtype = mdns.TypeAAAA })
		reply("192.0.2.66", func(m *mdns.Msg) { m.Question = nil })
		reply("192.0.2.66", func(m *mdns.Msg) { m.Response = false })
		pc.WriteTo([]byte{1, 2, 3}, from)
		reply("192.0.2.1", func(m *mdns.Msg) { m.Question[0].Name = "DB.test." })
	}()
	r := New(Options{Server: netip.MustParseAddrPort(pc.LocalAddr().String())})
	if ans := r.Lookup(t.Context(), "db.test", V4); ans.Err != nil || ans.Addrs[0] != netip.MustParseAddr("192.0.2.1") {
		t.Fatalf("%+v", ans)
	}
}

func TestServerWithoutEDNS(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &mdns.Server{PacketConn: pc, Handler: mdns.HandlerFunc(func(w mdns.ResponseWriter, q *mdns.Msg) {
		m := new(mdns.Msg).SetReply(q)
		if q.IsEdns0() != nil {
			m.Rcode = mdns.RcodeFormatError
		} else {
			rr, _ := mdns.NewRR("db.test. 60 IN A 192.0.2.1")
			m.Answer = []mdns.RR{rr}
		}
		w.WriteMsg(m)
	})}
	up := make(chan struct{})
	srv.NotifyStartedFunc = func() { close(up) }
	go srv.ActivateAndServe()
	<-up
	defer srv.Shutdown()
	r := New(Options{Server: netip.MustParseAddrPort(pc.LocalAddr().String())})
	if ans := r.Lookup(t.Context(), "db.test", V4); ans.Err != nil {
		t.Fatal(ans.Err)
	}
}

func TestSystemFiles(t *testing.T) {
	s := startServer(t, "127.0.0.1:0")
	s.Set("db.corp.test", time.Minute, addrs("192.0.2.1")...)
	s.Set("db", time.Minute, addrs("192.0.2.2")...)
	s.Set("x.y.corp.test", time.Minute, addrs("192.0.2.3")...)
	dir := t.TempDir()
	conf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	write(t, conf, "# comment\nnameserver 127.0.0.1\nsearch corp.test\noptions ndots:2 timeout:1\n")
	write(t, hosts, "192.0.2.8  Named.test alias # comment\n2001:db8::8 named.test\nbad line\n")
	r := New(Options{ResolvConf: conf, Hosts: hosts, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != "127.0.0.1:53" {
			return nil, fmt.Errorf("dialled %s", addr)
		}
		return new(net.Dialer).DialContext(ctx, network, s.Addr.String()) // port 53 is not ours to listen on
	}})
	for _, tc := range []struct {
		name string
		f    Family
		want string
	}{
		{"named.TEST.", All, "192.0.2.8 2001:db8::8"},
		{"named.test", V6, "2001:db8::8"},
		{"alias", All, "192.0.2.8"},
		{"db", V4, "192.0.2.1"},
		{"db.", V4, "192.0.2.2"},
		{"x.y", V4, "192.0.2.3"},
	} {
		if ans := r.Lookup(t.Context(), tc.name, tc.f); !slices.Equal(ans.Addrs, addrs(tc.want)) {
			t.Errorf("%q: %+v, want %s", tc.name, ans, tc.want)
		}
	}
	write(t, hosts, "192.0.2.99 named.test\n")
	r.Reload()
	if ans := r.Lookup(t.Context(), "named.test", All); !slices.Equal(ans.Addrs, addrs("192.0.2.99")) {
		t.Errorf("after Reload: %+v", ans)
	}
	write(t, hosts, "192.0.2.100 named.test other.test\n")
	r.mu.Lock()
	r.checked = time.Now().Add(-fileRecheck) // as if 5 s had passed
	r.mu.Unlock()
	if ans := r.Lookup(t.Context(), "named.test", All); !slices.Equal(ans.Addrs, addrs("192.0.2.100")) {
		t.Errorf("after the files changed: %+v", ans)
	}
}

func TestResolverOptionIgnoresHosts(t *testing.T) {
	s := startServer(t, "127.0.0.1:0")
	s.Set("named.test", time.Minute, addrs("192.0.2.1")...)
	hosts := filepath.Join(t.TempDir(), "hosts")
	write(t, hosts, "192.0.2.8 named.test\n")
	r := New(Options{Server: s.Addr, Hosts: hosts})
	if ans := r.Lookup(t.Context(), "named.test", V4); !slices.Equal(ans.Addrs, addrs("192.0.2.1")) {
		t.Fatalf("%+v", ans)
	}
}

func TestAvoidOwnListeners(t *testing.T) {
	own, other := netip.MustParseAddrPort("127.0.0.1:53"), netip.MustParseAddrPort("192.0.2.53:53")
	dir := t.TempDir()
	conf := filepath.Join(dir, "resolv.conf")
	write(t, conf, "nameserver 127.0.0.1\nnameserver 192.0.2.53\n")
	r := New(Options{ResolvConf: conf, Hosts: filepath.Join(dir, "none")})
	for _, tc := range []struct {
		listen string
		want   []netip.AddrPort
	}{
		{"127.0.0.1:53", []netip.AddrPort{other}},
		{"0.0.0.0:53", []netip.AddrPort{other}},
		{"[::]:53", []netip.AddrPort{other}},
		{"127.0.0.1:15053", []netip.AddrPort{own, other}},
		{"127.0.0.2:53", []netip.AddrPort{own, other}},
	} {
		r.Avoid(netip.MustParseAddrPort(tc.listen))
		if got := r.Servers(); !slices.Equal(got, tc.want) {
			t.Errorf("listening on %s: servers %v, want %v", tc.listen, got, tc.want)
		}
	}
	r.Avoid(own, other)
	if ans := r.Lookup(t.Context(), "db.test", All); KindOf(ans.Err) != ServFail || !errors.Is(ans.Err, errOnlySelf) {
		t.Errorf("only itself to ask: %v", ans.Err)
	}
}

func TestOutstandingQueriesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int32
		release := make(chan struct{})
		r := New(Options{Server: netip.MustParseAddrPort("127.0.0.1:53"), Attempts: 1, Timeout: time.Hour,
			Dial: func(context.Context, string, string) (net.Conn, error) {
				now.Add(1)
				<-release
				return nil, errors.New("enough")
			}})
		for i := range 3 * maxOutstanding {
			go r.Lookup(context.Background(), fmt.Sprintf("n%d.test", i), V4)
		}
		synctest.Wait()
		if n := now.Load(); n != maxOutstanding {
			t.Errorf("%d queries at once", n)
		}
		close(release)
		synctest.Wait()
		if n := now.Load(); n != 3*maxOutstanding {
			t.Errorf("%d queries in all", n)
		}
	})
}

func TestForwardIsVerbatim(t *testing.T) {
	s := startServer(t, "127.0.0.1:0")
	zone(t, s)
	r := New(Options{Server: s.Addr})
	q := new(mdns.Msg).SetQuestion("MaNy.test.", mdns.TypeA)
	q.SetEdns0(512, true)
	q.Id = 4711
	udp, err := r.Exchange(t.Context(), q, "udp")
	if err != nil || !udp.Truncated || udp.Id != 4711 || udp.Question[0].Name != "MaNy.test." || !udp.IsEdns0().Do() {
		t.Fatalf("udp: %v %v", udp, err)
	}
	tcp, err := r.Exchange(t.Context(), q, "tcp")
	if err != nil || tcp.Truncated || len(tcp.Answer) != 200 {
		t.Fatalf("tcp: %v %v", tcp, err)
	}
	s.SetTrouble(".", dnstest.Trouble{Rcode: mdns.RcodeServerFailure})
	if m, err := r.Exchange(t.Context(), q, "udp"); err != nil || m.Rcode != mdns.RcodeServerFailure {
		t.Fatalf("the server's SERVFAIL must come through: %v %v", m, err)
	}
}

func TestParseServer(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.1": "192.0.2.1:53", "192.0.2.1:5353": "192.0.2.1:5353", "::1": "[::1]:53", "[::1]": "[::1]:53",
		"[2001:db8::1]:54": "[2001:db8::1]:54", "localhost:15353": "127.0.0.1:15353", "localhost": "127.0.0.1:53",
		"": "", "dns.test": "", "192.0.2.1:0": "", "192.0.2.1:x": "", "localhost:99999": "", "1.2.3": "",
	} {
		got, err := ParseServer(in)
		if (err != nil) != (want == "") || err == nil && got.String() != want {
			t.Errorf("ParseServer(%q) = %v, %v, want %q", in, got, err, want)
		}
	}
}

func TestParseResolvConf(t *testing.T) {
	c := parseResolvConf([]byte("; c\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver x\nnameserver 192.0.2.2\n" +
		"nameserver 192.0.2.3\ndomain a.\nsearch b c.d.\noptions ndots:99 timeout:0 attempts:9 rotate edns0 ndots:x\n"))
	if fmt.Sprint(c.servers) != "[192.0.2.1:53 [fe80::1%eth0]:53 192.0.2.2:53]" || fmt.Sprint(c.search) != "[b c.d]" ||
		c.ndots != 15 || c.timeout != time.Second || c.attempts != 5 {
		t.Fatalf("%+v", c)
	}
	if c = parseResolvConf(nil); fmt.Sprint(c.servers) != "[127.0.0.1:53]" || c.timeout != 2*time.Second || c.attempts != 3 {
		t.Fatalf("empty: %+v", c)
	}
}

func FuzzSystemFiles(f *testing.F) {
	f.Add([]byte("nameserver 192.0.2.1\nsearch a b\noptions ndots:2\n"))
	f.Add([]byte("192.0.2.8 named.test alias # comment\n::1 localhost\n"))
	f.Add([]byte("options timeout:-1 :\nnameserver\n#\n;"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := parseResolvConf(b)
		if n := len(c.servers); n < 1 || n > maxServers || c.timeout <= 0 || c.attempts < 1 || len(c.search) > maxSearch {
			t.Fatalf("%+v", c)
		}
		for name, a := range parseHosts(b) {
			if len(a) == 0 || name != canonical(name) {
				t.Fatalf("%q: %v", name, a)
			}
		}
	})
}

func FuzzAnswer(f *testing.F) {
	m := new(mdns.Msg).SetQuestion("db.test.", mdns.TypeA)
	m.Response = true
	for _, l := range []string{"db.test. 5 IN CNAME x.test.", "x.test. 9 IN CNAME db.test.", "x.test. 60 IN A 192.0.2.1"} {
		rr, _ := mdns.NewRR(l)
		m.Answer = append(m.Answer, rr)
	}
	b, _ := m.Pack()
	f.Add(b)
	query, _ := new(mdns.Msg).SetQuestion("db.test.", mdns.TypeA).Pack()
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 2 {
			copy(b, query[:2])
		}
		if !answers(query, b) {
			return
		}
		reply := new(mdns.Msg)
		if reply.Unpack(b) != nil {
			return
		}
		if ans := readAnswer(reply); (ans.Err == nil) == (len(ans.Addrs) == 0) || ans.TTL < 0 {
			t.Fatalf("%+v", ans)
		}
	})
}
