package bootstrap

import (
	"cmp"
	"fmt"
	"net/netip"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

const (
	hcmName      = "envoy.filters.network.http_connection_manager"
	tcpProxyName = "envoy.filters.network.tcp_proxy"
	// allPorts is the listener that hands connections to those of their original destination, as istiod calls it.
	allPorts        = "virtualOutbound"
	passthroughName = "PassthroughCluster"
	blackHoleName   = "BlackHoleCluster"
)

// listeners gives the snapshot's listeners with their routes inline, bound where Options say so, and before them the one
// that takes redirected connections.
func listeners(s *xds.Snapshot, o Options) ([]*listenerv3.Listener, error) {
	if err := unknown(s, o); err != nil {
		return nil, err
	}
	routes := make(map[string]*routev3.RouteConfiguration, len(s.Routes))
	for _, r := range s.Routes {
		routes[r.Name] = withoutScheme(r)
	}
	var out []*listenerv3.Listener
	if o.Listen.IsValid() {
		out = append(out, redirected(o.Listen, s))
	}
	for _, l := range s.Listeners {
		l = proto.CloneOf(l)
		if at, ok := o.Bind[l.Name]; ok {
			l.Address, l.BindToPort = address(at), wrapperspb.Bool(true)
		}
		for _, fc := range append(l.FilterChains, l.DefaultFilterChain) {
			if err := inlineRoutes(fc, routes); err != nil {
				return nil, fmt.Errorf("%s: %w", l.Name, err)
			}
		}
		out = append(out, l)
	}
	return out, nil
}

// withoutScheme takes away the one header that Envoy adds whatever it is told: x-forwarded-proto. A client's own goes too.
func withoutScheme(r *routev3.RouteConfiguration) *routev3.RouteConfiguration {
	r = proto.CloneOf(r)
	r.RequestHeadersToRemove = append(r.RequestHeadersToRemove, "x-forwarded-proto")
	return r
}

// inlineRoutes puts route configurations where RDS is named.
func inlineRoutes(fc *listenerv3.FilterChain, routes map[string]*routev3.RouteConfiguration) error {
	for _, f := range fc.GetFilters() {
		if f.Name != hcmName {
			continue
		}
		var h hcmv3.HttpConnectionManager
		if err := f.GetTypedConfig().UnmarshalTo(&h); err != nil {
			return err
		}
		name := h.GetRds().GetRouteConfigName()
		if h.GetRds() == nil {
			continue
		}
		if routes[name] == nil {
			return fmt.Errorf("there is no route configuration %q", name)
		}
		h.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes[name]}
		f.ConfigType = &listenerv3.Filter_TypedConfig{TypedConfig: pack(&h)}
	}
	return nil
}

// redirected takes every connection that is sent to it by a REDIRECT rule. What no listener declares goes where it wanted
// to go, to the snapshot's Undeclared, or nowhere; what was sent to the port itself would come back for ever, and goes nowhere.
func redirected(at netip.AddrPort, s *xds.Snapshot) *listenerv3.Listener {
	rest := cmp.Or(s.Undeclared, passthroughName)
	if s.RegistryOnly {
		rest = blackHoleName
	}
	l := &listenerv3.Listener{
		Name:             allPorts,
		Address:          address(at),
		UseOriginalDst:   wrapperspb.Bool(true),
		TrafficDirection: corev3.TrafficDirection_OUTBOUND,
		ListenerFilters: []*listenerv3.ListenerFilter{{
			Name:       "envoy.filters.listener.original_dst",
			ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&originaldstv3.OriginalDst{})},
		}},
		FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{relay(rest)}}},
	}
	lookUp(l, s)
	if at.Port() != 0 { // else the port is not known yet
		l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{DestinationPort: wrapperspb.UInt32(uint32(at.Port())), PrefixRanges: own(at.Addr())},
			Filters:          []*listenerv3.Filter{relay(blackHoleName)},
		})
	}
	return l
}

// own is the listener's address, or every one where it is bound to all.
func own(a netip.Addr) []*corev3.CidrRange {
	if a.IsUnspecified() {
		return nil
	}
	return []*corev3.CidrRange{{AddressPrefix: a.String(), PrefixLen: wrapperspb.UInt32(uint32(a.BitLen()))}}
}

func relay(cluster string) *listenerv3.Filter {
	return &listenerv3.Filter{Name: tcpProxyName, ConfigType: &listenerv3.Filter_TypedConfig{
		TypedConfig: pack(&tcpv3.TcpProxy{StatPrefix: cluster, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}),
	}}
}
