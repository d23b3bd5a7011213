// Package planetest runs a Plane on loopback for tests: endpoints that follow a script, clients that write bytes, and a
// snapshot made of a few values instead of YAML. Only tests import it.
package planetest

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/stats"
)

// Patience is how long anything in a test may take.
const Patience = time.Minute

// Plane is a running Plane with a redirected listener and a forward proxy.
type Plane struct {
	*dataplane.Plane
	Clusters *cluster.Manager
	Stats    *stats.Registry
	// Proxy is the forward proxy's address.
	Proxy netip.AddrPort
	// Log has one entry for each request or relayed connection that ended.
	Log chan streaminfo.Info

	t        testing.TB
	redirect netip.AddrPort
	mu       sync.Mutex
	wanted   map[netip.Addr]netip.AddrPort // guarded by mu: where the connections of a source address want to go
	sources  byte                          // guarded by mu
}

// Start runs a Plane that serves the services until the test ends. Then every attempt must have had its Done.
func Start(t testing.TB, o dataplane.Options, services ...Service) *Plane {
	t.Helper()
	p := &Plane{Stats: stats.NewRegistry(), Log: make(chan streaminfo.Info, 64), t: t, wanted: map[netip.Addr]netip.AddrPort{}}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	p.Clusters = cluster.NewManager(cluster.Options{Log: quiet, Stats: p.Stats, CompatEnvoy: o.Compat})
	o.Clusters, o.Stats, o.Log, o.OriginalDst = p.Clusters, p.Stats, quiet, p.originalDst
	if o.AccessLog == nil {
		o.AccessLog = func(i *streaminfo.Info) {
			i.Method, i.Path, i.Authority, i.UserAgent = nil, nil, nil, nil // they point into buffers
			select {
			case p.Log <- *i:
			default: // nobody reads so many
			}
		}
	}
	var err error
	if p.Plane, err = dataplane.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	p.Apply(services...)
	p.redirect = p.listen(dataplane.Redirected)
	p.Proxy = p.listen(dataplane.ForwardProxy)
	return p
}

func (p *Plane) end() {
	p.Stop()
	p.Clusters.Close()
	for _, c := range p.Clusters.Clusters() {
		st, open := c.Stats(), int64(0)
		for _, e := range c.Hosts().Endpoints() {
			open += e.Stats.RqActive.Value()
		}
		// Connections that were being made when the Plane stopped are not judged any more.
		dials := int64(st.UpstreamCxTotal.Value()-st.UpstreamCxConnectFail.Value()-st.UpstreamCxDestroy.Value()) - st.UpstreamCxActive.Value()
		if open > max(dials, 0) { // one made only to see whether the endpoint answers is not in the total
			p.t.Errorf("%s: %d attempts had no Done, %d connections were being made", c.Name(), open, dials)
		}
		if n := c.Retry().InFlight(); n != 0 {
			p.t.Errorf("%s: %d places in the retry budget were not given back", c.Name(), n)
		}
	}
	if n := p.Connections(); n != 0 {
		p.t.Errorf("%d connections are still open", n)
	}
}

// Apply puts other services in force.
func (p *Plane) Apply(services ...Service) {
	p.t.Helper()
	if r := p.Set(Snapshot(services...)); len(r.Rejected) > 0 {
		p.t.Fatalf("rejected: %+v", r.Rejected)
	}
}

func (p *Plane) listen(kind dataplane.Kind) netip.AddrPort {
	p.t.Helper()
	fd, addr := listenFD(p.t, 512)
	if err := unix.SetNonblock(fd, true); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Listen(fd, kind); err != nil {
		p.t.Fatal(err)
	}
	return addr
}

// listenFD gives a listening socket of our own, since the net package chooses the backlog itself.
func listenFD(t testing.TB, backlog int) (int, netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.CloseOnExec(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, event.AddrPort(sa)
}

// originalDst tells where a client wanted to go: its source address stands for it.
func (p *Plane) originalDst(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getpeername(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.wanted[event.AddrPort(sa).Addr()], nil
}

// Dial connects as an application that wants to go to dst.
func (p *Plane) Dial(dst netip.AddrPort) *Client {
	p.t.Helper()
	return p.client(p.source(dst), p.redirect)
}

// source gives the loopback address whose connections go to dst.
func (p *Plane) source(dst netip.AddrPort) netip.Addr {
	p.mu.Lock()
	defer p.mu.Unlock()
	for from, to := range p.wanted {
		if to == dst {
			return from
		}
	}
	p.sources++
	from := netip.AddrFrom4([4]byte{127, 77, 0, p.sources})
	p.wanted[from] = dst
	return from
}

// DialProxy connects to the forward proxy.
func (p *Plane) DialProxy() *Client {
	p.t.Helper()
	return p.client(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.Proxy)
}

func (p *Plane) client(from netip.Addr, to netip.AddrPort) *Client {
	p.t.Helper()
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), Timeout: Patience}
	c, err := d.Dial("tcp", to.String())
	if errors.Is(err, unix.ECONNRESET) {
		return reset(p.t) // so soon that the net package takes it for a failure to connect
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return newClient(p.t, c.(*net.TCPConn))
}

// reset gives a client whose connection was reset.
func reset(t testing.TB) *Client {
	t.Helper()
	dialled := make(chan struct{})
	u := NewUpstream(t, func(c *Conn) {
		<-dialled
		c.Reset()
	})
	c, err := net.Dial("tcp", u.Addr.String())
	close(dialled)
	if err != nil {
		t.Fatal(err)
	}
	return newClient(t, c.(*net.TCPConn))
}

// Ended gives the record of the next request or connection that ended.
func (p *Plane) Ended() streaminfo.Info {
	p.t.Helper()
	select {
	case i := <-p.Log:
		return i
	case <-time.After(Patience):
		p.t.Fatal("no request ended")
		panic("unreachable")
	}
}

// Cluster gives a service's cluster.
func (p *Plane) Cluster(s Service) *cluster.Cluster { return p.Clusters.Get(s.ClusterName()) }

// Until waits until cond holds on the Plane's side, where no event tells of it. It yields to the workers between two looks.
func Until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", Patience, what)
		}
		_, _ = unix.Poll(nil, 1)
	}
}
