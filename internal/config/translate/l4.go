package translate

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	mongov3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/mongo_proxy/v3"
	snidfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/sni_dynamic_forward_proxy/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// addTLS adds a TLS or HTTPS port: a chain by SNI on 0.0.0.0_PORT. A host with addresses gets a chain by address beside it,
// for clients that send no SNI; istiod gives each address a listener of its own instead, without SNI.
func (b *listenerBuilder) addTLS(e *egress, s *service, p servicePort) {
	if !b.c.group.CompatIstio {
		chains := b.c.tlsChains(s, p, nil, true)
		chains = append(chains, b.tlsByAddress(s, p, chains)...)
		b.addConnections(e, s, p, b.c.anyAddress(), chains)
		return
	}
	b.each(s, p, func(address string, ranges []netip.Prefix) {
		b.addConnections(e, s, p, address, b.c.tlsChains(s, p, ranges, address == b.c.anyAddress()))
	})
}

// tlsByAddress gives the chains by address that go beside a TLS port's chains by SNI. An address counts before the SNI
// (FilterChainMatch), so the names stand there too where one address has several: rules of a VirtualService, or hosts that
// state the same address. The first of these gets who sends no name.
func (b *listenerBuilder) tlsByAddress(s *service, p servicePort, named []*chainPlan) []*chainPlan {
	if len(s.vips) == 0 {
		return nil
	}
	var out []*chainPlan
	if len(named) > 1 || len(s.spec.Addresses) > 0 {
		for _, ch := range named {
			if len(ch.ranges) == 0 && len(ch.sni) > 0 {
				out = append(out, &chainPlan{sni: ch.sni, ranges: s.vips, filters: ch.filters})
			}
		}
	}
	nameless := &chainPlan{ranges: s.vips, filters: named[len(named)-1].filters}
	if pl := b.plans[listenerName(b.c.anyAddress(), p.number)]; pl != nil && len(out) > 0 &&
		slices.ContainsFunc(pl.chains, func(have *chainPlan) bool { return have.key() == nameless.key() }) {
		return out
	}
	return append(out, nameless)
}

// addTCP adds a TCP port: a listener for every address, chains by prefix on 0.0.0.0_PORT for ranges.
func (b *listenerBuilder) addTCP(e *egress, s *service, p servicePort) {
	if len(s.vips) == 0 && !b.c.takesAnyAddress() {
		b.c.unreachable(s, p)
		return
	}
	b.each(s, p, func(address string, ranges []netip.Prefix) {
		b.addConnections(e, s, p, address, b.c.tcpChains(s, p, ranges))
	})
}

// tlsChains gives the chains of a TLS port: what VirtualServices' tls rules ask for, else one to the service's own cluster,
// matched by SNI where the address does not tell.
func (c *compiler) tlsChains(s *service, p servicePort, ranges []netip.Prefix, bySNI bool) []*chainPlan {
	var out []*chainPlan
	if s.refused == nil {
		out = c.sniRoutes(s, p, ranges)
	}
	if len(out) > 0 {
		return out
	}
	ch := &chainPlan{ranges: ranges, filters: c.tcpFilters(s, p)}
	if bySNI || s.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
		ch.sni = []string{s.host}
	}
	return []*chainPlan{ch}
}

// sniRoutes gives the chains of VirtualServices' tls rules for a port.
func (c *compiler) sniRoutes(s *service, p servicePort, ranges []netip.Prefix) []*chainPlan {
	var out []*chainPlan
	for _, o := range s.relays {
		for _, rule := range o.Spec.(*networking.VirtualService).Tls {
			for _, m := range rule.Match {
				if len(rule.Route) == 0 || m.Port != 0 && m.Port != p.number || !forSidecars(m.Gateways) || !c.isSource(m.SourceLabels, m.SourceNamespace) {
					continue
				}
				ch := &chainPlan{sni: m.SniHosts, ranges: ranges, filters: c.routedFilters(o, p, rule.Route)}
				if len(m.DestinationSubnets) > 0 && p.number > 0 {
					ch.ranges = prefixes(m.DestinationSubnets)
					ranges = c.afterSubnets(ranges, ch.ranges)
				}
				if !slices.ContainsFunc(out, func(have *chainPlan) bool { return have.key() == ch.key() }) {
					out = append(out, ch)
				}
			}
		}
	}
	return out
}

// prefixes reads addresses and ranges.
func prefixes(list []string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range list {
		if p, ok := parsePrefix(s); ok {
			out = append(out, p)
		}
	}
	return out
}

// isSource tells whether the group is among the callers that a match names.
func (c *compiler) isSource(labels map[string]string, namespace string) bool {
	return labelsInclude(c.group.Labels, labels) && (namespace == "" || namespace == c.group.Namespace)
}

// tcpChains gives the chains of a port that is not routed by request or name: those of VirtualServices' tcp rules, up to the
// first rule that takes every destination, else one to the service's own cluster.
func (c *compiler) tcpChains(s *service, p servicePort, ranges []netip.Prefix) []*chainPlan {
	var out []*chainPlan
	if s.refused == nil {
		for _, o := range s.relays {
			for _, rule := range o.Spec.(*networking.VirtualService).Tcp {
				if len(rule.Route) == 0 {
					continue
				}
				subnets, applies := c.tcpRule(rule, p)
				if !applies {
					continue
				}
				ch := &chainPlan{ranges: ranges, filters: c.routedFilters(o, p, rule.Route)}
				if len(subnets) == 0 {
					return append(out, ch)
				}
				ch.ranges = subnets
				out = append(out, ch)
			}
		}
	}
	own := &chainPlan{ranges: ranges, filters: c.tcpFilters(s, p)}
	if slices.ContainsFunc(out, func(have *chainPlan) bool { return have.key() == own.key() }) {
		return out
	}
	return append(out, own)
}

