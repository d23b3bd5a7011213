package translate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// What istiod does (core/listener.go; SEMANTICS §1.6, §3, §5): 0.0.0.0_PORT for HTTP ports and for TLS ports of hosts without
// an address, ADDRESS_PORT for TCP and TLS ports of hosts with one, 0.0.0.0_PORT with a chain by prefix for address ranges
// and without one for TCP hosts without addresses. An HTTP chain takes raw_buffer connections that look like HTTP and asks
// RDS for the port's routes; TLS chains match by SNI; what no chain takes goes to Passthrough or BlackHole. No listener
// binds: connections are handed to them by their original destination.

const (
	hcmName           = "envoy.filters.network.http_connection_manager"
	tcpProxyName      = "envoy.filters.network.tcp_proxy"
	routerName        = "envoy.filters.http.router"
	httpInspectorName = "envoy.filters.listener.http_inspector"
	tlsInspectorName  = "envoy.filters.listener.tls_inspector"
)

// listenerPlan is one listener while services add their chains to it.
type listenerPlan struct {
	address string
	port    uint32
	http    *listenerv3.FilterChain   // the chain for requests; nil when no service of the port speaks HTTP
	chains  []*listenerv3.FilterChain // by SNI or address, first come first served
	rest    *listenerv3.FilterChain   // of a port without protocol: what does not look like HTTP
	all     *service                  // a TCP service without addresses: takes every connection of the port
	peek    bool                      // a host without addresses of its own can be meant by connections to any address
	seen    map[string]bool           // matches of chains, so that none occurs twice
}

// listeners makes the listeners of all ports.
func (c *compiler) listeners() []*listenerv3.Listener {
	plans := map[string]*listenerPlan{}
	plan := func(address string, port uint32) *listenerPlan {
		name := listenerName(address, port)
		if plans[name] == nil {
			plans[name] = &listenerPlan{address: address, port: port, seen: map[string]bool{}}
		}
		return plans[name]
	}
	for _, s := range c.services {
		for _, p := range s.ports {
			switch p.protocol {
			case datagram:
			case plainHTTP, http2, sniffed:
				c.planHTTP(plan(c.anyAddress(), p.number), s, p)
			case opaqueTLS:
				c.planTLS(plan, s, p)
			default:
				c.planTCP(plan, s, p)
			}
		}
	}
	var out []*listenerv3.Listener
	for _, name := range sortedKeys(plans) {
		if l := c.listener(plans[name]); l != nil {
			out = append(out, l)
		}
	}
	return out
}

// anyAddress is the wildcard the group's listeners have.
func (c *compiler) anyAddress() string {
	if c.group.CompatIstio && c.group.IPv6 && !c.group.IPv4 {
		return anyV6
	}
	return anyV4
}

func (c *compiler) planHTTP(pl *listenerPlan, s *service, p servicePort) {
	if pl.all != nil {
		c.conflict(s, p, pl.all)
		return
	}
	pl.peek = pl.peek || len(s.vips) == 0
	if pl.http == nil {
		pl.http = &listenerv3.FilterChain{
			FilterChainMatch: &listenerv3.FilterChainMatch{TransportProtocol: "raw_buffer", ApplicationProtocols: []string{"http/1.1", "h2c"}},
			Filters:          []*listenerv3.Filter{c.connectionManager(pl.port)},
		}
	}
	if p.protocol == sniffed && pl.rest == nil {
		pl.rest = chain(nil, c.tcpFilters(s, p, clusterName(p.number, "", s.host)))
	}
}

// conflict tells that a service does not get a port because another has all of it.
func (c *compiler) conflict(s *service, p servicePort, holder *service) {
	c.report(config.Warningf(s.first, CodePortConflict, "spec.ports",
		"port %d of %s can't be told from the same port of %s, which takes every connection to it because it has no addresses; give one of the two `addresses`",
		p.number, s.host, holder.host))
}

// chain makes a filter chain; a nil match takes everything.
func chain(match *listenerv3.FilterChainMatch, filters []*listenerv3.Filter) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{FilterChainMatch: match, Filters: filters}
}

// add appends a chain unless one with the same match is there.
func (pl *listenerPlan) add(ch *listenerv3.FilterChain) bool {
	key := string(deterministic(ch.FilterChainMatch))
	if pl.seen[key] {
		return false
	}
	pl.seen[key] = true
	pl.chains = append(pl.chains, ch)
	return true
}

