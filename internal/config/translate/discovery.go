package translate

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	commondfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	networking "istio.io/api/networking/v1alpha3"
)

var istioFamily = map[addressFamily]clusterv3.Cluster_DnsLookupFamily{
	familyV4:  clusterv3.Cluster_V4_ONLY,
	familyV6:  clusterv3.Cluster_V6_ONLY,
	familyAll: clusterv3.Cluster_ALL,
}

// resolveByName makes a cluster look its endpoints' names up: every address an endpoint (DNS), or the first only and a new
// one for each connection (DNS_ROUND_ROBIN).
func (c *compiler) resolveByName(cl *clusterv3.Cluster, cc *clusterContext) {
	r, family := cc.service.spec.Resolution, c.lookupFamily()
	if races(cc.service) && (len(cc.members) == 1 || c.group.CompatIstio) {
		// Envoy takes one name only for such a cluster, and refuses what istiod makes of several.
		r, family = networking.ServiceEntry_DNS_ROUND_ROBIN, familyAll
	}
	if !c.group.CompatIstio {
		c.typedDNSCluster(cl, r, family)
		return
	}
	t := clusterv3.Cluster_STRICT_DNS
	if r == networking.ServiceEntry_DNS_ROUND_ROBIN {
		t = clusterv3.Cluster_LOGICAL_DNS
	}
	cl.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: t}
	cl.DnsLookupFamily = istioFamily[family]
	cl.DnsRefreshRate = c.mesh.dnsRefresh
	cl.RespectDnsTtl = true
	cl.DnsJitter = dnsJitter()
}

// connectStrategy, on a ServiceEntry, asks with the value raceFirst that connections to all addresses of its name be raced.
const (
	connectStrategy = "istio.io/connect-strategy"
	raceFirst       = "RACE_FIRST_TCP_CONNECT"
)

// races tells whether a service's annotation asks for racing.
func races(s *service) bool {
	return strings.EqualFold(s.first.Annotations[connectStrategy], raceFirst)
}

// forwardDynamically makes a cluster that looks up whatever name a request or a ClientHello carries (DYNAMIC_DNS).
func (c *compiler) forwardDynamically(cl *clusterv3.Cluster, host string) {
	cl.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dynamic_forward_proxy",
		TypedConfig: mustAny(&dfpv3.ClusterConfig{ClusterImplementationSpecifier: &dfpv3.ClusterConfig_DnsCacheConfig{
			DnsCacheConfig: c.dnsCache(host),
		}}),
	}}
	cl.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
	cl.CommonLbConfig = nil
}

// dnsCache is the cache that a dynamic cluster shares with the filter that fills it.
func (c *compiler) dnsCache(host string) *commondfpv3.DnsCacheConfig {
	return &commondfpv3.DnsCacheConfig{Name: host + "_dfp_dns_cache", DnsLookupFamily: istioFamily[c.lookupFamily()]}
}
