package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	commondfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	httpdfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/dynamic_forward_proxy/v3"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/xds"
)

// What istiod does with MeshConfig's ALLOW_ANY_DYNAMIC_DNS (core/cluster_builder.go, networkfilter.go, httproute.go): the last
// virtual host of every port leads to a dynamic forward proxy cluster, which looks the request's Host up, and every HTTP
// connection manager has the filter that goes with it. `tls` is originated there. What is not plain HTTP passes as with
// ALLOW_ANY.

const (
	lookupFilterName = "envoy.filters.http.dynamic_forward_proxy"
	lookupCacheName  = "allow_any_dfp_dns_cache"
	lookupMaxHosts   = 1024 // PILOT_ALLOW_ANY_DYNAMIC_DNS_MAX_HOSTS
)

// lookupCluster carries requests for hosts that nobody declared to where their Host resolves to.
func (c *compiler) lookupCluster() *clusterv3.Cluster {
	t := c.mesh.lookupTLS
	cl := c.passthroughCluster()
	cl.Name, cl.AltStatName = xds.LookupCluster, xds.LookupCluster+";"
	if c.withholdsLookup() {
		// Whatever is sent here has nowhere to go: 503.
		cl.LbPolicy, cl.TypedExtensionProtocolOptions = 0, nil
		cl.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
		return cl
	}
	cl.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dynamic_forward_proxy",
		TypedConfig: mustAny(&dfpv3.ClusterConfig{
			ClusterImplementationSpecifier: &dfpv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: c.lookupCache()},
			AllowInsecureClusterOptions:    t.GetMode() == networking.ClientTLSSettings_DISABLE,
		}),
	}}
	c.originateLookup(cl, t)
	return cl
}

// withholdsLookup tells that nothing may be sent to undeclared hosts, for TLS was asked for with what only a mesh or
// Kubernetes holds (compare blocked).
func (c *compiler) withholdsLookup() bool {
	t := c.mesh.lookupTLS
	return !c.group.CompatIstio && (t.GetMode() == networking.ClientTLSSettings_ISTIO_MUTUAL || originates(t) && t.CredentialName != "")
}

// originateLookup writes outboundTrafficPolicy.tls, with names that follow the request unless they are stated.
func (c *compiler) originateLookup(cl *clusterv3.Cluster, t *networking.ClientTLSSettings) {
	cc := &clusterContext{
		service: &service{host: xds.LookupCluster, rule: &rule{}, spec: &networking.ServiceEntry{Resolution: networking.ServiceEntry_DYNAMIC_DNS}},
		port:    servicePort{protocol: plainHTTP}, policy: policy{tls: t},
	}
	if t.GetMode() == networking.ClientTLSSettings_DISABLE {
		return
	}
	ctx := c.tlsContext(cc, cl)
	if ctx == nil {
		return
	}
	cl.TransportSocket = &corev3.TransportSocket{Name: tlsSocketName, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(ctx)}}
	if cc.options != nil {
		cl.TypedExtensionProtocolOptions = nil
		applyProtocol(cc, cl)
	}
}

func (c *compiler) lookupCache() *commondfpv3.DnsCacheConfig {
	return &commondfpv3.DnsCacheConfig{Name: lookupCacheName, DnsLookupFamily: istioFamily[c.lookupFamily()], MaxHosts: number(lookupMaxHosts)}
}

// lookupFilter fills the cache of the cluster from the request's Host.
func (c *compiler) lookupFilter() *httpdfpv3.FilterConfig {
	return &httpdfpv3.FilterConfig{ImplementationSpecifier: &httpdfpv3.FilterConfig_DnsCacheConfig{DnsCacheConfig: c.lookupCache()}}
}
