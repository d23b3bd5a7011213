package router_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/dataplane/streaminfo"
)

// losses are the ways in which a pooled connection ends under a request.
var losses = []struct {
	name   string
	lose   func(*planetest.Conn)
	method string
	want   int
}{
	// The write itself fails: nothing of the request left this host.
	{"reset before the write", (*planetest.Conn).Reset, "POST", 200},
	{"reset before the write", (*planetest.Conn).Reset, "GET", 200},
	// The kernel takes the request; the FIN was there before, and nothing of it is acknowledged.
	{"closed before the write", func(c *planetest.Conn) { c.Close() }, "POST", 200},
	{"closed before the write", func(c *planetest.Conn) { c.Close() }, "GET", 200},
	{"closed before the write", func(c *planetest.Conn) { c.Close() }, "PUT", 200},
	// The request was acknowledged: that it was not read can't be known.
	{"reset after the write", resetLater, "POST", 503},
	{"reset after the write", resetLater, "GET", 200},
	{"closed after the write", closeLater, "POST", 503},
	{"closed after the write", closeLater, "PUT", 200},
}

// TestPooledConnectionLost: the endpoint ends an idle connection in the moment in which a request is written to it. What
// was not delivered for sure goes to the same endpoint on a new connection; a POST that may have been is not sent again.
func TestPooledConnectionLost(t *testing.T) {
	for _, c := range losses {
		t.Run(c.name+"/"+c.method, func(t *testing.T) {
			lose, lost := make(chan struct{}), make(chan struct{})
			u := planetest.NewUpstream(t, func(conn *planetest.Conn) {
				if conn.Nth == 1 {
					conn.Request()
					conn.Send(planetest.Response(200, "first"))
					<-lose
					if !strings.Contains(c.name, "before") {
						close(lost)
						c.lose(conn)
						return
					}
					c.lose(conn)
					close(lost)
					return
				}
				planetest.Serve("new")(conn)
			})
			s := planetest.One(u.Addr)
			s.Outlier = true
			stop, stopped := make(chan struct{}), make(chan struct{}, 8)
			p := planetest.Start(t, dataplane.Options{AccessLog: func(*streaminfo.Info) { // called on the loop
				stopped <- struct{}{}
				<-stop
			}}, s)
			second := p.Dial(s.Address())
			planetest.Until(t, "both clients are known", func() bool { return p.Connections() == 1 })
			p.Dial(s.Address()).Send(planetest.Request("GET", "/", ""))
			<-stopped
			second.Send(planetest.Request(c.method, "/second", "")) // its event comes first
			close(lose)
			<-lost
			close(stop)
			if a := second.Read(c.method); a.StatusCode != c.want {
				t.Errorf("got %d %q, want %d", a.StatusCode, a.Text, c.want)
			}
			delivered := 0
			for _, r := range u.Got() {
				if r == c.method+" /second" {
					delivered++
				}
			}
			if delivered > 1 || c.want == 200 && delivered != 1 {
				t.Errorf("delivered %d times", delivered)
			}
		})
	}
}

// resetLater and closeLater wait for the first byte of the request, which they don't read.
func resetLater(c *planetest.Conn) {
	_, _ = c.R.Peek(1)
	c.Reset()
}

func closeLater(c *planetest.Conn) {
	_, _ = c.R.Peek(1)
	_, _ = c.R.Discard(c.R.Buffered()) // so that it ends by FIN
}

// most is how long a request may wait because of a silent endpoint: 500 ms, and a busy machine.
const most = 700 * time.Millisecond

// TestSilent is guarantee E3 for endpoints whose SYNs get no answer.
func TestSilent(t *testing.T) {
	for _, method := range []string{"GET", "POST"} {
		t.Run("next priority/"+method, func(t *testing.T) {
			good := planetest.NewUpstream(t, planetest.Serve("good"))
			s := planetest.One(planetest.Silent(t), good.Addr)
			s.Outlier = true
			p := planetest.Start(t, dataplane.Options{}, s)
			began := time.Now()
			a := p.Dial(s.Address()).Do(method, "")
			if took := time.Since(began); a.Text != "good" || took > most {
				t.Errorf("got %q after %v", a.Text, took)
			}
			if i := p.Ended(); i.Priority != 1 || i.UpstreamHost != good.Addr || i.Attempts != 2 {
				t.Errorf("logged %v of priority %d after %d attempts", i.UpstreamHost, i.Priority, i.Attempts)
			}
			// While nothing is decided, requests pass the endpoint over; then it is ejected.
			began = time.Now()
			if a := p.Dial(s.Address()).Do(method, ""); a.Text != "good" || time.Since(began) > hedge {
				t.Errorf("second request got %q after %v", a.Text, time.Since(began))
			}
			st := p.Cluster(s).Stats()
			planetest.Until(t, "ejected", func() bool { return st.OutlierDetection.EjectionsActive.Value() == 1 })
			if st.Detour.HedgeTotal.Value() != 1 || st.Detour.HedgeWon.Value() != 1 {
				t.Errorf("%d hedges, %d won", st.Detour.HedgeTotal.Value(), st.Detour.HedgeWon.Value())
			}
		})
	}
}

