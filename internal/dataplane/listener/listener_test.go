package listener

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	commonfaultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	mongov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/mongo_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func filter(t *testing.T, m proto.Message) *listenerv3.Filter {
	t.Helper()
	a, err := anypb.New(m)
	if err != nil {
		t.Fatal(err)
	}
	return &listenerv3.Filter{Name: "f", ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}
}

func tcp(cluster string) *tcpv3.TcpProxy {
	return &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
}

func prefix(ip string, bits uint32) []*corev3.CidrRange {
	return []*corev3.CidrRange{{AddressPrefix: ip, PrefixLen: wrapperspb.UInt32(bits)}}
}

func at(ip string, port uint32, chains ...*listenerv3.FilterChain) *listenerv3.Listener {
	return &listenerv3.Listener{Name: ip, FilterChains: chains, Address: &corev3.Address{Address: &corev3.Address_SocketAddress{
		SocketAddress: &corev3.SocketAddress{Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port}}}}}
}

func compile(t *testing.T, l *listenerv3.Listener) *Config {
	t.Helper()
	c, err := Compile(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestChain: the most specific destination first, then the server name, then the transport (FilterChainMatch).
func TestChain(t *testing.T) {
	chain := func(cluster string, m *listenerv3.FilterChainMatch) *listenerv3.FilterChain {
		return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{filter(t, tcp(cluster))}}
	}
	l := at("0.0.0.0", 443,
		chain("exact", &listenerv3.FilterChainMatch{ServerNames: []string{"A.test"}}),
		chain("wild", &listenerv3.FilterChainMatch{ServerNames: []string{"*.test"}}),
		chain("wilder", &listenerv3.FilterChainMatch{ServerNames: []string{"*.eu.test"}}),
		chain("net", &listenerv3.FilterChainMatch{PrefixRanges: prefix("10.0.0.0", 8)}),
		chain("host", &listenerv3.FilterChainMatch{PrefixRanges: prefix("10.1.1.1", 32)}),
		chain("plain", &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"}))
	l.DefaultFilterChain = chain("rest", nil)
	c := compile(t, l)
	for _, k := range []struct {
		dst, name string
		tls       bool
		want      string
	}{
		{"192.0.2.1", "a.test", true, "exact"},
		{"192.0.2.1", "b.test", true, "wild"},
		{"192.0.2.1", "b.eu.test", true, "wilder"},
		{"192.0.2.1", "eu.test", true, "wild"},
		{"192.0.2.1", "test", true, "rest"},
		{"192.0.2.1", "", true, "rest"},
		{"192.0.2.1", "", false, "plain"},
		{"10.2.2.2", "a.test", true, "net"}, // the destination comes first
		{"10.1.1.1", "a.test", true, "host"},
		{"10.1.1.1", "", false, "host"},
	} {
		got := c.Chain(Facts{Dst: netip.AddrPortFrom(netip.MustParseAddr(k.dst), 443), TLS: k.tls, ServerName: k.name})
		if got == nil || got.Cluster != k.want {
			t.Errorf("%+v: %+v", k, got)
		}
	}
	if !c.TLS || c.HTTP || !c.Names("b.test") || c.Names("other") || len(c.Prefixes()) != 2 || c.HTTPChain() != nil {
		t.Errorf("%+v", c)
	}
	if got := compile(t, at("1.1.1.1", 1, chain("x", &listenerv3.FilterChainMatch{ServerNames: []string{"x"}}))).Chain(Facts{ServerName: "y"}); got != nil {
		t.Errorf("nothing fits, but %+v", got)
	}
}

// TestProtocol: a chain for HTTP takes what speaks it, the default the rest, and a range comes before both.
func TestProtocol(t *testing.T) {
	chain := func(cluster string, m *listenerv3.FilterChainMatch) *listenerv3.FilterChain {
		return &listenerv3.FilterChain{FilterChainMatch: m, Filters: []*listenerv3.Filter{filter(t, tcp(cluster))}}
	}
	l := at("0.0.0.0", 80,
		chain("http", &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}}),
		chain("net", &listenerv3.FilterChainMatch{PrefixRanges: prefix("10.0.0.0", 8)}))
	l.DefaultFilterChain = chain("rest", nil)
	l.ListenerFiltersTimeout = durationpb.New(time.Second)
	c := compile(t, l)
	for _, k := range []struct {
		dst, protocol string
		tls           bool
		want          string
	}{
		{"192.0.2.1", "", false, "http"},
		{"192.0.2.1", "http/1.1", false, "http"},
		{"192.0.2.1", "h2c", false, "http"},
		{"192.0.2.1", "http/1.0", false, "rest"},
		{"192.0.2.1", "none", false, "rest"},
		{"192.0.2.1", "", true, "rest"},
		{"10.2.2.2", "http/1.1", false, "net"},
	} {
		got := c.Chain(Facts{Dst: netip.AddrPortFrom(netip.MustParseAddr(k.dst), 80), TLS: k.tls, Protocol: k.protocol})
		if got == nil || got.Cluster != k.want {
			t.Errorf("%+v: %+v", k, got)
		}
	}
	if !c.Sniff || c.SniffTime != time.Second || !c.Takes(netip.MustParseAddr("10.2.2.2")) || c.Takes(netip.MustParseAddr("192.0.2.1")) {
		t.Errorf("%+v", c)
	}
}

func TestSet(t *testing.T) {
	any80, own80, second := compile(t, at("0.0.0.0", 80)), compile(t, at("240.240.0.1", 80)), compile(t, at("240.240.0.1", 80))
	s := NewSet([]*Config{any80, own80, second, compile(t, at("::", 81))})
	for dst, want := range map[string]*Config{"240.240.0.1:80": own80, "192.0.2.1:80": any80, "192.0.2.1:82": nil} {
		got, exact := s.Find(netip.MustParseAddrPort(dst))
		if got != want || exact != (want == own80) {
			t.Errorf("%s: %v, exact %v", dst, got, exact)
		}
	}
	if len(s.Exact()) != 1 {
		t.Errorf("own addresses: %v", s.Exact())
	}
}

// TestMongo: a filter that only observes leaves its chain to the next; one that delays is refused.
func TestMongo(t *testing.T) {
	mongo := &mongov3.MongoProxy{StatPrefix: "m"}
	l := at("1.1.1.1", 27017, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, mongo), filter(t, tcp("x"))}})
	if ch := compile(t, l).Chain(Facts{}); ch == nil || ch.Cluster != "x" {
		t.Errorf("%+v", ch)
	}
	mongo.Delay = &commonfaultv3.FaultDelay{}
	l.FilterChains[0].Filters[0] = filter(t, mongo)
	if c := compile(t, l); len(c.Refused) != 1 {
		t.Errorf("%+v", c.Refused)
	}
}

