package upstream

import (
	"bufio"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/upstream/tlstransport"
	"detour.dev/detour/internal/testcert"
	"detour.dev/detour/internal/xds"
)

// secured is a static cluster whose endpoint must show a certificate for a.test.
func secured(t *testing.T, ca *testcert.CA, a netip.AddrPort) *clusterv3.Cluster {
	t.Helper()
	ctx, err := anypb.New(&tlsv3.UpstreamTlsContext{Sni: "a.test", CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
			TrustedCa: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: ca.PEM}}}}}})
	if err != nil {
		t.Fatal(err)
	}
	c := static(a)
	c.ConnectTimeout = nil // 5 s
	c.TransportSocket = &corev3.TransportSocket{Name: "tls", ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: ctx}}
	return c
}

func newCA(t *testing.T) *testcert.CA {
	t.Helper()
	ca, err := testcert.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// underWay dials and gives the attempt once the endpoint has read its ClientHello, and not answered it.
func (r *rig) underWay(conns chan *net.TCPConn) (*Dial, *waiter, *net.TCPConn) {
	r.t.Helper()
	w, _ := r.dial("static", netip.AddrPort{})
	peer := <-conns
	if _, err := peer.Read(make([]byte, 1)); err != nil {
		r.t.Fatal(err)
	}
	var d *Dial
	r.on(func() {
		for d = range r.p.dialing {
		}
	})
	return d, w, peer
}

// grow lets an attempt find itself that old.
func (r *rig) grow(d *Dial, age time.Duration) {
	r.on(func() {
		d.timer.Stop()
		d.began = r.p.D.Now().Add(-age)
		d.onTimer()
	})
}

// An endpoint that takes connections and leaves the ClientHello unanswered is passed over, and comes back when it has
// answered one; an answer to a SYN is not enough.
func TestClientHelloUnanswered(t *testing.T) {
	ca := newCA(t)
	addr, conns := listen(t)
	r := newRig(t, secured(t, ca, addr))
	r.p.TLS = &TLSContexts{Log: slog.New(slog.DiscardHandler)}
	d, _, peer := r.underWay(conns)
	defer peer.Close()
	ep := d.res.Endpoint
	if ep.Suspect() {
		t.Error("suspect before its time")
	}
	r.on(d.Abandon) // the request went elsewhere
	r.grow(d, hedgeMin)
	if !ep.Suspect() {
		t.Error("an endpoint is not suspect that left a ClientHello unanswered")
	}
	r.grow(d, helloVerdict)
	r.on(func() {
		if why, _ := ep.LastError(); !d.ended || !ep.Suspect() || why == "" {
			t.Errorf("ended %v, suspect %v, last error %q", d.ended, ep.Suspect(), why)
		}
		hp := r.p.hosts[ep.Host]
		if hp == nil || !hp.again.Armed() {
			t.Error("nobody asks it again")
			return
		}
		if r.p.DeadSince(ep.Host, time.Time{}) {
			t.Error("its host has answered, and counts as dead")
		}
		hp.again.Stop()
		r.p.askAgain(r.p.Clusters.Get("static"), ep, hp)
	})
	again := <-conns
	defer again.Close()
	hello := bufio.NewReader(again)
	if _, err := hello.Peek(1); err != nil {
		t.Fatal(err)
	}
	if !ep.Suspect() {
		t.Error("an answer to the SYN made it well again")
	}
	pair, err := ca.Server("a.test")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	server := tls.Server(peeked{again, hello}, &tls.Config{Certificates: []tls.Certificate{cert}})
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("x")); err != nil { // on an idle connection: ends it
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, server)
	r.on(func() {
		if ep.Suspect() {
			t.Error("still suspect")
		}
	})
}

// peeked is a connection of which something was read ahead.
type peeked struct {
	net.Conn
	ahead *bufio.Reader
}

func (p peeked) Read(b []byte) (int, error) { return p.ahead.Read(b) }

