package dataplane_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
)

// echo says who it is first, then gives back what it got once the client has ended its direction.
func echo(who string) func(*planetest.Conn) {
	return func(c *planetest.Conn) {
		c.Send(who + ":")
		got, _ := c.Rest()
		c.Send(got)
	}
}

// exchange sends text and FIN and gives what came back.
func exchange(t *testing.T, c *planetest.Client, text string) (string, error) {
	t.Helper()
	_, werr := c.Write([]byte(text))
	ferr := c.CloseWrite()
	got, err := c.Rest()
	if got == "" && err == nil {
		err = errors.Join(werr, ferr) // a reset is told once
	}
	return got, err
}

const request = "GET / HTTP/1.1\r\nHost: svc.test\r\nConnection: close\r\n\r\n"

// TestWhatTrafficIsTakenFor is DESIGN.md's section of that name, for captured connections.
func TestWhatTrafficIsTakenFor(t *testing.T) {
	undeclared := planetest.NewUpstream(t, echo("undeclared"))
	declared := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		c.Send(planetest.Response(200, "declared"))
		c.Gone()
	})
	relayed := planetest.NewUpstream(t, echo("relayed"))
	http := planetest.One(declared.Addr)
	http.Port = undeclared.Addr.Port() // declared hosts and undeclared addresses share the port
	peeked := http
	peeked.VIP = netip.Addr{}
	tls := peeked
	tls.Protocol, tls.Host, tls.Endpoints = planetest.TLS, "tls.test", [][]netip.AddrPort{{relayed.Addr}}
	ours := netip.AddrPortFrom(netip.MustParseAddr("240.240.9.9"), http.Port)
	withHost := func(host string) string { return strings.Replace(request, "svc.test", host, 1) }
	for _, c := range []struct {
		name    string
		only    bool
		service planetest.Service
		dst     netip.AddrPort
		send    string
		want    string
		reset   bool
	}{
		{"declared host", false, http, http.Address(), request, "HTTP/1.1 200 OK", false},
		{"another host at its address", false, http, http.Address(), withHost("other.test"), "HTTP/1.1 404 Not Found", false},
		{"undeclared address", false, http, undeclared.Addr, "\x00anything", "undeclared:\x00anything", false},
		{"undeclared address, HTTP to the declared host", false, http, undeclared.Addr, request, "undeclared:GET / ", false},
		{"undeclared port", false, planetest.One(declared.Addr), undeclared.Addr, "x", "undeclared:x", false},
		{"allocated address that nobody has", false, http, ours, "x", "", true},
		{"registry only", true, planetest.One(declared.Addr), undeclared.Addr, "x", "", true},
		{"registry only, where a declared host speaks HTTP", true, http, undeclared.Addr, withHost("other.test"), "HTTP/1.1 404 Not Found", false},
		{"registry only, declared", true, http, http.Address(), request, "HTTP/1.1 200 OK", false},
		{"peeked, server first", false, peeked, undeclared.Addr, "", "undeclared:", false},
		{"peeked, declared Host", false, peeked, undeclared.Addr, request, "HTTP/1.1 200 OK", false},
		{"peeked, other Host", false, peeked, undeclared.Addr, withHost("other.test"), "undeclared:GET / HTTP/1.1\r\nHost: other.test\r\n", false},
		{"peeked, no HTTP", false, peeked, undeclared.Addr, "\x00\x01", "undeclared:\x00\x01", false},
		{"peeked, half a request", false, peeked, undeclared.Addr, "GET / HT", "undeclared:GET / HT", false},
		{"peeked, other SNI", false, tls, undeclared.Addr, hello("own.test"), "undeclared:" + hello("own.test"), false},
		{"peeked, half a hello", false, tls, undeclared.Addr, hello("tls.test")[:20], "undeclared:" + hello("tls.test")[:20], false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := planetest.Start(t, dataplane.Options{}, c.service)
			if c.only {
				refuseUndeclared(t, p, c.service)
			}
			got, err := exchange(t, p.Dial(c.dst), c.send)
			if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if (err != nil) != c.reset {
				t.Errorf("ended with %v, reset wanted: %v", err, c.reset)
			}
		})
	}
}

// refuseUndeclared puts the services in force under REGISTRY_ONLY.
func refuseUndeclared(t *testing.T, p *planetest.Plane, services ...planetest.Service) {
	t.Helper()
	snap := planetest.Snapshot(services...)
	snap.RegistryOnly = true
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
}

