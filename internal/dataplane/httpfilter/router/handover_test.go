package router_test

import (
	"sync"
	"sync/atomic"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// twoWorkers starts a Plane that allows one connection. The first client was served and is on one worker, which keeps the idle
// connection and is held until free is called; clients that come before are on the other one.
func twoWorkers(t *testing.T) (p *planetest.Plane, s planetest.Service, u *planetest.Upstream, first *planetest.Client, free func()) {
	t.Helper()
	u = planetest.NewUpstream(t, planetest.Serve("served"))
	s = planetest.One(u.Addr)
	s.Limits = &clusterv3.CircuitBreakers_Thresholds{MaxConnections: wrapperspb.UInt32(1)}
	stop, stopped := make(chan struct{}), make(chan struct{})
	var once sync.Once
	free = sync.OnceFunc(func() { close(stop) })
	p = planetest.Start(t, dataplane.Options{Workers: 2, AccessLog: func(*streaminfo.Info) { // called on the loop
		once.Do(func() {
			close(stopped)
			<-stop
		})
	}}, s)
	t.Cleanup(free)
	first = p.Dial(s.Address())
	if a := first.Do("GET", ""); a.Text != "served" {
		t.Fatalf("got %d %q", a.StatusCode, a.Text)
	}
	<-stopped
	return p, s, u, first, free
}

// TestPlaceHandedOver: where the only connection that is allowed is idle on another worker, that one makes room, and back.
func TestPlaceHandedOver(t *testing.T) {
	p, s, u, first, free := twoWorkers(t)
	st := p.Cluster(s).Stats()
	second := p.Dial(s.Address())
	second.Send(planetest.Request("POST", "/", ""))
	planetest.Until(t, "it waits", func() bool { return st.UpstreamRqPendActive.Value() == 1 })
	free()
	if a := second.Read("POST"); a.Text != "served" {
		t.Errorf("got %d %q", a.StatusCode, a.Text)
	}
	for range 20 {
		for _, c := range []*planetest.Client{first, second} {
			if a := c.Do("GET", ""); a.Text != "served" {
				t.Errorf("got %d %q", a.StatusCode, a.Text)
			}
		}
	}
	if n := u.Conns(); n != 42 {
		t.Errorf("%d connections, want one for each change of the worker: 42", n)
	}
	b := p.Cluster(s).Breaker()
	if n, open, wish := b.Connections.Active(), st.UpstreamCxActive.Value(), b.Wishes.Any(); n != 1 || open != 1 || wish {
		t.Errorf("%d places taken, %d connections open, wishes left: %v", n, open, wish)
	}
}

// TestPlaceHandedOverUnderLoad: a worker whose requests never stop lets another one have the only connection now and then.
func TestPlaceHandedOverUnderLoad(t *testing.T) {
	p, s, _, first, free := twoWorkers(t)
	var done atomic.Bool
	var load sync.WaitGroup
	for range 4 {
		c := p.Dial(s.Address())
		load.Go(func() {
			for !done.Load() {
				if a := c.Do("GET", ""); a.Text != "served" {
					t.Errorf("got %d %q", a.StatusCode, a.Text)
					return
				}
			}
		})
	}
	planetest.Until(t, "all are there", func() bool { return p.Connections() == 5 })
	free()
	for range 10 {
		if a := first.Do("POST", ""); a.Text != "served" {
			t.Errorf("got %d %q", a.StatusCode, a.Text)
		}
	}
	done.Store(true)
	load.Wait()
	if n, open := p.Cluster(s).Breaker().Connections.Active(), p.Cluster(s).Stats().UpstreamCxActive.Value(); n != 1 || open != 1 {
		t.Errorf("%d places taken, %d connections open, 1 is allowed", n, open)
	}
}