func TestTimes(t *testing.T) {
	hcm := &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "80"}}}
	c := compile(t, at("0.0.0.0", 80, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, hcm)}})).HTTPChain()
	if c == nil || c.Routes != "80" || c.StreamIdle != StreamIdle {
		t.Errorf("%+v", c)
	}
	hcm.StreamIdleTimeout = durationpb.New(0)
	c = compile(t, at("0.0.0.0", 80, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, hcm)}})).HTTPChain()
	if c.StreamIdle != 0 {
		t.Errorf("0 means never, not %v", c.StreamIdle)
	}
	proxy := tcp("x")
	proxy.IdleTimeout = durationpb.New(time.Minute)
	if c := compile(t, at("1.1.1.1", 80, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, proxy)}})).Chain(Facts{}); c.Idle != time.Minute {
		t.Errorf("%+v", c)
	}
}

func TestRefuses(t *testing.T) {
	weighted := &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{}}
	metadata := &tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{
		Clusters: []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: "x", Weight: 1, MetadataMatch: &corev3.Metadata{}}}}}}
	hash := tcp("x")
	hash.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_FilterState_{}}}
	tunnel := tcp("x")
	tunnel.TunnelingConfig = &tcpv3.TcpProxy_TunnelingConfig{}
	for name, c := range map[string]struct {
		l    *listenerv3.Listener
		want string
	}{
		"no address":  {&listenerv3.Listener{}, "address"},
		"empty path":  {&listenerv3.Listener{Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{}}}}, "pipe.path is empty"},
		"no filters":  {at("1.1.1.1", 1, &listenerv3.FilterChain{}), "filter_chains[0] (): no filters"},
		"weighted":    {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, weighted)}}), "names no cluster"},
		"metadata":    {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, metadata)}}), "metadata_match is not supported"},
		"hash":        {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, hash)}}), "only source_ip is supported"},
		"tunnel":      {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, tunnel)}}), "tunneling_config is not supported yet"},
		"filter":      {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(t, &corev3.Locality{})}}), "not supported yet"},
		"unknown":     {at("1.1.1.1", 1, &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{Name: "f"}}}), "filter f"},
		"prefix":      {at("1.1.1.1", 1, &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: prefix("x", 1)}}), "prefix_ranges"},
		"prefix size": {at("1.1.1.1", 1, &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{PrefixRanges: prefix("10.0.0.0", 99)}}), "prefix_ranges"},
		"transport":   {at("1.1.1.1", 1, &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "quic"}}), `"quic"`},
	} {
		got, err := Compile(c.l)
		if err == nil {
			err = errors.Join(got.Refused...)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestRefusedChain: a chain that can't be served leaves the others, and its own connections, as they are.
func TestRefusedChain(t *testing.T) {
	bad := &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"bad.test"}}}
	good := &listenerv3.FilterChain{FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{"good.test"}},
		Filters: []*listenerv3.Filter{filter(t, tcp("good"))}}
	c := compile(t, at("1.1.1.1", 443, bad, good))
	if ch := c.Chain(Facts{TLS: true, ServerName: "good.test"}); ch == nil || ch.Cluster != "good" {
		t.Errorf("good: %+v", ch)
	}
	if ch := c.Chain(Facts{TLS: true, ServerName: "bad.test"}); ch == nil || ch.To(0) != "" || ch.Routes != "" {
		t.Errorf("bad: %+v", ch)
	}
	if len(c.Refused) != 1 {
		t.Error(c.Refused)
	}
}
