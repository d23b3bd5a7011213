package translate

import (
	"cmp"
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
	address string // an IP address, or unix:// and a path
	port    servicePort
	state   planState
	chains  []*chainPlan
	keys    map[string]bool // of chains
	taken   map[string]bool // keys of one address or range and one name of the chains that have addresses
	owner   *service        // who came first
	bound   bool            // it has a socket of its own
	locked  bool            // an egress listener with this port has it; nobody else gets in
	peek    bool            // a host without addresses of its own, or with a range, can be meant by connections to any address
}

// planState tells what a listener takes so far: what it then lets in beside it depends on that.
type planState int

const (
	takesHTTP planState = iota
	takesTCP
	takesBoth // told apart by the first bytes
)

// chainPlan is one filter chain. Without sni, ranges and http it takes everything.
type chainPlan struct {
	routes  string // the name of the route configuration that its requests ask for
	sni     []string
	ranges  []netip.Prefix
	http    bool // plain text that looks like HTTP
	filters []*listenerv3.Filter
}

func (ch *chainPlan) matchesAll() bool {
	return (len(ch.sni) == 0 || slices.Contains(ch.sni, "*")) && len(ch.ranges) == 0 && !ch.http
}

// key is the same for chains that Envoy could not tell apart.
func (ch *chainPlan) key() string {
	out := strconv.FormatBool(ch.http)
	sni := slices.Compact(slices.Sorted(slices.Values(ch.sni)))
	sni = slices.DeleteFunc(sni, func(s string) bool { return s == "*" })
	ranges := make([]string, 0, len(ch.ranges))
	for _, r := range ch.ranges {
		ranges = append(ranges, r.Masked().String())
	}
	slices.Sort(ranges)
	return out + "|" + strings.Join(sni, ",") + "|" + strings.Join(slices.Compact(ranges), ",")
}

// listenerBuilder collects the listeners of all egress listeners.
type listenerBuilder struct {
	c     *compiler
	plans map[string]*listenerPlan
}

// listeners makes the listeners of all ports, and tells which route configurations they ask for.
func (c *compiler) listeners() (out []*listenerv3.Listener, routes map[string]bool) {
	routes = map[string]bool{}
	b := &listenerBuilder{c: c, plans: map[string]*listenerPlan{}}
	for _, e := range c.egress {
		if e.port != nil {
			for _, s := range e.services {
				b.add(e, s, *e.port)
			}
			continue
		}
		for _, pl := range b.plans {
			pl.locked = true
		}
		for _, s := range e.services {
			for _, p := range s.ports {
				b.add(e, s, p)
			}
		}
	}
	for _, name := range sortedKeys(b.plans) {
		out = append(out, c.listener(b.plans[name]))
		for _, ch := range b.plans[name].chains {
			routes[ch.routes] = true
		}
	}
	return out, routes
}

// anyAddress is the wildcard the group's listeners have.
func (c *compiler) anyAddress() string {
	if c.group.CompatIstio && c.group.IPv6 && !c.group.IPv4 {
		return anyV6
	}
	return anyV4
}

// boundAddress is where an egress listener listens whatever its services' addresses are; "" where those decide.
func (b *listenerBuilder) boundAddress(e *egress) string {
	switch {
	case e.bind != "":
		return e.bind
	case e.bound && b.c.anyAddress() == anyV6:
		return "::1"
	case e.bound:
		return "127.0.0.1"
	}
	return ""
}