// TestPeekedSNI: on a port of a host without addresses the server name decides, whatever address was wanted.
func TestPeekedSNI(t *testing.T) {
	undeclared, declared := planetest.NewUpstream(t, echo("undeclared")), planetest.NewUpstream(t, echo("declared"))
	s := planetest.One(declared.Addr)
	s.Host, s.Protocol, s.Port, s.VIP = "tls.test", planetest.TLS, undeclared.Addr.Port(), netip.Addr{}
	p := planetest.Start(t, dataplane.Options{}, s)
	for name, want := range map[string]string{"tls.test": "declared:", "own.test": "undeclared:"} {
		c := p.Dial(undeclared.Addr)
		whole := hello(name)
		c.Send(whole[:30])
		c.Send(whole[30:])
		if got, err := c.R.ReadString(':'); got != want {
			t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
		}
	}
}

// hello is a ClientHello for a name of 8 bytes.
func hello(name string) string {
	ext := "\x00\x00\x00\x0d\x00\x0b\x00\x00\x08" + name
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00" + string([]byte{0, byte(len(ext))}) + ext
	msg := "\x01\x00" + string([]byte{0, byte(len(body))}) + body
	return "\x16\x03\x01" + string([]byte{0, byte(len(msg))}) + msg
}

// TestPeekEnds: a server-first protocol on a peeked port waits 50 ms, not longer.
func TestPeekEnds(t *testing.T) {
	u := planetest.NewUpstream(t, echo("220 ready"))
	s := planetest.One(planetest.Refused(t))
	s.VIP, s.Port = netip.Addr{}, u.Addr.Port()
	p := planetest.Start(t, dataplane.Options{}, s)
	began := time.Now()
	c := p.Dial(u.Addr)
	line, err := c.R.ReadString(':')
	if took := time.Since(began); line != "220 ready:" || took < 50*time.Millisecond || took > 500*time.Millisecond {
		t.Errorf("got %q, %v after %v", line, err, took)
	}
	if got, err := exchange(t, c, "quit"); got != "quit" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestForwardProxy: what the forward proxy does with each form of a request.
func TestForwardProxy(t *testing.T) {
	declared := planetest.NewUpstream(t, planetest.Serve("declared"))
	tcp := planetest.NewUpstream(t, echo("tcp"))
	other := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for c.Request() != nil {
			c.Send(planetest.Response(200, "other"))
		}
	})
	resolve := func(_ context.Context, name string) ([]netip.Addr, error) {
		if name == "other.test" {
			return []netip.Addr{other.Addr.Addr()}, nil
		}
		return nil, errors.New("no such host")
	}
	open := dataplane.Options{Resolve: resolve}
	closed := dataplane.Options{Resolve: resolve, ProxyDeclaredOnly: true}
	port := other.Addr.String()[strings.LastIndexByte(other.Addr.String(), ':'):]
	http, relay := planetest.One(declared.Addr), planetest.One(tcp.Addr)
	relay.Host, relay.Port, relay.Protocol, relay.VIP = "tcp.test", 25, planetest.TCP, netip.MustParseAddr("240.240.0.2")
	get := func(target, host string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
	}
	connect := func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n" }
	const okConnect = "HTTP/1.1 200 OK\r\n\r\n"
	for _, c := range []struct {
		name string
		o    dataplane.Options
		send string
		want string
	}{
		{"absolute form", open, get("http://svc.test/x", "ignored"), "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ndeclared"},
		{"origin form", open, get("/x", "svc.test"), "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ndeclared"},
		{"https", open, get("https://svc.test/", "svc.test"), "HTTP/1.1 501"},
		{"undeclared", open, get("http://other.test"+port+"/", "x"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother"},
		{"undeclared address", open, get("http://"+other.Addr.String()+"/", "x"), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nother"},
		{"undeclared, declared only", closed, get("http://other.test"+port+"/", "x"), "HTTP/1.1 502"},
		{"unknown name", open, get("http://unknown.test/", "x"), "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 38\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nDNS resolution failed for unknown.test"},
		{"CONNECT to HTTP", open, connect("svc.test:80") + request, okConnect + "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\ndeclared"},
		{"CONNECT to TCP", open, connect("tcp.test:25") + "hi", okConnect + "tcp:hi"},
		{"CONNECT undeclared", open, connect("other.test"+port) + get("/", "x"), okConnect + "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"},
		{"CONNECT undeclared, declared only", closed, connect("other.test" + port), "HTTP/1.1 502"},
		{"CONNECT unknown name", open, connect("unknown.test:80"), "HTTP/1.1 502"},
		{"CONNECT without port", open, connect("svc.test"), "HTTP/1.1 400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := planetest.Start(t, c.o, http, relay)
			got, err := exchange(t, p.DialProxy(), c.send)
			if err != nil {
				t.Errorf("ended with %v", err)
			}
			if strings.HasPrefix(c.want, okConnect) && got != c.want || !strings.HasPrefix(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestForwardProxyToItself: a request for the forward proxy's own address would come back for ever.
func TestForwardProxyToItself(t *testing.T) {
	p := planetest.Start(t, dataplane.Options{Resolve: func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}}, planetest.One(planetest.NewUpstream(t, planetest.Serve("x")).Addr))
	name := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), p.Proxy.Port()).String()
	for _, host := range []string{name, "loop.test" + name[strings.LastIndexByte(name, ':'):]} {
		for _, send := range []string{"GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n", "CONNECT " + host + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n"} {
			if got, err := exchange(t, p.DialProxy(), send); err != nil || !strings.HasPrefix(got, "HTTP/1.1 502") {
				t.Errorf("%q: %q, %v", send, got, err)
			}
		}
	}
}

// TestLookups: clients that leave while their destination is looked up are gone at once, and only so many may wait for it.
func TestLookups(t *testing.T) {
	defer dataplane.SetMaxLookups(3)()
	answer := make(chan struct{})
	resolve := func(context.Context, string) ([]netip.Addr, error) {
		<-answer
		return nil, errors.New("no such host")
	}
	p := planetest.Start(t, dataplane.Options{Resolve: resolve}, planetest.One(planetest.Refused(t)))
	connect, get := "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n", "GET http://a.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"
	st := &p.Stats.Cluster("PassthroughCluster").UpstreamRqPendActive
	for _, c := range []struct {
		text  string
		leave func(*planetest.Client)
		later bool // when the look-up is under way, and not right behind the request
	}{
		{connect, func(c *planetest.Client) { c.Close() }, false},
		{connect, func(c *planetest.Client) { c.Close() }, true},
		{connect, (*planetest.Client).Reset, true},
		{get, (*planetest.Client).Reset, true},
	} {
		client := p.DialProxy()
		client.Send(c.text)
		if c.later {
			planetest.Until(t, "it waits", func() bool { return st.Value() == 1 && p.Connections() == 1 })
		}
		c.leave(client)
		planetest.Until(t, "its lookup runs", func() bool { return st.Value() == 1 })
		planetest.Until(t, "it is gone", func() bool { return p.Connections() == 0 })
		answer <- struct{}{}
		planetest.Until(t, "nothing waits", func() bool { return st.Value() == 0 })
	}
	var waiting []*planetest.Client
	for _, text := range []string{get, connect, connect} {
		c := p.DialProxy()
		c.Send(text)
		waiting = append(waiting, c)
	}
	planetest.Until(t, "three wait", func() bool { return st.Value() == 3 })
	for _, text := range []string{get, connect} {
		c := p.DialProxy()
		c.Send(text)
		if a := c.Read("GET"); a.StatusCode/100 != 5 {
			t.Errorf("one too many got %d", a.StatusCode)
		}
	}
	if n := p.Stats.Cluster("PassthroughCluster").UpstreamRqPendOver.Value(); n != 2 {
		t.Errorf("%d were turned down", n)
	}
	close(answer)
	for _, c := range waiting {
		if a := c.Read("GET"); a.StatusCode != 502 {
			t.Errorf("got %d", a.StatusCode)
		}
	}
}

// TestStaleUndeclared: an application that talks to an undeclared host by the forward proxy doesn't see that a pooled
// connection was closed.
func TestStaleUndeclared(t *testing.T) {
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		c.Send(planetest.Response(200, "one each"))
	})
	p := planetest.Start(t, dataplane.Options{}, planetest.One(planetest.Refused(t)))
	c := p.DialProxy()
	// The upstream may close after a request's bytes were acknowledged and before it read them: such a reset proves
	// nothing, and that POST must fail.
	const n, few = 50, 5
	failed := 0
	for range n {
		c.Send("POST http://" + u.Addr.String() + "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
		switch a := c.Read("POST"); a.StatusCode {
		case 200:
		case 503:
			failed++
		default:
			t.Fatalf("got %d %q", a.StatusCode, a.Text)
		}
	}
	if failed > few {
		t.Errorf("%d of %d failed", failed, n)
	}
	if got := len(u.Got()); got != n-failed {
		t.Errorf("delivered %d times, %d answers were 200", got, n-failed)
	}
}

// TestSwap: a request under way finishes where it began; the next goes where the new snapshot says; a route that can't be
// served answers 501.
func TestSwap(t *testing.T) {
	arrived, release := make(chan struct{}), make(chan struct{})
	old := planetest.NewUpstream(t, func(c *planetest.Conn) {
		c.Request()
		close(arrived)
		<-release
		c.Send(planetest.Response(200, "old"))
		c.Gone()
	})
	fresh := planetest.NewUpstream(t, planetest.Serve("new"))
	s := planetest.One(old.Addr)
	p := planetest.Start(t, dataplane.Options{Workers: 2}, s)
	c := p.Dial(s.Address())
	c.Send(planetest.Request("GET", "/", ""))
	<-arrived
	s.Endpoints[0] = []netip.AddrPort{fresh.Addr}
	p.Apply(s)
	close(release)
	if a := c.Read("GET"); a.Text != "old" {
		t.Errorf("under way: %q", a.Text)
	}
	if a := c.Do("GET", ""); a.Text != "new" {
		t.Errorf("after it: %q", a.Text)
	}
	bad := planetest.Snapshot(s)
	bad.Routes[0].VirtualHosts[0].Routes[0].Match = nil
	if r := p.Set(bad); len(r.Rejected) != 1 || r.Rejected[0].Name != "80" {
		t.Errorf("rejected %+v", r.Rejected)
	}
	if a := c.Do("GET", ""); a.StatusCode != 501 {
		t.Errorf("a route that can't be served: %d %q", a.StatusCode, a.Text)
	}
}

// TestUnserved: a cluster that the engine can't serve answers 501, or resets, and leaves the others alone.
func TestUnserved(t *testing.T) {
	up := planetest.NewUpstream(t, planetest.Serve("served"))
	good, bad, tcp := planetest.One(up.Addr), planetest.One(up.Addr), planetest.One(up.Addr)
	bad.Host, bad.VIP = "bad.test", netip.MustParseAddr("240.240.0.2")
	tcp.Host, tcp.VIP, tcp.Port, tcp.Protocol = "tcp.test", netip.MustParseAddr("240.240.0.3"), 5432, planetest.TCP
	p := planetest.Start(t, dataplane.Options{}, good)
	snap := planetest.Snapshot(good, bad, tcp)
	for _, c := range snap.Clusters {
		if c.Name == bad.ClusterName() || c.Name == tcp.ClusterName() {
			c.HealthChecks = []*corev3.HealthCheck{{}}
		}
	}
	if r := p.Set(snap); len(r.Rejected) != 2 {
		t.Fatalf("rejected %+v", r.Rejected)
	}
	c := p.Dial(bad.Address())
	c.Send("GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n")
	if a := c.Read("GET"); a.StatusCode != 501 || !strings.Contains(a.Text, bad.ClusterName()) {
		t.Errorf("bad: %d %q", a.StatusCode, a.Text)
	}
	if a := p.Dial(good.Address()).Do("GET", ""); a.Text != "served" {
		t.Errorf("good: %d %q", a.StatusCode, a.Text)
	}
	if got, err := p.Dial(tcp.Address()).Rest(); got != "" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("tcp: %q, %v", got, err)
	}
}

// TestStop ends everything that is under way, whatever its stage.
func TestStop(t *testing.T) {
	u := planetest.NewUpstream(t, func(c *planetest.Conn) { c.Gone() })
	http := planetest.One(u.Addr)
	tls := http
	tls.Host, tls.Protocol, tls.Port, tls.VIP = "tls.test", planetest.TLS, 443, netip.MustParseAddr("240.240.0.2")
	p := planetest.Start(t, dataplane.Options{Workers: 2}, http, tls)
	for _, dst := range []netip.AddrPort{http.Address(), tls.Address(), u.Addr} {
		for _, text := range []string{"", request[:10], request, hello("tls.test")[:9], hello("tls.test")} {
			p.Dial(dst).Send(text)
		}
	}
	p.Dial(http.Address())
	planetest.Until(t, "all are accepted", func() bool { return p.Connections() >= 14 })
}