// TestTwoSilent: the near name has two addresses, both silent: the far one serves within half a second.
func TestTwoSilent(t *testing.T) {
	good := planetest.NewUpstream(t, planetest.Serve("good"))
	s := planetest.One(planetest.Silent(t), good.Addr)
	s.Endpoints[0] = append(s.Endpoints[0], planetest.Silent(t))
	s.Outlier = true
	p := planetest.Start(t, dataplane.Options{}, s)
	began := time.Now()
	a := p.Dial(s.Address()).Do("POST", "")
	if took := time.Since(began); a.Text != "good" || took > most {
		t.Errorf("got %q after %v", a.Text, took)
	}
	if i := p.Ended(); i.Attempts != 3 || i.Priority != 1 {
		t.Errorf("%d attempts, priority %d", i.Attempts, i.Priority)
	}
	st := p.Cluster(s).Stats()
	planetest.Until(t, "both ejected", func() bool { return st.OutlierDetection.EjectionsActive.Value() == 2 })
}

// TestSilentAddress: where the first address of a logical host is silent, the next serves within half a second, nobody is ejected,
// and later requests begin there.
func TestSilentAddress(t *testing.T) {
	good := planetest.NewUpstream(t, planetest.Serve("good"))
	s := planetest.One(planetest.Silent(t))
	s.Outlier = true
	p := planetest.Start(t, dataplane.Options{}, s)
	silent := p.Cluster(s).Hosts().Endpoints()[0]
	silent.SetTargets([]netip.AddrPort{silent.Address, good.Addr})
	for i, limit := range []time.Duration{most, hedge} {
		began := time.Now()
		a := p.Dial(s.Address()).Do("POST", "")
		if took := time.Since(began); a.Text != "good" || took > limit {
			t.Errorf("request %d got %q after %v", i, a.Text, took)
		}
	}
	st := p.Cluster(s).Stats()
	if n, fails := st.OutlierDetection.EjectionsActive.Value(), st.UpstreamCxConnectFail.Value(); n != 0 || fails != 0 {
		t.Errorf("%d ejected, %d failures", n, fails)
	}
}

// TestConnectionLimit: with one connection allowed, a second request waits for it; beyond max_pending_requests it is turned
// away.
func TestConnectionLimit(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 8)
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for c.Request() != nil {
			begun <- struct{}{}
			<-release
			c.Send(planetest.Response(200, "served"))
		}
	})
	s := planetest.One(u.Addr)
	s.Limits = &clusterv3.CircuitBreakers_Thresholds{MaxConnections: wrapperspb.UInt32(1), MaxPendingRequests: wrapperspb.UInt32(1)}
	p := planetest.Start(t, dataplane.Options{}, s)
	st := p.Cluster(s).Stats()
	first, second := p.Dial(s.Address()), p.Dial(s.Address())
	first.Send(planetest.Request("GET", "/1", ""))
	<-begun
	second.Send(planetest.Request("GET", "/2", ""))
	planetest.Until(t, "the second waits", func() bool { return st.UpstreamRqPendActive.Value() == 1 })
	if a := p.Dial(s.Address()).Do("GET", ""); a.StatusCode != 503 || st.UpstreamRqPendOver.Value() != 1 {
		t.Errorf("the third got %d, %d overflows", a.StatusCode, st.UpstreamRqPendOver.Value())
	}
	close(release)
	for _, c := range []*planetest.Client{first, second} {
		if a := c.Read("GET"); a.Text != "served" {
			t.Errorf("got %d %q", a.StatusCode, a.Text)
		}
	}
	if n := u.Conns(); n != 1 {
		t.Errorf("%d connections, 1 is allowed", n)
	}
}

// TestConnectionQueue: requests that wait for a connection get it in the order in which they came, and waiting is no attempt.
func TestConnectionQueue(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 8)
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for c.Request() != nil {
			begun <- struct{}{}
			<-release
			c.Send(planetest.Response(200, "served"))
		}
	})
	s := planetest.One(u.Addr)
	s.Limits = &clusterv3.CircuitBreakers_Thresholds{MaxConnections: wrapperspb.UInt32(1)}
	p := planetest.Start(t, dataplane.Options{}, s)
	st := p.Cluster(s).Stats()
	paths := []string{"/1", "/2", "/3", "/4"}
	var clients []*planetest.Client
	for i, path := range paths {
		c := p.Dial(s.Address())
		clients = append(clients, c)
		c.Send(planetest.Request("GET", path, ""))
		if i == 0 {
			<-begun
		}
		planetest.Until(t, path+" waits", func() bool { return st.UpstreamRqPendActive.Value() == int64(i) })
	}
	close(release)
	for _, c := range clients {
		if a := c.Read("GET"); a.Text != "served" {
			t.Errorf("got %d %q", a.StatusCode, a.Text)
		}
	}
	if got := strings.Join(u.Got(), ", "); got != "GET /1, GET /2, GET /3, GET /4" {
		t.Errorf("served in the order %s", got)
	}
	if tried, waited := st.UpstreamRqTotal.Value(), st.UpstreamRqPendTotal.Value(); tried != 4 || waited != 3 {
		t.Errorf("4 requests, 3 of which waited, count as %d attempts and %d waits", tried, waited)
	}
}

