package planetest

import (
	"net/netip"
	"strconv"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

// Protocol is a service port's.
type Protocol uint8

// Protocols.
const (
	HTTP Protocol = iota
	TCP
	TLS
)

// Service is one declared host with one port.
type Service struct {
	Host     string
	Port     uint16
	Protocol Protocol
	// VIP is the address by which the host is reached; without one connections to any address on the port are peeked.
	VIP netip.Addr
	// Endpoints: an entry per priority.
	Endpoints [][]netip.AddrPort
	// Retry is the route's policy; nil with NoRetry false: marked as having none of its own.
	Retry   *routev3.RetryPolicy
	NoRetry bool
	// Outlier turns outlier detection on: ejection at the first 5xx or local failure.
	Outlier bool
	Timeout time.Duration
	// PerTry sets the policy's per_try_timeout.
	ConnectTimeout time.Duration
	StreamIdle     time.Duration
	MaxRequests    uint32
	// Limits are the circuit breaker's; nil: none.
	Limits *clusterv3.CircuitBreakers_Thresholds
}

// Address gives where an application connects to.
func (s Service) Address() netip.AddrPort { return netip.AddrPortFrom(s.VIP, s.Port) }

// ClusterName gives istiod's name of the service's cluster.
func (s Service) ClusterName() string {
	return "outbound|" + strconv.Itoa(int(s.Port)) + "||" + s.Host
}

// One is an HTTP service on svc.test with the given endpoints, one priority each.
func One(endpoints ...netip.AddrPort) Service {
	s := Service{Host: "svc.test", Port: 80, VIP: netip.MustParseAddr("240.240.0.1")}
	for _, e := range endpoints {
		s.Endpoints = append(s.Endpoints, []netip.AddrPort{e})
	}
	return s
}

// Snapshot makes what translate would make of the services, as far as the engine reads it.
func Snapshot(services ...Service) *xds.Snapshot {
	out := &xds.Snapshot{Clusters: []*clusterv3.Cluster{{Name: "PassthroughCluster", ConnectTimeout: durationpb.New(10 * time.Second),
		LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED, ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}}}}
	routes := map[uint16]*routev3.RouteConfiguration{}
	listeners := map[string]*listenerv3.Listener{}
	for _, s := range services {
		out.Clusters = append(out.Clusters, s.cluster())
		if s.VIP.IsValid() {
			out.Names = append(out.Names, xds.Name{Host: s.Host, Addrs: []netip.Addr{s.VIP}})
		}
		name, addr := "0.0.0.0_"+strconv.Itoa(int(s.Port)), "0.0.0.0"
		if s.Protocol == TCP {
			name, addr = s.Address().String(), s.VIP.String()
		}
		l := listeners[name]
		if l == nil {
			l = &listenerv3.Listener{Name: name, Address: address(addr, s.Port)}
			listeners[name] = l
			out.Listeners = append(out.Listeners, l)
		}
		s.listen(l)
		if s.Protocol == HTTP {
			rc := routes[s.Port]
			if rc == nil {
				rc = &routev3.RouteConfiguration{Name: strconv.Itoa(int(s.Port)), IgnorePortInHostMatching: true}
				routes[s.Port] = rc
				out.Routes = append(out.Routes, rc)
			}
			rc.VirtualHosts = append(rc.VirtualHosts, s.virtualHost())
		}
	}
	out.Version = out.Hash()
	return out
}

func (s Service) listen(l *listenerv3.Listener) {
	if !s.VIP.IsValid() {
		l.Metadata = metadata(xds.MetaPeek)
	}
	switch s.Protocol {
	case HTTP:
		if len(l.FilterChains) > 0 {
			return
		}
		hcm := &hcmv3.HttpConnectionManager{StatPrefix: l.Name,
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: strconv.Itoa(int(s.Port))}}}
		if s.StreamIdle > 0 {
			hcm.StreamIdleTimeout = durationpb.New(s.StreamIdle)
		}
		l.FilterChains = []*listenerv3.FilterChain{{FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer"},
			Filters: []*listenerv3.Filter{filter(hcm)}}}
		l.DefaultFilterChain = passthroughChain()
	case TLS:
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{ServerNames: []string{s.Host}}, Filters: []*listenerv3.Filter{s.tcpProxy()}})
		l.DefaultFilterChain = passthroughChain()
	case TCP:
		l.FilterChains = []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{s.tcpProxy()}}}
	}
}

func (s Service) tcpProxy() *listenerv3.Filter {
	return filter(&tcpv3.TcpProxy{StatPrefix: s.ClusterName(), ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: s.ClusterName()}})
}

func passthroughChain() *listenerv3.FilterChain {
	return &listenerv3.FilterChain{Filters: []*listenerv3.Filter{filter(&tcpv3.TcpProxy{StatPrefix: "PassthroughCluster",
		ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: "PassthroughCluster"}})}}
}

func (s Service) virtualHost() *routev3.VirtualHost {
	action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: s.ClusterName()}, RetryPolicy: s.Retry}
	if s.Timeout > 0 {
		action.Timeout = durationpb.New(s.Timeout)
	}
	r := &routev3.Route{Name: "default", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
		Action: &routev3.Route_Route{Route: action}}
	if s.Retry == nil && !s.NoRetry {
		r.Metadata = metadata(xds.MetaDefaultRetry)
	}
	return &routev3.VirtualHost{Name: s.Host + ":" + strconv.Itoa(int(s.Port)), Domains: []string{s.Host}, Routes: []*routev3.Route{r}}
}

func (s Service) cluster() *clusterv3.Cluster {
	c := &clusterv3.Cluster{Name: s.ClusterName(), ConnectTimeout: durationpb.New(10 * time.Second),
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}, LbPolicy: clusterv3.Cluster_ROUND_ROBIN,
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: s.ClusterName()}}
	if s.Limits != nil {
		c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{s.Limits}}
	}
	if s.ConnectTimeout > 0 {
		c.ConnectTimeout = durationpb.New(s.ConnectTimeout)
	}
	for i, tier := range s.Endpoints {
		l := &endpointv3.LocalityLbEndpoints{Priority: uint32(i)}
		for _, a := range tier {
			l.LbEndpoints = append(l.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{
				Endpoint: &endpointv3.Endpoint{Address: address(a.Addr().String(), a.Port())}}})
		}
		c.LoadAssignment.Endpoints = append(c.LoadAssignment.Endpoints, l)
	}
	if s.Outlier {
		c.OutlierDetection = &clusterv3.OutlierDetection{Consecutive_5Xx: wrapperspb.UInt32(1), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100),
			EnforcingSuccessRate: wrapperspb.UInt32(0), MaxEjectionPercent: wrapperspb.UInt32(99),
			Interval: durationpb.New(time.Hour), BaseEjectionTime: durationpb.New(time.Hour)}
	}
	return c
}

func metadata(field string) *corev3.Metadata {
	return &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
		xds.MetadataKey: {Fields: map[string]*structpb.Value{field: structpb.NewBoolValue(true)}}}}
}

func address(ip string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}
}

func filter(m proto.Message) *listenerv3.Filter {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return &listenerv3.Filter{Name: string(m.ProtoReflect().Descriptor().FullName()), ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: a}}
}
