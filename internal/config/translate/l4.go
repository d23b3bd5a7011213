package translate

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	mongov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/mongo_proxy/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// planner gives the plan of a listener, made on first use.
type planner func(address string, port uint32) *listenerPlan

// planTLS adds a TLS or HTTPS port: a chain by SNI on 0.0.0.0_PORT. A host with addresses gets a chain by address beside it,
// for clients that send no SNI; istiod gives such a host a listener of its own without a chain by SNI.
func (c *compiler) planTLS(plan planner, s *service, p servicePort) {
	single := slices.IndexFunc(s.vips, netip.Prefix.IsSingleIP)
	if c.group.CompatIstio && single >= 0 {
		c.planAddress(plan(s.vips[single].Addr().String(), p.number), s, p)
		return
	}
	pl := plan(c.anyAddress(), p.number)
	if pl.all != nil {
		c.conflict(s, p, pl.all)
		return
	}
	pl.peek = pl.peek || len(s.vips) == 0
	if c.planSNIRoutes(pl, s, p) {
		return
	}
	filters := c.tcpFilters(s, p, clusterName(p.number, "", s.host))
	if s.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
		filters = append([]*listenerv3.Filter{c.sniForwarder(s, p)}, filters...)
	}
	pl.add(chain(&listenerv3.FilterChainMatch{ServerNames: []string{s.host}}, filters))
	if len(s.vips) > 0 && !c.group.CompatIstio {
		pl.add(chain(&listenerv3.FilterChainMatch{PrefixRanges: prefixRanges(s.vips...)}, filters))
	}
}

// planSNIRoutes adds the chains that VirtualServices' tls rules ask for; false when there are none for the port.
func (c *compiler) planSNIRoutes(pl *listenerPlan, s *service, p servicePort) bool {
	found := false
	if s.refused != nil {
		return false
	}
	for _, o := range s.routers {
		for _, rule := range o.Spec.(*networking.VirtualService).Tls {
			for _, m := range rule.Match {
				if m.Port != 0 && m.Port != p.number || !forSidecars(m.Gateways) || !c.isSource(m.SourceLabels, m.SourceNamespace) {
					continue
				}
				match := &listenerv3.FilterChainMatch{ServerNames: m.SniHosts}
				for _, d := range m.DestinationSubnets {
					if pre, ok := parsePrefix(d); ok {
						match.PrefixRanges = append(match.PrefixRanges, prefixRanges(pre)...)
					}
				}
				found = true
				pl.add(chain(match, c.routedFilters(s, p, rule.Route)))
			}
		}
	}
	return found
}

// isSource tells whether the group is among the callers that a match names.
func (c *compiler) isSource(labels map[string]string, namespace string) bool {
	return labelsInclude(c.group.Labels, labels) && (namespace == "" || namespace == c.group.Namespace)
}

// planTCP adds a TCP port: a listener for every address, chains by prefix on 0.0.0.0_PORT for ranges.
func (c *compiler) planTCP(plan planner, s *service, p servicePort) {
	var ranges []netip.Prefix
	placed := false
	for _, v := range s.vips {
		if !v.IsSingleIP() {
			ranges = append(ranges, v)
			continue
		}
		placed = true
		c.planAddress(plan(v.Addr().String(), p.number), s, p)
	}
	if len(ranges) > 0 {
		pl := plan(c.anyAddress(), p.number)
		if pl.all != nil {
			c.conflict(s, p, pl.all)
			return
		}
		pl.add(chain(&listenerv3.FilterChainMatch{PrefixRanges: prefixRanges(ranges...)}, c.l4Filters(s, p)))
		return
	}
	if !placed {
		c.planAnyAddress(plan, s, p)
	}
}

// planAddress gives a service all connections to one of its addresses.
func (c *compiler) planAddress(pl *listenerPlan, s *service, p servicePort) {
	if pl.all != nil {
		c.conflict(s, p, pl.all)
		return
	}
	pl.all = s
	pl.add(chain(nil, c.l4Filters(s, p)))
}