func deterministic(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("translate: " + err.Error())
	}
	return b
}

// prefixRanges gives Envoy's form of addresses and ranges.
func prefixRanges(ps ...netip.Prefix) []*corev3.CidrRange {
	var out []*corev3.CidrRange
	for _, p := range ps {
		out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return out
}

// listener builds what a plan came to; nil when nothing was planned.
func (c *compiler) listener(pl *listenerPlan) *listenerv3.Listener {
	chains := slices.Clone(pl.chains)
	if pl.http != nil {
		chains = append([]*listenerv3.FilterChain{pl.http}, chains...)
	}
	if len(chains) == 0 {
		return nil
	}
	l := &listenerv3.Listener{
		Name:                             listenerName(pl.address, pl.port),
		Address:                          socketAddress(pl.address, pl.port),
		FilterChains:                     chains,
		ListenerFilters:                  inspectors(pl, chains),
		BindToPort:                       wrapperspb.Bool(false),
		TrafficDirection:                 corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout: true,
		ListenerFiltersTimeout:           durationpb.New(0),
	}
	if pl.peek && !c.group.CompatIstio {
		l.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			xds.MetadataKey: mustStruct(map[string]any{xds.MetaPeek: true}),
		}}
	}
	catchAll := slices.ContainsFunc(chains, func(ch *listenerv3.FilterChain) bool { return ch.FilterChainMatch == nil })
	switch {
	case catchAll:
	case pl.rest != nil:
		l.DefaultFilterChain = pl.rest
	case pl.address == anyV4 || pl.address == anyV6:
		l.DefaultFilterChain = chain(nil, []*listenerv3.Filter{c.fallThrough()})
	}
	return l
}

// inspectors gives the listener filters that the chains' matches need.
func inspectors(pl *listenerPlan, chains []*listenerv3.FilterChain) []*listenerv3.ListenerFilter {
	var out []*listenerv3.ListenerFilter
	if slices.ContainsFunc(chains, func(ch *listenerv3.FilterChain) bool { return len(ch.GetFilterChainMatch().GetServerNames()) > 0 }) {
		out = append(out, listenerFilter(tlsInspectorName, &tlsinspectorv3.TlsInspector{}))
	}
	if pl.http != nil {
		out = append(out, listenerFilter(httpInspectorName, &httpinspectorv3.HttpInspector{}))
	}
	return out
}

func listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: mustAny(m)}}
}

// fallThrough takes what no chain takes.
func (c *compiler) fallThrough() *listenerv3.Filter {
	name := passthroughName
	if c.mesh.registryOnly {
		name = blackHoleName
	}
	return tcpProxy(&tcpv3.TcpProxy{StatPrefix: name, ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: name}})
}

func tcpProxy(t *tcpv3.TcpProxy) *listenerv3.Filter {
	return &listenerv3.Filter{Name: tcpProxyName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(t)}}
}

// connectionManager routes the requests of a port. What is not ours passes untouched (DESIGN.md rule 9), which a real
// Envoy has to be told.
func (c *compiler) connectionManager(port uint32) *listenerv3.Filter {
	name := strconv.FormatUint(uint64(port), 10)
	h := &hcmv3.HttpConnectionManager{
		StatPrefix: "outbound_" + strings.ReplaceAll(listenerName(c.anyAddress(), port), ".", "_") + ";",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: name,
		}},
		HttpFilters:                c.httpFilters(port),
		StreamIdleTimeout:          durationpb.New(0),
		UpgradeConfigs:             []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}},
		UseRemoteAddress:           wrapperspb.Bool(false),
		GenerateRequestId:          wrapperspb.Bool(false),
		ServerHeaderTransformation: hcmv3.HttpConnectionManager_PASS_THROUGH,
		SkipXffAppend:              true,
	}
	return &listenerv3.Filter{Name: hcmName, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: mustAny(h)}}
}

// httpFilters gives the chain of a port's requests: what its routes configure, and the router last.
func (c *compiler) httpFilters(port uint32) []*hcmv3.HttpFilter {
	var out []*hcmv3.HttpFilter
	add := func(name string, m proto.Message) {
		out = append(out, &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: mustAny(m)}})
	}
	if c.filters[port][corsName] {
		add(corsName, &corsv3.Cors{})
	}
	if c.filters[port][faultName] {
		add(faultName, &faultv3.HTTPFault{})
	}
	add(routerName, &routerv3.Router{SuppressEnvoyHeaders: true})
	return out
}
