package upstream

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/xds"
)

func TestMain(m *testing.M) {
	lb.Debug = true // a second Done panics
	goleak.VerifyTestMain(m)
}

// rig is one worker's pools on a running loop. Everything of theirs is called by on.
type rig struct {
	t testing.TB
	p *Pools
}

func newRig(t testing.TB, clusters ...*clusterv3.Cluster) *rig {
	t.Helper()
	d, err := event.New()
	if err != nil {
		t.Fatal(err)
	}
	m := cluster.NewManager(cluster.Options{Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if rej := m.Update(&xds.Snapshot{Clusters: clusters}); len(rej) > 0 {
		t.Fatal(rej)
	}
	r := &rig{t, &Pools{D: d, Buffers: &buffer.Pool{}, Clusters: m}}
	go d.Run()
	t.Cleanup(func() {
		d.Stop()
		<-d.Done()
		m.Close()
	})
	return r
}

// on runs fn on the loop and waits for it.
func (r *rig) on(fn func()) {
	done := make(chan struct{})
	r.p.D.Post(func() { defer close(done); fn() })
	<-done
}

// waiter hands what became of a dial to the test.
type waiter struct {
	conn   chan *Conn
	failed chan *proxyerr.Error
	slow   chan struct{}
	res    lb.Result
}

func newWaiter() *waiter {
	return &waiter{make(chan *Conn, 1), make(chan *proxyerr.Error, 1), make(chan struct{}, 1), lb.Result{}}
}

func (w *waiter) Connected(_ *Dial, c *Conn, res lb.Result)  { w.res = res; w.conn <- c }
func (w *waiter) ConnectFailed(_ *Dial, err *proxyerr.Error) { w.failed <- err }
func (w *waiter) ConnectSlow(*Dial)                          { w.slow <- struct{}{} }
func (w *waiter) Alone() bool                                { return true }
func (w *waiter) done()                                      { w.res.Done(lb.Outcome{Kind: lb.Cancelled}) }

func originalDst() *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: "orig", ConnectTimeout: durationpb.New(100 * time.Millisecond), LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}}
}

func static(a netip.AddrPort) *clusterv3.Cluster {
	return &clusterv3.Cluster{Name: "static", ConnectTimeout: durationpb.New(100 * time.Millisecond),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: "static", Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: a.Addr().String(), PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())}}}}}}}}}}}}
}

// dial begins a connection of that cluster on the loop.
func (r *rig) dial(name string, dst netip.AddrPort) (w *waiter, h *lb.Host) {
	r.t.Helper()
	w = newWaiter()
	r.on(func() {
		c := r.p.Clusters.Get(name)
		res, err := c.Pick(&lb.PickInfo{Now: r.p.D.Now(), OriginalDst: dst})
		if err != nil {
			r.t.Error(err)
			return
		}
		h = res.Endpoint.Host
		if _, perr := r.p.Dial(c, res, "", true, w); perr != nil {
			w.failed <- perr
		}
	})
	return w, h
}

// listen gives a listening socket and its connections.
func listen(t testing.TB) (netip.AddrPort, chan *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns, done := make(chan *net.TCPConn, 16), make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns <- c.(*net.TCPConn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(conns)
		for c := range conns {
			c.Close()
		}
	})
	return netip.MustParseAddrPort(l.Addr().String()), conns
}

// TestPool: a connection comes back to the next request, and goes when its endpoint ends it.
func TestPool(t *testing.T) {
	addr, conns := listen(t)
	r := newRig(t, static(addr))
	w, h := r.dial("static", addr)
	c := <-w.conn
	peer := <-conns
	defer peer.Close()
	r.on(func() {
		w.done()
		r.p.Put(c)
		cl := r.p.Clusters.Get("static")
		if r.p.Idle(cl, h, "other.sni", client{}) != nil {
			t.Error("given to a request for another server name")
		}
		if r.p.Idle(cl, h, "", client{}) != nil {
			t.Error("one that did not fit was kept")
		}
		if len(r.p.hosts) != 0 {
			t.Errorf("%d hosts are remembered without a connection", len(r.p.hosts))
		}
	})
	w, h = r.dial("static", addr)
	c = <-w.conn
	second := <-conns
	defer second.Close()
	r.on(func() {
		w.done()
		r.p.Put(c)
		if got := r.p.Idle(r.p.Clusters.Get("static"), h, "", client{}); got != c {
			t.Error("the idle connection was not given")
		}
		r.p.Put(c)
	})
	if _, err := second.Write([]byte("HTTP/1.1 408 Request Timeout\r\n\r\n")); err != nil { // some servers say so before they close
		t.Fatal(err)
	}
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("what was sent on an idle connection did not end it")
	}
	r.on(func() {
		if r.p.Idle(r.p.Clusters.Get("static"), h, "", client{}) != nil {
			t.Error("a connection with unread bytes was given")
		}
	})
}