// add makes room for one port of a service. p is the egress listener's own port where it has one.
func (b *listenerBuilder) add(e *egress, s *service, p servicePort) {
	if !p.protocol.http() || p.protocol == sniffed {
		b.c.read(s) // of a port that is HTTP alone only what the front knows counts
	}
	bind := b.boundAddress(e)
	switch p.protocol {
	case datagram:
	case plainHTTP, http2:
		b.addHTTP(e, s, p, cmp.Or(bind, b.c.anyAddress()))
	case sniffed:
		if bind != "" {
			b.addSniffed(e, s, p, bind, nil)
			return
		}
		b.each(s, p, func(address string, ranges []netip.Prefix) { b.addSniffed(e, s, p, address, ranges) })
	case opaqueTLS:
		if bind != "" {
			b.addConnections(e, s, p, bind, b.c.tlsChains(s, p, nil, bind == b.c.anyAddress() && len(s.vips) == 0))
			return
		}
		b.addTLS(e, s, p)
	default:
		if bind != "" {
			b.addConnections(e, s, p, bind, b.c.tcpChains(s, p, nil))
			return
		}
		b.addTCP(e, s, p)
	}
}

// each calls f for every address that a service is reached by: an address gets a listener of its own, a range a chain on
// the wildcard, and a host without addresses the wildcard itself. A headless Service is reached by its endpoints.
func (b *listenerBuilder) each(s *service, p servicePort, f func(address string, ranges []netip.Prefix)) {
	if s.headless() {
		for _, e := range b.c.sliceEndpoints(s.first, p.name) {
			f(e.Address, nil)
		}
		return
	}
	for _, v := range s.vips {
		if v.IsSingleIP() {
			f(v.Addr().String(), nil)
		} else {
			f(b.c.anyAddress(), []netip.Prefix{v})
		}
	}
	if len(s.vips) == 0 {
		f(b.c.anyAddress(), nil)
	}
}

// plan gives the listener at an address and port, made by make when there is none, and whether it is new; nil when it is
// closed to this egress listener or can't be shared by the two protocols.
func (b *listenerBuilder) plan(e *egress, s *service, p servicePort, address string, state planState) (pl *listenerPlan, fresh bool) {
	name := listenerName(address, p.number)
	pl = b.plans[name]
	switch {
	case pl == nil:
		pl = &listenerPlan{address: address, port: p, state: state, owner: s, bound: e.bound, keys: map[string]bool{}}
		b.plans[name] = pl
		return pl, true
	case pl.locked:
		return nil, false
	case pl.port.wellKnown != p.wellKnown && (serverFirst(pl.port) || serverFirst(p)):
		b.conflict(s, p, pl.owner)
		return nil, false
	}
	return pl, false
}

// serverFirst tells whether a protocol's server speaks first, so that no port can be shared by looking at first bytes.
func serverFirst(p servicePort) bool { return p.wellKnown == "MONGO" || p.wellKnown == "MYSQL" }

func (b *listenerBuilder) addHTTP(e *egress, s *service, p servicePort, address string) {
	pl, fresh := b.plan(e, s, p, address, takesHTTP)
	if pl == nil {
		return
	}
	pl.peek = pl.peek || s.anywhere()
	if !fresh && pl.state != takesTCP {
		return
	}
	routes := e.routeName(p.number)
	ch := &chainPlan{routes: routes, filters: []*listenerv3.Filter{b.c.connectionManager(address, p.number, routes)}}
	if address == b.c.anyAddress() && !e.proxied {
		ch.http, pl.state = true, takesBoth
	}
	if !fresh {
		pl.state = takesBoth
	}
	b.merge(pl, s, p, ch)
}

// addSniffed adds a port without protocol: requests where the first bytes look like HTTP, else connections. It takes the
// place of a port that is HTTP alone.
func (b *listenerBuilder) addSniffed(e *egress, s *service, p servicePort, address string, ranges []netip.Prefix) {
	pl, fresh := b.plan(e, s, p, address, takesBoth)
	if pl == nil {
		return
	}
	pl.peek = pl.peek || len(s.vips) == 0
	tcp := b.c.tcpChains(s, p, ranges)
	routes := e.routeName(p.number)
	if address != b.c.anyAddress() {
		routes = sniffedRouteName(s, p)
	}
	http := &chainPlan{routes: routes, http: true, filters: []*listenerv3.Filter{b.c.connectionManager(address, p.number, routes)}}
	switch {
	case fresh || pl.state == takesHTTP:
		pl.chains, pl.keys = append(tcp, http), map[string]bool{}
		for _, ch := range pl.chains {
			pl.keys[ch.key()] = true
			pl.untaken(ch)
		}
	case pl.state == takesTCP:
		b.merge(pl, s, p, append(tcp, http)...)
	case b.c.joinsSniffed():
		b.merge(pl, s, p, tcp...)
	}
	pl.state = takesBoth
}