// l4Filters gives the filters of a port that is not routed by request: where a VirtualService's tcp rules lead, else to
// the service's own cluster.
func (c *compiler) l4Filters(s *service, p servicePort) []*listenerv3.Filter {
	if s.refused == nil {
		for _, o := range s.routers {
			for _, rule := range o.Spec.(*networking.VirtualService).Tcp {
				if c.tcpRuleApplies(rule, p) {
					return c.routedFilters(s, p, rule.Route)
				}
			}
		}
	}
	return c.tcpFilters(s, p, clusterName(p.number, "", s.host))
}

func (c *compiler) tcpRuleApplies(rule *networking.TCPRoute, p servicePort) bool {
	return len(rule.Match) == 0 || slices.ContainsFunc(rule.Match, func(m *networking.L4MatchAttributes) bool {
		return (m.Port == 0 || m.Port == p.number) && forSidecars(m.Gateways) && c.isSource(m.SourceLabels, m.SourceNamespace)
	})
}

// tcpFilters relays bytes to one cluster.
func (c *compiler) tcpFilters(s *service, p servicePort, cluster string) []*listenerv3.Filter {
	t := &tcpv3.TcpProxy{StatPrefix: cluster, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
	return c.relay(s, p, t)
}

// routedFilters relays bytes where a rule of a VirtualService leads.
func (c *compiler) routedFilters(s *service, p servicePort, dests []*networking.RouteDestination) []*listenerv3.Filter {
	if len(dests) == 1 {
		return c.tcpFilters(s, p, c.destinationCluster(dests[0].Destination, p))
	}
	w := &tcpv3.TcpProxy_WeightedCluster{}
	for _, d := range dests {
		if d.Weight > 0 {
			w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{
				Name: c.destinationCluster(d.Destination, p), Weight: uint32(d.Weight),
			})
		}
	}
	return c.relay(s, p, &tcpv3.TcpProxy{StatPrefix: s.host, ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}})
}

// relay finishes a tcp_proxy: the life of its connections comes from the top-level connectionPool.tcp even where
// portLevelSettings replace the cluster's (SEMANTICS §5), and Mongo is watched on its way.
func (c *compiler) relay(s *service, p servicePort, t *tcpv3.TcpProxy) []*listenerv3.Filter {
	if s.rule != nil {
		tcp := s.rule.policy.GetConnectionPool().GetTcp()
		t.IdleTimeout, t.MaxDownstreamConnectionDuration = tcp.GetIdleTimeout(), tcp.GetMaxConnectionDuration()
		if tn := s.rule.policy.GetTunnel(); tn != nil {
			t.TunnelingConfig = tunnelling(tn)
		}
	}
	t.HashPolicy = connectionHash(s.rule.policyFor(p.number, nil))
	out := []*listenerv3.Filter{tcpProxy(t)}
	if p.protocol == mongo {
		m := &listenerv3.Filter{Name: "envoy.filters.network.mongo_proxy", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: mustAny(&mongov3.MongoProxy{StatPrefix: t.StatPrefix}),
		}}
		out = append([]*listenerv3.Filter{m}, out...)
	}
	return out
}

// sniForwarder fills the DNS cache of a dynamic cluster from the ClientHello's name.
func (c *compiler) sniForwarder(s *service, p servicePort) *listenerv3.Filter {
	return &listenerv3.Filter{
		Name: "envoy.extensions.filters.network.sni_dynamic_forward_proxy",
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(&snidfpv3.FilterConfig{
			DnsCacheConfig: c.dnsCache(s.host),
			PortSpecifier:  &snidfpv3.FilterConfig_PortValue{PortValue: p.number},
		})},
	}
}

// tunnelling asks for a CONNECT (or POST) to the target before any byte is relayed.
func tunnelling(tn *networking.TrafficPolicy_TunnelSettings) *tcpv3.TcpProxy_TunnelingConfig {
	return &tcpv3.TcpProxy_TunnelingConfig{Hostname: net.JoinHostPort(tn.TargetHost, strconv.FormatUint(uint64(tn.TargetPort), 10)), UsePost: tn.Protocol == "POST"}
}

// unreachable tells that no connection can be recognised as meant for a TCP host without addresses.
func (c *compiler) unreachable(s *service, p servicePort) {
	c.report(config.Warningf(s.first, CodeUnreachableHost, "spec.addresses",
		"port %d of %s carries no host name and the host has no address here, so no connection can be known as meant for it; state `addresses`, or let detour allocate one (resolution other than NONE, in run and proxy)",
		p.number, s.host))
}