// TestQueueIsNotOvertaken: a request that comes when a connection has just become free stands behind those that wait for it.
func TestQueueIsNotOvertaken(t *testing.T) {
	release, begun := make(chan struct{}), make(chan struct{}, 8)
	u := planetest.NewUpstream(t, func(c *planetest.Conn) {
		for c.Request() != nil {
			begun <- struct{}{}
			<-release
			c.Send(planetest.Response(200, "served"))
		}
	})
	s := planetest.One(u.Addr)
	s.Limits = &clusterv3.CircuitBreakers_Thresholds{MaxConnections: wrapperspb.UInt32(1)}
	p := planetest.Start(t, dataplane.Options{}, s)
	st := p.Cluster(s).Stats()
	first, second := p.Dial(s.Address()), p.Dial(s.Address())
	first.Send(planetest.Request("GET", "/1", "") + planetest.Request("GET", "/3", "")) // read as soon as /1 is answered
	<-begun
	second.Send(planetest.Request("GET", "/2", ""))
	planetest.Until(t, "/2 waits", func() bool { return st.UpstreamRqPendActive.Value() == 1 })
	close(release)
	for _, c := range []*planetest.Client{first, second, first} {
		if a := c.Read("GET"); a.Text != "served" {
			t.Errorf("got %d %q", a.StatusCode, a.Text)
		}
	}
	if got := strings.Join(u.Got(), ", "); got != "GET /1, GET /2, GET /3" {
		t.Errorf("served in the order %s", got)
	}
}

// TestSilentElsewhere: where else a request may go while an endpoint is silent.
func TestSilentElsewhere(t *testing.T) {
	t.Run("same priority", func(t *testing.T) {
		good := planetest.NewUpstream(t, planetest.Serve("good"))
		s := planetest.One(planetest.Silent(t))
		s.Endpoints[0] = append(s.Endpoints[0], good.Addr)
		p := planetest.Start(t, dataplane.Options{}, s)
		for range 4 {
			began := time.Now()
			if a := p.Dial(s.Address()).Do("POST", ""); a.Text != "good" || time.Since(began) > most {
				t.Errorf("got %q after %v", a.Text, time.Since(began))
			}
		}
	})
	t.Run("other priority without outlier detection", func(t *testing.T) {
		good := planetest.NewUpstream(t, planetest.Serve("good"))
		s := planetest.One(planetest.Silent(t), good.Addr)
		s.ConnectTimeout = 600 * time.Millisecond
		p := planetest.Start(t, dataplane.Options{}, s)
		began := time.Now()
		a := p.Dial(s.Address()).Do("POST", "")
		if took := time.Since(began); a.Text != "good" || took < s.ConnectTimeout {
			t.Errorf("got %q after %v: nobody said that the other may be used before the timeout", a.Text, took)
		}
	})
	t.Run("attempts 0", func(t *testing.T) {
		good := planetest.NewUpstream(t, planetest.Serve("good"))
		s := planetest.One(planetest.Silent(t), good.Addr)
		s.Outlier, s.NoRetry, s.ConnectTimeout = true, true, 500*time.Millisecond
		p := planetest.Start(t, dataplane.Options{}, s)
		if a := p.Dial(s.Address()).Do("GET", ""); a.StatusCode != 503 || len(good.Got()) > 0 {
			t.Errorf("got %d, the other endpoint %v", a.StatusCode, good.Got())
		}
	})
}

// hedge is the least time after which an attempt is raced.
const hedge = 300 * time.Millisecond

// TestSlowIsNotSilent: an answer that takes long is waited for, whatever the method.
func TestSlowIsNotSilent(t *testing.T) {
	release := make(chan struct{})
	slow := planetest.NewUpstream(t, func(c *planetest.Conn) {
		if c.Request() == nil {
			c.Gone() // it was only asked whether it answers
			return
		}
		select {
		case <-release:
		case <-time.After(4 * hedge):
		}
		c.Send(planetest.Response(200, "slow"))
	})
	other := planetest.NewUpstream(t, planetest.Serve("other"))
	s := planetest.One(slow.Addr, other.Addr)
	s.Outlier = true
	p := planetest.Start(t, dataplane.Options{}, s)
	a := p.Dial(s.Address()).Do("GET", "")
	close(release)
	if a.Text != "slow" || len(other.Got()) != 0 {
		t.Errorf("got %q, the other endpoint %v", a.Text, other.Got())
	}
	if n := p.Cluster(s).Stats().OutlierDetection.EjectionsActive.Value(); n != 0 {
		t.Errorf("%d ejected", n)
	}
}
