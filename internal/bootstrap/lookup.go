package bootstrap

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	httpdfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/xds"
)

const lookupName = "allow_any_dynamic_dns" // of istiod's route and virtual host

// lookUp makes the listener of all ports send plain HTTP to the snapshot's LookupCluster, where it has one.
func lookUp(l *listenerv3.Listener, s *xds.Snapshot) {
	i := slices.IndexFunc(s.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == xds.LookupCluster })
	if i < 0 || s.RegistryOnly || s.Undeclared != "" {
		return
	}
	l.ListenerFilters = append(l.ListenerFilters, &listenerv3.ListenerFilter{
		Name:       "envoy.filters.listener.http_inspector",
		ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: pack(&httpinspectorv3.HttpInspector{})},
	})
	l.ContinueOnListenerFiltersTimeout = true
	l.FilterChains = append(l.FilterChains, &listenerv3.FilterChain{
		FilterChainMatch: &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"}},
		Filters:          []*listenerv3.Filter{lookupManager(s.Clusters[i])},
	})
}

// lookupManager routes every request to the cluster, as the last virtual host of the ports' own route configurations does.
func lookupManager(c *clusterv3.Cluster) *listenerv3.Filter {
	action := &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c.Name}, Timeout: durationpb.New(0)}
	h := &hcmv3.HttpConnectionManager{
		StatPrefix: "outbound_virtualOutbound_" + lookupName,
		RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: withoutScheme(&routev3.RouteConfiguration{
			Name: lookupName,
			VirtualHosts: []*routev3.VirtualHost{{Name: lookupName, Domains: []string{"*"}, Routes: []*routev3.Route{{
				Name:   lookupName,
				Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
				Action: &routev3.Route_Route{Route: action},
			}}}},
			IgnorePortInHostMatching: true,
		})},
		StreamIdleTimeout:          durationpb.New(0),
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		UseRemoteAddress:           wrapperspb.Bool(false),
		GenerateRequestId:          wrapperspb.Bool(false),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		SkipXffAppend:              true,
	}
	var dfp dfpv3.ClusterConfig
	if c.GetClusterType().GetTypedConfig().UnmarshalTo(&dfp) == nil {
		h.HttpFilters = append(h.HttpFilters, httpFilter("envoy.filters.http.dynamic_forward_proxy", &httpdfpv3.FilterConfig{
			ImplementationSpecifier: &httpdfpv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: dfp.GetDnsCacheConfig()},
		}))
	}
	h.HttpFilters = append(h.HttpFilters, httpFilter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true}))
	return &listenerv3.Filter{Name: hcmName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: pack(h)}}
}

func httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: pack(m)}}
}
