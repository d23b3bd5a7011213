package dataplane_test

import (
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/dataplane"
	"detour.dev/detour/internal/dataplane/planetest"
	"detour.dev/detour/internal/xds"
)

// tcpService is a TCP service with one endpoint.
func tcpService(host, vip string, endpoints ...netip.AddrPort) planetest.Service {
	s := planetest.One()
	s.Endpoints = [][]netip.AddrPort{endpoints}
	s.Host, s.VIP, s.Protocol, s.Port = host, netip.MustParseAddr(vip), planetest.TCP, 5432
	return s
}

// setTCP replaces the filter of a service's listener.
func setTCP(t *testing.T, snap *xds.Snapshot, s planetest.Service, m *tcpv3.TcpProxy) {
	t.Helper()
	typed, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range snap.Listeners {
		if l.Name == s.Address().String() {
			l.FilterChains[0].Filters = []*listenerv3.Filter{{Name: "tcp", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: typed}}}
		}
	}
}

// TestWeightedTCP: connections are spread by the weights, over captured connections and CONNECT alike.
func TestWeightedTCP(t *testing.T) {
	first, second := planetest.NewUpstream(t, echo("1")), planetest.NewUpstream(t, echo("2"))
	a, b := tcpService("a.test", "240.240.0.1", first.Addr), tcpService("b.test", "240.240.0.2", second.Addr)
	var random atomic.Uint64
	p := planetest.Start(t, dataplane.Options{Rand: func() uint64 { return random.Load() }}, a, b)
	snap := planetest.Snapshot(a, b)
	setTCP(t, snap, a, &tcpv3.TcpProxy{StatPrefix: "w", ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{
		Clusters: []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: a.ClusterName(), Weight: 3}, {Name: "never", Weight: 0}, {Name: b.ClusterName(), Weight: 1}}}}})
	if r := p.Set(snap); len(r.Rejected) > 0 {
		t.Fatal(r.Rejected)
	}
	for n, want := range []string{"1:x", "1:x", "1:x", "2:x", "1:x"} {
		random.Store(uint64(n))
		if got, err := exchange(t, p.Dial(a.Address()), "x"); got != want {
			t.Errorf("%d: %q %v, want %q", n, got, err, want)
		}
		c := p.DialProxy()
		c.Send("CONNECT a.test:5432 HTTP/1.1\r\nHost: a.test:5432\r\n\r\n")
		got, err := exchange(t, c, "x")
		if !strings.HasSuffix(got, "\r\n\r\n"+want) {
			t.Errorf("CONNECT %d: %q %v, want %q", n, got, err, want)
		}
	}
}

// TestSourceHashedTCP: all connections of one client go to one endpoint.
func TestSourceHashedTCP(t *testing.T) {
	var ends []netip.AddrPort
	for n := range 5 {
		ends = append(ends, planetest.NewUpstream(t, echo(strconv.Itoa(n))).Addr)
	}
	s := tcpService("a.test", "240.240.0.1", ends...)
	p := planetest.Start(t, dataplane.Options{}, s)
	hosts := func(hash ...*typev3.HashPolicy) map[string]bool {
		snap := planetest.Snapshot(s)
		snap.Clusters[1].LbPolicy = clusterv3.Cluster_MAGLEV
		setTCP(t, snap, s, &tcpv3.TcpProxy{StatPrefix: "h", HashPolicy: hash, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: s.ClusterName()}})
		if r := p.Set(snap); len(r.Rejected) > 0 {
			t.Fatal(r.Rejected)
		}
		seen := map[string]bool{}
		for range 40 {
			got, err := exchange(t, p.Dial(s.Address()), "x")
			if err != nil {
				t.Fatal(err)
			}
			seen[got] = true
		}
		return seen
	}
	if seen := hosts(&typev3.HashPolicy{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}); len(seen) != 1 {
		t.Errorf("by source: %v", seen)
	}
	if seen := hosts(); len(seen) < 2 {
		t.Errorf("without policy: %v", seen)
	}
}

// TestSnapshotRefusesUndeclared: the snapshot in force decides, for captured connections and the forward proxy.
func TestSnapshotRefusesUndeclared(t *testing.T) {
	other := planetest.NewUpstream(t, echo("other"))
	s := planetest.One(planetest.NewUpstream(t, planetest.Serve("svc")).Addr)
	p := planetest.Start(t, dataplane.Options{}, s)
	connect := func() string {
		c := p.DialProxy()
		c.Send("CONNECT " + other.Addr.String() + " HTTP/1.1\r\nHost: x\r\n\r\n")
		got, _ := exchange(t, c, "x")
		status, _, _ := strings.Cut(got, "\r\n")
		return status
	}
	if got, err := exchange(t, p.Dial(other.Addr), "x"); got != "other:x" {
		t.Fatalf("allowed: %q %v", got, err)
	}
	if got := connect(); got != "HTTP/1.1 200 OK" {
		t.Fatalf("allowed: %q", got)
	}
	refuseUndeclared(t, p, s)
	if got, err := exchange(t, p.Dial(other.Addr), "x"); got != "" || err == nil {
		t.Errorf("refused: %q %v", got, err)
	}
	if got := connect(); got != "HTTP/1.1 502 Bad Gateway" {
		t.Errorf("refused: %q", got)
	}
	c := p.DialProxy()
	c.Send("GET http://" + net.JoinHostPort("undeclared.test", "80") + "/ HTTP/1.1\r\nHost: undeclared.test\r\n\r\n")
	if a := c.Read("GET"); a.StatusCode != 502 {
		t.Errorf("refused: %d", a.StatusCode)
	}
	p.Apply(s)
	if got, err := exchange(t, p.Dial(other.Addr), "x"); got != "other:x" {
		t.Errorf("allowed again: %q %v", got, err)
	}
	if got := connect(); got != "HTTP/1.1 200 OK" {
		t.Errorf("allowed again: %q", got)
	}
}