// tcpRule tells whether a rule is for a port and this caller, and to which destinations it is limited; none means all.
func (c *compiler) tcpRule(rule *networking.TCPRoute, p servicePort) (subnets []netip.Prefix, applies bool) {
	if len(rule.Match) == 0 {
		return nil, true
	}
	for _, m := range rule.Match {
		if m.Port != 0 && m.Port != p.number || !forSidecars(m.Gateways) || !c.isSource(m.SourceLabels, m.SourceNamespace) {
			continue
		}
		if len(m.DestinationSubnets) == 0 || p.number == 0 {
			return nil, true
		}
		applies = true
		subnets = append(subnets, prefixes(m.DestinationSubnets)...)
	}
	slices.SortStableFunc(subnets, func(a, b netip.Prefix) int { return strings.Compare(a.String(), b.String()) })
	return subnets, applies
}

// tcpFilters relays bytes to a service's own cluster: on the port the connection came to, or the service's only one.
func (c *compiler) tcpFilters(s *service, p servicePort) []*listenerv3.Filter {
	port := p.number
	if len(s.ports) == 1 {
		port = s.ports[0].number
	}
	cluster := clusterName(port, "", s.host)
	t := &tcpv3.TcpProxy{StatPrefix: cluster, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
	out := relay(s.rule, "", p, t)
	if s.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
		out = append([]*listenerv3.Filter{c.sniForwarder(s, p)}, out...)
	}
	return out
}

// routedFilters relays bytes where a rule of a VirtualService leads. How connections live comes from the first
// destination's DestinationRule.
func (c *compiler) routedFilters(o *config.Object, p servicePort, dests []*networking.RouteDestination) []*listenerv3.Filter {
	var r *rule
	if s := c.lookup(dests[0].GetDestination().GetHost()); s != nil {
		r = s.rule
	}
	if len(dests) == 1 {
		cluster := c.relayCluster(dests[0].Destination, p)
		t := &tcpv3.TcpProxy{StatPrefix: cluster, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: cluster}}
		return relay(r, dests[0].GetDestination().GetSubset(), p, t)
	}
	w := &tcpv3.TcpProxy_WeightedCluster{}
	for _, d := range dests {
		if d.Weight > 0 {
			w.Clusters = append(w.Clusters, &tcpv3.TcpProxy_WeightedCluster_ClusterWeight{
				Name: c.relayCluster(d.Destination, p), Weight: uint32(d.Weight),
			})
		}
	}
	return relay(r, "", p, &tcpv3.TcpProxy{StatPrefix: o.Name + "." + o.Namespace, ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: w}})
}

// relay finishes a tcp_proxy: the life of its connections comes from the top-level connectionPool.tcp even where
// portLevelSettings replace the cluster's (SEMANTICS §5), a tunnel from the subset, and Mongo is watched on its way.
func relay(r *rule, subset string, p servicePort, t *tcpv3.TcpProxy) []*listenerv3.Filter {
	if r != nil {
		tcp := r.policy.GetConnectionPool().GetTcp()
		t.IdleTimeout, t.MaxDownstreamConnectionDuration = tcp.GetIdleTimeout(), tcp.GetMaxConnectionDuration()
		if tn := r.tunnel(subset); tn != nil {
			t.TunnelingConfig = tunnelling(tn)
		}
	}
	t.HashPolicy = connectionHash(r, subset)
	out := []*listenerv3.Filter{tcpProxy(t)}
	if p.protocol == mongo {
		m := &listenerv3.Filter{Name: "envoy.filters.network.mongo_proxy", ConfigType: &listenerv3.Filter_TypedConfig{
			TypedConfig: mustAny(&mongov3.MongoProxy{StatPrefix: t.StatPrefix}),
		}}
		out = append([]*listenerv3.Filter{m}, out...)
	}
	return out
}

// tunnel gives the tunnel of a subset, or of the whole rule where no subset is meant.
func (r *rule) tunnel(subset string) *networking.TrafficPolicy_TunnelSettings {
	if subset == "" {
		return r.policy.GetTunnel()
	}
	for _, s := range r.subsets {
		if s.Name == subset {
			return s.TrafficPolicy.GetTunnel()
		}
	}
	return nil
}

const sniForwarderName = "envoy.extensions.filters.network.sni_dynamic_forward_proxy"

// sniForwarder fills the DNS cache of a dynamic cluster from the ClientHello's name.
func (c *compiler) sniForwarder(s *service, p servicePort) *listenerv3.Filter {
	return &listenerv3.Filter{
		Name: sniForwarderName,
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
	c.read(s)
	c.warn(s.first, CodeUnreachableHost, "spec.addresses",
		"port %d of %s carries no host name and the host has no address here, so no connection can be known as meant for it; state `addresses`, or let detour allocate one (resolution other than NONE, in run and proxy)",
		p.number, s.host)
}
