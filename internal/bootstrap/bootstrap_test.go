package bootstrap

import (
	"net/netip"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

func snapshot() *xds.Snapshot {
	hcm := &hcmv3.HttpConnectionManager{StatPrefix: "x", RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: "80"}}}
	http := &listenerv3.Filter{Name: hcmName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(hcm)}}
	eds := func(name, service string) *clusterv3.Cluster {
		return &clusterv3.Cluster{Name: name, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: service}}
	}
	return &xds.Snapshot{
		Clusters: []*clusterv3.Cluster{
			eds("a", "a"), eds("b", "other"), eds("c", ""),
			{Name: "dns", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}},
		},
		Endpoints: []*endpointv3.ClusterLoadAssignment{
			{ClusterName: "a", Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: 0}, {Priority: 1}}},
			{ClusterName: "other", Endpoints: []*endpointv3.LocalityLbEndpoints{{}}},
		},
		Listeners: []*listenerv3.Listener{{
			Name: "0.0.0.0_80", Address: address(netip.MustParseAddrPort("0.0.0.0:80")), BindToPort: wrapperspb.Bool(false),
			FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{http}}},
		}},
		Routes: []*routev3.RouteConfiguration{{Name: "80", VirtualHosts: []*routev3.VirtualHost{{Name: "v", Domains: []string{"*"}}}}},
	}
}

func static(t *testing.T, s *xds.Snapshot, o Options) *bootstrapv3.Bootstrap {
	t.Helper()
	b, err := Static(s, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStaticInlinesEndpointsAndRoutes(t *testing.T) {
	s := snapshot()
	before := s.Hash()
	b := static(t, s, Options{})
	if s.Hash() != before {
		t.Error("the snapshot was changed")
	}
	want := map[string]int{"a": 2, "b": 1, "c": 0}
	for _, c := range b.StaticResources.Clusters {
		n, eds := want[c.Name]
		if !eds {
			if c.GetType() != clusterv3.Cluster_STRICT_DNS {
				t.Errorf("%s became %v", c.Name, c.GetType())
			}
			continue
		}
		if c.GetType() != clusterv3.Cluster_STATIC || c.EdsClusterConfig != nil || len(c.LoadAssignment.Endpoints) != n {
			t.Errorf("%v, want %d groups", c, n)
		}
	}
	var h hcmv3.HttpConnectionManager
	if err := b.StaticResources.Listeners[0].FilterChains[0].Filters[0].GetTypedConfig().UnmarshalTo(&h); err != nil {
		t.Fatal(err)
	}
	rc := proto.CloneOf(h.GetRouteConfig())
	if rc == nil || rc.RequestHeadersToRemove[0] != "x-forwarded-proto" {
		t.Fatalf("routes are %v", rc)
	}
	if rc.RequestHeadersToRemove = nil; !proto.Equal(rc, s.Routes[0]) {
		t.Errorf("routes are %v", rc)
	}
	if b.Admin != nil || b.TypedDnsResolverConfig != nil || len(b.StaticResources.Listeners) != 1 || b.StaticResources.Listeners[0].BindToPort.GetValue() {
		t.Errorf("what nobody asked for: %v", b)
	}
}

func TestStaticOptions(t *testing.T) {
	at := netip.MustParseAddrPort
	b := static(t, snapshot(), Options{
		Group: xds.NodeGroup{Locality: &corev3.Locality{Region: "r"}, Labels: map[string]string{"k": "v"}, Namespace: "n"},
		Admin: at("127.0.0.1:1"), Listen: at("127.0.0.1:2"), Resolver: at("127.0.0.1:3"),
		Bind: map[string]netip.AddrPort{"0.0.0.0_80": at("127.0.0.1:4")},
	})
	ls := b.StaticResources.Listeners
	if ls[0].Name != allPorts || !ls[0].UseOriginalDst.GetValue() || ls[0].Address.GetSocketAddress().GetPortValue() != 2 || len(ls[0].FilterChains) != 2 {
		t.Errorf("redirected: %v", ls[0])
	}
	if !ls[1].BindToPort.GetValue() || ls[1].Address.GetSocketAddress().GetPortValue() != 4 {
		t.Errorf("bound: %v", ls[1])
	}
	if b.Admin.Address.GetSocketAddress().GetPortValue() != 1 || b.TypedDnsResolverConfig == nil {
		t.Errorf("%v", b)
	}
	n := b.Node
	if n.Locality.Region != "r" || n.Metadata.Fields["NAMESPACE"].GetStringValue() != "n" ||
		n.Metadata.Fields["LABELS"].GetStructValue().Fields["k"].GetStringValue() != "v" {
		t.Errorf("node: %v", n)
	}
}

// TestUndeclared: connections that no listener takes go on, or end where only declared ones may.
func TestUndeclared(t *testing.T) {
	for registryOnly, want := range map[bool]string{false: passthroughName, true: blackHoleName} {
		s := snapshot()
		s.RegistryOnly = registryOnly
		l := static(t, s, Options{Listen: netip.MustParseAddrPort("127.0.0.1:2")}).StaticResources.Listeners[0]
		if got, exp := l.FilterChains[0].Filters[0], relay(want); !proto.Equal(got, exp) {
			t.Errorf("registry only %v: %v", registryOnly, got)
		}
	}
}

func TestUnknownNames(t *testing.T) {
	if _, err := Static(snapshot(), Options{Bind: map[string]netip.AddrPort{"0.0.0.0_81": {}}}); err == nil {
		t.Error("a listener that does not exist was bound")
	}
	s := snapshot()
	s.Routes = nil
	if _, err := Static(s, Options{}); err == nil {
		t.Error("routes that do not exist were found")
	}
}