// TestEjectedGiveNothing: idle connections to an ejected or removed host are closed, and none is kept.
func TestEjectedGiveNothing(t *testing.T) {
	addr, conns := listen(t)
	r := newRig(t, static(addr))
	w, h := r.dial("static", addr)
	c := <-w.conn
	peer := <-conns
	defer peer.Close()
	r.on(func() {
		w.done()
		h.SetEjected(true)
		r.p.Put(c)
		if !c.Sock.Closed() || len(r.p.hosts) != 0 {
			t.Error("kept")
		}
	})
}

// TestSilentOriginalDst: an address that nobody declared and that does not answer is not asked again by ourselves, and is
// forgotten.
func TestSilentOriginalDst(t *testing.T) {
	r := newRig(t, originalDst(), static(netip.MustParseAddrPort("192.0.2.1:1")))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := netip.MustParseAddrPort(l.Addr().String())
	ep := &lb.Endpoint{Host: &lb.Host{Address: addr}}
	for _, c := range []struct {
		cluster string
		suspect bool // requests pass it over until it was asked again
	}{{"orig", false}, {"static", true}} {
		r.on(func() {
			ep.SetSuspect(true)
			r.p.silent(r.p.Clusters.Get(c.cluster), ep, false, "")
			if ep.Suspect() != c.suspect {
				t.Errorf("%s: suspect %v", c.cluster, ep.Suspect())
			}
			hp := r.p.hosts[ep.Host]
			hp.deadAt = r.p.D.Now().Add(-2 * forgetDead)
			ep.SetSuspect(false)
			r.p.askAgain(r.p.Clusters.Get(c.cluster), ep, hp)
			hp.again.Stop()
			if len(r.p.hosts) != 0 {
				t.Errorf("%s: remembered for ever", c.cluster)
			}
		})
	}
}

// TestRefused: a refusal is the endpoint's failure, and leaves nothing behind.
func TestRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	r := newRig(t, static(addr))
	w, h := r.dial("static", addr)
	if e := <-w.failed; e.Kind != lb.ConnectFailed || !e.Unsent {
		t.Errorf("%+v", e)
	}
	r.on(func() {
		if n := h.Stats.RqActive.Value(); n != 0 || len(r.p.hosts) != 0 {
			t.Errorf("%d attempts are open, %d hosts remembered", n, len(r.p.hosts))
		}
	})
}

// TestLogicalHost: one attempt goes through the addresses of a logical host for as long as they refuse.
func TestLogicalHost(t *testing.T) {
	addr, conns := listen(t)
	closed := func(last byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, last}), addr.Port())
	}
	for _, c := range []struct {
		addrs     []netip.AddrPort
		reached   bool
		exhausted bool
	}{
		{[]netip.AddrPort{closed(7), closed(8), addr}, true, false},
		{[]netip.AddrPort{closed(7), closed(8), closed(9)}, false, true},
		{[]netip.AddrPort{closed(7), netip.MustParseAddrPort("[fe80::1]:1"), addr}, true, false}, // fails at once: no zone
	} {
		r := newRig(t, static(closed(7)))
		cl := r.p.Clusters.Get("static")
		st := cl.Stats()
		outcome := &raced{ended: make(chan error, 1)}
		pick := &lb.PickInfo{}
		var race Race
		var h *lb.Host
		r.on(func() {
			race.Begin(r.p, cl, pick, "", true, false, outcome)
			res, err := cl.Pick(pick)
			if err != nil {
				t.Error(err)
				return
			}
			h = res.Endpoint.Host
			h.SetTargets(c.addrs)
			if err := race.Try(res, true); err != nil {
				outcome.Lost(err)
			}
		})
		err := <-outcome.ended
		r.on(func() {
			if (err == nil) != c.reached || pick.Exhausted(h) != c.exhausted {
				t.Errorf("%v: %v, exhausted %v", c.addrs, err, pick.Exhausted(h))
			}
			if fails := st.UpstreamCxConnectFail.Value(); outcome.tried != 1 || fails > 1 || c.reached != (fails == 0) {
				t.Errorf("%v: %d attempts, %d failures", c.addrs, outcome.tried, fails)
			}
			if c.reached {
				outcome.conn.Close()
				outcome.res.Done(lb.Outcome{Kind: lb.Cancelled})
			}
		})
		if c.reached {
			(<-conns).Close()
		}
	}
}

// raced tells what became of a race.
type raced struct {
	tried int
	conn  *Conn
	res   lb.Result
	ended chan error
}

func (r *raced) Trying(*lb.Endpoint) { r.tried++ }
func (r *raced) Won(c *Conn, res lb.Result) {
	r.conn, r.res = c, res
	r.ended <- nil
}
func (r *raced) Lost(err *proxyerr.Error) { r.ended <- err }