// addConnections adds chains that relay.
func (b *listenerBuilder) addConnections(e *egress, s *service, p servicePort, address string, chains []*chainPlan) {
	pl, fresh := b.plan(e, s, p, address, takesTCP)
	if pl == nil {
		return
	}
	if p.protocol == opaqueTLS {
		pl.peek = pl.peek || len(s.vips) == 0
	}
	if !fresh && pl.state == takesHTTP {
		pl.state = takesBoth
	}
	b.merge(pl, s, p, chains...)
}

// merge adds the chains that differ from those that are there; the first of equal ones keeps its place.
func (b *listenerBuilder) merge(pl *listenerPlan, s *service, p servicePort, chains ...*chainPlan) {
	for _, ch := range chains {
		key := ch.key()
		if pl.keys[key] {
			if pl.owner != s && !pl.has(ch) {
				b.conflict(s, p, pl.owner)
			}
			continue
		}
		pl.keys[key] = true
		if !b.c.group.CompatIstio && len(ch.ranges) > 0 {
			if ch = pl.untaken(ch); ch == nil {
				continue
			}
		}
		pl.chains = append(pl.chains, ch)
	}
}

// untaken gives a chain without the addresses that another has for one of its names: Envoy refuses a listener in which two
// chains match the same. It gives nil where none is left.
func (pl *listenerPlan) untaken(ch *chainPlan) *chainPlan {
	if pl.taken == nil {
		pl.taken = map[string]bool{}
	}
	names := ch.sni
	if len(names) == 0 || slices.Contains(names, "*") {
		names = []string{""}
	}
	out := *ch
	out.ranges = nil
	for _, r := range ch.ranges {
		var keys []string
		for _, name := range names {
			keys = append(keys, strconv.FormatBool(ch.http)+"|"+name+"|"+r.Masked().String())
		}
		if slices.ContainsFunc(keys, func(k string) bool { return pl.taken[k] }) {
			continue
		}
		for _, k := range keys {
			pl.taken[k] = true
		}
		out.ranges = append(out.ranges, r)
	}
	if len(out.ranges) == 0 {
		return nil
	}
	return &out
}

// has tells whether a chain is there already that takes the same and does the same with it: one VirtualService's rules
// for several hosts give each of them the same chains.
func (pl *listenerPlan) has(ch *chainPlan) bool {
	key := ch.key()
	return slices.ContainsFunc(pl.chains, func(have *chainPlan) bool {
		return have.key() == key && slices.EqualFunc(have.filters, ch.filters, func(a, b *listenerv3.Filter) bool { return proto.Equal(a, b) })
	})
}

// conflict tells that a service does not get a port because another has all of it.
func (b *listenerBuilder) conflict(s *service, p servicePort, holder *service) {
	b.c.read(s)
	b.c.warn(s.first, CodePortConflict, "spec.ports",
		"port %d of %s can't be told from the same port of %s, which comes first; give one of the two another address",
		p.number, s.host, holder.host)
}

// chain makes a filter chain; a nil match takes everything.
func chain(match *listenerv3.FilterChainMatch, filters []*listenerv3.Filter) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{FilterChainMatch: match, Filters: filters}
}

// prefixRanges gives Envoy's form of addresses and ranges.
func prefixRanges(ps ...netip.Prefix) []*corev3.CidrRange {
	var out []*corev3.CidrRange
	for _, p := range ps {
		out = append(out, &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: wrapperspb.UInt32(uint32(p.Bits()))})
	}
	return out
}