// What is under way when the worker ends is given back without a judgement.
func TestStop(t *testing.T) {
	addr, conns := listen(t)
	r := newRig(t, secured(t, newCA(t), addr))
	r.p.TLS = &TLSContexts{Log: slog.New(slog.DiscardHandler)}
	d, w, peer := r.underWay(conns)
	defer peer.Close()
	r.on(r.p.Stop)
	r.on(func() {
		h := d.Host()
		why, _ := h.LastError()
		if n := h.Stats.RqActive.Value(); n != 0 || len(r.p.dialing) != 0 || len(r.p.hosts) != 0 || why != "" {
			t.Errorf("%d attempts are open, %d under way, %d hosts remembered, error %q", n, len(r.p.dialing), len(r.p.hosts), why)
		}
		if n := d.cluster.Breaker().Connections.Active(); n != 0 {
			t.Errorf("%d connections are counted", n)
		}
	})
	select {
	case <-w.conn:
		t.Error("connected")
	case err := <-w.failed:
		t.Errorf("failed: %v", err)
	default:
	}
}

// racer takes what a race gives and does nothing with it.
type racer struct{}

func (racer) Trying(*lb.Endpoint)  {}
func (racer) Won(*Conn, lb.Result) {}
func (racer) Lost(*proxyerr.Error) {}

// An endpoint that was not asked, because the cluster has as many connections as it may, has not been tried.
func TestRaceWithoutRoom(t *testing.T) {
	addr, _ := listen(t)
	other, _ := listen(t)
	c := static(addr)
	c.LoadAssignment.Endpoints = append(c.LoadAssignment.Endpoints, static(other).LoadAssignment.Endpoints...)
	c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(1)}}}
	r := newRig(t, c)
	r.on(func() {
		var race Race
		cl := r.p.Clusters.Get("static")
		pick := lb.PickInfo{Now: r.p.D.Now()}
		race.Begin(r.p, cl, &pick, "", true, true, racer{})
		res, err := cl.Pick(&pick)
		if err != nil {
			t.Error(err)
			return
		}
		if err := race.Try(res, false); err != nil {
			t.Error(err)
			return
		}
		race.beside()
		if len(pick.Tried) != 1 || pick.Tried[0] != res.Endpoint.Host {
			t.Errorf("%d endpoints count as tried", len(pick.Tried))
		}
		if n := cl.Stats().Detour.HedgeTotal.Value(); n != 0 {
			t.Errorf("%d hedges", n)
		}
		race.Abandon()
		r.p.Stop()
	})
}

// Settings go with their cluster.
func TestRetain(t *testing.T) {
	r := newRig(t, secured(t, newCA(t), netip.MustParseAddrPort("192.0.2.1:1")))
	contexts := &TLSContexts{Log: slog.New(slog.DiscardHandler)}
	cl := r.p.Clusters.Get("static")
	first, err := contexts.Get(cl.Config())
	if err != nil {
		t.Fatal(err)
	}
	contexts.Retain(map[string]*cluster.Cluster{"static": cl})
	if second, _ := contexts.Get(cl.Config()); second != first {
		t.Error("settings in use were forgotten, with their sessions")
	}
	contexts.Retain(nil)
	if len(contexts.all) != 0 {
		t.Error("settings of a cluster that is gone were kept")
	}
}

// Two versions of one cluster are connected to at the same time: each has its own settings, and its sessions, for as long as
// it is the one in force.
func TestTwoVersions(t *testing.T) {
	addr := netip.MustParseAddrPort("192.0.2.1:1")
	r := newRig(t, secured(t, newCA(t), addr))
	contexts := &TLSContexts{Log: slog.New(slog.DiscardHandler)}
	get := func(c *cluster.Cluster) *tlstransport.Context {
		t.Helper()
		ctx, err := contexts.Get(c.Config())
		if err != nil {
			t.Fatal(err)
		}
		return ctx
	}
	old := r.p.Clusters.Get("static")
	first := get(old)
	r.p.Clusters.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{secured(t, newCA(t), addr)}})
	current := r.p.Clusters.Get("static")
	second := get(current)
	if first == second {
		t.Fatal("another CA, the same settings")
	}
	if get(old) != first || get(current) != second {
		t.Error("one version's settings took the place of the other's")
	}
	contexts.Retain(r.p.Clusters.Table())
	if len(contexts.all) != 1 || get(current) != second {
		t.Errorf("%d settings are kept for the one version in force", len(contexts.all))
	}
}