// listener builds what a plan came to. The chain that takes everything is the default one; where there is none, what no
// chain takes falls through.
func (c *compiler) listener(pl *listenerPlan) *listenerv3.Listener {
	l := &listenerv3.Listener{
		Name:                             listenerName(pl.address, pl.port.number),
		Address:                          listenAddress(pl.address, pl.port.number),
		ListenerFilters:                  inspectors(pl),
		TrafficDirection:                 corev3.TrafficDirection_OUTBOUND,
		ContinueOnListenerFiltersTimeout: true,
		ListenerFiltersTimeout:           c.detectionTimeout(pl),
	}
	if !pl.bound {
		l.BindToPort = wrapperspb.Bool(false)
	}
	if pl.peek && !c.group.CompatIstio {
		l.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			xds.MetadataKey: mustStruct(map[string]any{xds.MetaPeek: true}),
		}}
	}
	for _, ch := range pl.chains {
		if ch.matchesAll() {
			l.DefaultFilterChain = chain(nil, ch.filters)
		} else {
			l.FilterChains = append(l.FilterChains, chain(ch.match(), ch.filters))
		}
	}
	switch {
	case l.DefaultFilterChain == nil:
		l.DefaultFilterChain = chain(nil, []*listenerv3.Filter{c.fallThrough()})
	case len(l.FilterChains) == 0:
		l.FilterChains, l.DefaultFilterChain = []*listenerv3.FilterChain{l.DefaultFilterChain}, nil
	}
	return l
}

// match writes what a chain takes.
func (ch *chainPlan) match() *listenerv3.FilterChainMatch {
	m := &listenerv3.FilterChainMatch{PrefixRanges: prefixRanges(ch.ranges...)}
	if !slices.Contains(ch.sni, "*") {
		m.ServerNames = slices.Sorted(slices.Values(ch.sni))
	}
	if ch.http {
		m.TransportProtocol, m.ApplicationProtocols = "raw_buffer", []string{"http/1.1", "h2c"}
	}
	return m
}

func listenAddress(address string, port uint32) *corev3.Address {
	if path, ok := strings.CutPrefix(address, unixPrefix); ok {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: path}}}
	}
	return socketAddress(address, port)
}

// detectionTimeout: only where HTTP is told from other things can waiting for the first bytes end; server-first protocols
// would wait for ever else, which is Istio's default.
func (c *compiler) detectionTimeout(pl *listenerPlan) *durationpb.Duration {
	if slices.ContainsFunc(pl.chains, func(ch *chainPlan) bool { return ch.http }) {
		return c.mesh.detectionTimeout
	}
	return durationpb.New(0)
}

// inspectors gives the listener filters that the chains need: the name in a ClientHello, or what looks like HTTP.
func inspectors(pl *listenerPlan) []*listenerv3.ListenerFilter {
	var out []*listenerv3.ListenerFilter
	if slices.ContainsFunc(pl.chains, func(ch *chainPlan) bool { return len(ch.sni) > 0 || ch.filters[0].Name == sniForwarderName }) {
		out = append(out, listenerFilter(tlsInspectorName, &tlsinspectorv3.TlsInspector{}))
	}
	if slices.ContainsFunc(pl.chains, func(ch *chainPlan) bool { return ch.http }) {
		out = append(out, listenerFilter(httpInspectorName, &httpinspectorv3.HttpInspector{}))
	}
	return out
}

func listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: mustAny(m)}}
}

// fallThrough takes what no chain takes.
func (c *compiler) fallThrough() *listenerv3.Filter {
	name := c.undeclaredCluster()
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
func (c *compiler) connectionManager(address string, port uint32, routes string) *listenerv3.Filter {
	h := &hcmv3.HttpConnectionManager{
		StatPrefix: "outbound_" + strings.ReplaceAll(listenerName(address, port), ".", "_") + ";",
		RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{
			ConfigSource: adsSource(), RouteConfigName: routes,
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
	if c.mesh.looksUp {
		add(lookupFilterName, c.lookupFilter())
	}
	add(routerName, &routerv3.Router{SuppressEnvoyHeaders: true})
	return out
}
