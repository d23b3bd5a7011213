package translate

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// What istiod does (core/route/route.go; SEMANTICS §1.6, §3): one route configuration for every HTTP port, named by its
// number; in it a virtual host HOST:PORT for every host of that port, with the domains HOST, "HOST." and the host's
// addresses, its routes from the VirtualServices that cover the host, else one default route; last allow_any, which
// passes what nobody declared, or block_all, which answers 502.

// routeConfigs makes the route configurations of all HTTP ports of all egress listeners; the first egress listener with a
// port has it.
func (c *compiler) routeConfigs(to *output) ([]*routev3.RouteConfiguration, []xds.Sum) {
	var out []resource[*routev3.RouteConfiguration]
	done := map[string]bool{}
	for i, e := range c.egress {
		for _, port := range e.httpPorts() {
			if name := e.routeName(port); !done[name] {
				done[name] = true
				t := c.table(to, c.egressFor(i, port), port)
				out = append(out, resource[*routev3.RouteConfiguration]{name, c.finish(t, name), t.sum})
			}
		}
		if !e.detects() {
			continue
		}
		for _, s := range e.services {
			for _, p := range s.ports {
				if p.protocol != sniffed || e.port != nil || !c.ownListener(s) {
					continue
				}
				if name := sniffedRouteName(s, p); !done[name] {
					done[name] = true
					t := c.sniffedTable(to, i, s, p)
					out = append(out, resource[*routev3.RouteConfiguration]{name, t.config, t.sum})
				}
			}
		}
	}
	all := sortedOf(out)
	return all.list, all.sums
}

// egressFor gives the egress listener of which the hosts are routed on a port: the first with that port of its own, whatever
// its protocol is, else this one (istiod: GetEgressListenerForRDS).
func (c *compiler) egressFor(index int, port uint32) int {
	for i, e := range c.egress[:index] {
		if port != 0 && e.port != nil && e.port.number == port {
			return i
		}
	}
	return index
}

func routeConfig(name string, hosts []*routev3.VirtualHost) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name:                           name,
		VirtualHosts:                   hosts,
		ValidateClusters:               wrapperspb.Bool(false),
		IgnorePortInHostMatching:       true,
		MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(1 << 20),
	}
}

// routeName is the port's number, or the path of the unix socket that stands for one.
func (e *egress) routeName(port uint32) string {
	if port == 0 {
		return e.bind
	}
	return strconv.FormatUint(uint64(port), 10)
}

// sniffedRouteName names the routes of a port without protocol that has a listener of its own.
func sniffedRouteName(s *service, p servicePort) string {
	return s.host + ":" + strconv.FormatUint(uint64(p.number), 10)
}

// ownListener tells whether a port without protocol of a service has a listener of its own: at each of its addresses.
func (c *compiler) ownListener(s *service) bool {
	return s.headless() || slices.ContainsFunc(s.vips, netip.Prefix.IsSingleIP)
}

// httpPorts gives the ports that need routes: the egress listener's own, else those of its services.
func (e *egress) httpPorts() []uint32 {
	if e.port != nil {
		if e.port.protocol.http() && len(e.services) > 0 {
			return []uint32{e.port.number}
		}
		return nil
	}
	var out []uint32
	for n, u := range e.uses {
		if u.plain+u.detect > 0 {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// detects tells whether a service has a port without a declared protocol.
func (e *egress) detects() bool {
	for _, u := range e.uses {
		if u.detect > 0 {
			return true
		}
	}
	return false
}

// hostBuilder makes the virtual hosts of one port of one egress listener.
type hostBuilder struct {
	c        *compiler
	e        *egress
	port     uint32 // 0: every port, for a generic HTTP proxy or a unix socket
	declared map[string]*service
	named    map[string]bool // names of virtual hosts
	out      *hostTable
}

// served gives the port whose hosts a listener for a port routes; 0: those of every port.
func (e *egress) served(port uint32) uint32 {
	if e.proxied {
		return 0
	}
	return port
}

// virtualHosts makes them: for what VirtualServices route, declared or not, then for the services that are left.
func (c *compiler) virtualHosts(e *egress, port uint32) *hostTable {
	b := &hostBuilder{c: c, e: e, port: port, declared: map[string]*service{}, named: map[string]bool{}, out: &hostTable{made: c, taken: map[string]bool{}}}
	var services []*service
	for _, s := range e.services {
		if _, ok := s.port(port); ok || port == 0 {
			b.declared[s.host] = s
			services = append(services, s)
		}
	}
	for _, o := range b.routers(services) {
		b.routed(o, services)
	}
	for _, s := range services {
		for _, p := range s.requestPorts(port) {
			b.add(s.host, s, b.step(step{service: s, port: p}))
		}
	}
	slices.SortFunc(b.out.slots, func(x, y slot) int { return strings.Compare(x.vh.Name, y.vh.Name) })
	return b.out
}

// step compiles routes and gives their place among the table's steps.
func (b *hostBuilder) step(s step) int {
	s.set(b.c.run(s))
	b.c.replay(s.unit.unit)
	b.out.steps = append(b.out.steps, s)
	return len(b.out.steps) - 1
}

// requestPorts gives the HTTP ports of a service that a configuration for a port is for; 0 stands for every port.
func (s *service) requestPorts(port uint32) []servicePort {
	var out []servicePort
	for _, p := range s.ports {
		if p.protocol.http() && (port == 0 || p.number == port) {
			out = append(out, p)
		}
	}
	return out
}

// routed makes the virtual hosts of names that a VirtualService routes and nobody declares on this port.
func (b *hostBuilder) routed(o *config.Object, services []*service) {
	ports, hosts := b.c.routedHosts(o, b.port, func(h string) []*service { return b.declaredUnder(h, services) })
	for _, n := range ports {
		at := b.step(step{router: o, port: servicePort{number: n}})
		if len(b.out.steps[at].unit.routes) > 0 {
			for _, h := range hosts {
				b.add(h, nil, at)
			}
		}
	}
}

// routedHosts gives the names that a VirtualService routes and nobody declares on a port (0: every port), and the ports
// that they are routed on: those on which it routes a declared service too, and on port 80 always (istiod:
// buildSidecarVirtualHostsForVirtualService). under gives the declared services that a name stands for.
func (c *compiler) routedHosts(o *config.Object, port uint32, under func(string) []*service) (numbers []uint32, hosts []string) {
	ports := map[uint32]bool{}
	for _, h := range virtualServiceOf(o).Hosts {
		h = resolveHost(h)
		declared := under(h)
		for _, s := range declared {
			routes := slices.ContainsFunc(s.routers, func(r *config.Object) bool { return r.Key == o.Key })
			for _, p := range s.requestPorts(port) {
				ports[p.number] = ports[p.number] || routes
			}
		}
		if len(declared) == 0 && h != "*" {
			hosts = append(hosts, h)
		}
	}
	maps.DeleteFunc(ports, func(_ uint32, routes bool) bool { return !routes })
	if len(ports) == 0 && port == 80 {
		ports[80] = true
	}
	return slices.Sorted(maps.Keys(ports)), hosts
}

// routers gives the VirtualServices that can route anything here: all of them on port 80, else those of its services.
func (b *hostBuilder) routers(services []*service) []*config.Object {
	if b.port == 80 || b.port == 0 {
		return b.e.routers
	}
	var out []*config.Object
	for _, s := range services {
		out = append(out, s.routers...)
	}
	slices.SortFunc(out, func(x, y *config.Object) int { return cmp.Compare(b.e.order[x.Key], b.e.order[y.Key]) })
	return slices.Compact(out)
}

// declaredUnder gives the services of the port whose host a VirtualService's host names or covers.
func (b *hostBuilder) declaredUnder(host string, services []*service) []*service {
	if !isWildcard(host) {
		if s := b.declared[host]; s != nil {
			return []*service{s}
		}
		return nil
	}
	var out []*service
	for _, s := range services {
		if hostMatches(host, s.host) || hostMatches(s.host, host) {
			out = append(out, s)
		}
	}
	return out
}

// add makes one virtual host unless its name or all of its domains are taken. Its routes are those of a step.
func (b *hostBuilder) add(host string, s *service, at int) {
	port := b.out.steps[at].port
	vh := &routev3.VirtualHost{
		Name: host + ":" + strconv.FormatUint(uint64(port.number), 10), Routes: b.out.steps[at].unit.routes,
		IncludeRequestAttemptCount: b.c.group.CompatIstio,
	}
	if b.named[vh.Name] {
		b.out.contested = true
		return
	}
	b.named[vh.Name] = true
	for _, d := range b.domains(host, s, port.number) {
		if b.out.taken[d] {
			b.out.contested = true
			continue
		}
		b.out.taken[d] = true
		vh.Domains = append(vh.Domains, d)
	}
	if len(vh.Domains) > 0 {
		b.out.slots = append(b.out.slots, slot{step: at, vh: vh})
	}
}

// domains gives the names by which requests name a host here. Where every port is served, a name without port means port 80.
func (b *hostBuilder) domains(host string, s *service, port uint32) []string {
	plain := []string{host}
	if s != nil {
		plain = b.c.domains(s, b.port)
	}
	if b.port != 0 {
		return plain
	}
	var out []string
	for _, d := range plain {
		if port == 80 {
			out = append(out, d)
		}
		out = append(out, d+":"+strconv.FormatUint(uint64(port), 10))
	}
	return out
}

// serviceRoutes gives the routes of one service on one port.
func (c *compiler) serviceRoutes(s *service, port servicePort) []*routev3.Route {
	if why := c.blocked(s, c.policyFor(s.rule, port.number, nil)); why != "" {
		return []*routev3.Route{blockedRoute(why)}
	}
	if out := c.virtualServiceRoutes(s, port); len(out) > 0 {
		return out
	}
	return []*routev3.Route{c.defaultRoute(s, port)}
}

// domains gives the names by which requests on a port name a service: the host with and without its trailing dot, and every
// single address by which it is reached.
func (c *compiler) domains(s *service, port uint32) []string {
	out := []string{s.host, s.host + "."}
	out = append(out, c.inCluster(s.host)...)
	if s.headless() { // its endpoints have names below its own
		for _, name := range slices.Clone(out) {
			out = append(out, "*."+name)
		}
	}
	return append(out, c.namedAddresses(s, port)...)
}

// undeclaredCluster is where what nobody declared goes: the Sidecar's egressProxy, else where it wanted to go.
func (c *compiler) undeclaredCluster() string {
	if d := c.egressProxy; d != nil {
		return clusterName(d.GetPort().GetNumber(), d.Subset, resolveHost(d.Host))
	}
	return passthroughName
}

// undeclaredElsewhere is undeclaredCluster, where it is not where it wanted to go.
func (c *compiler) undeclaredElsewhere() string {
	if c.egressProxy == nil || c.mesh.registryOnly {
		return ""
	}
	return c.undeclaredCluster()
}

// addressDomain writes an address as a Host header does: IPv6 in brackets.
func addressDomain(a netip.Addr) string {
	if a.Is6() {
		return "[" + a.String() + "]"
	}
	return a.String()
}

// defaultRoute leads everything to the service's own cluster, tried again as MeshConfig's default retry policy says.
func (c *compiler) defaultRoute(s *service, port servicePort) *routev3.Route {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: clusterName(port.number, "", s.host)},
		Timeout:          share(c, durationpb.New(0)),
		RetryPolicy:      share(c, c.retryPolicy(nil, false)),
		HashPolicy:       requestHash(c.defaultHash(s, port)),
	}
	c.limitByClient(action)
	if c.rewritesHost(s, port, nil) {
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	return &routev3.Route{
		Name:     "default",
		Match:    share(c, everything()),
		Action:   &routev3.Route_Route{Route: action},
		Metadata: share(c, c.routeMetadata(nil, c.mesh.retries == nil)),
	}
}

func everything() *routev3.RouteMatch {
	return &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
}

// routeMetadata names the VirtualService a route came from, and says for the embedded engine whether its author left
// retries alone.
func (c *compiler) routeMetadata(o *config.Object, defaultRetry bool) *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	if o != nil {
		m.FilterMetadata["istio"] = mustStruct(map[string]any{"config": configPath(o)})
	}
	if defaultRetry && !c.group.CompatIstio {
		m.FilterMetadata[xds.MetadataKey] = mustStruct(map[string]any{xds.MetaDefaultRetry: true})
	}
	if len(m.FilterMetadata) == 0 {
		return nil
	}
	return m
}

// blockedRoute answers 503 and says why.
func blockedRoute(why string) *routev3.Route {
	body := "detour: nothing is sent to this host: " + why + "\n"
	return &routev3.Route{
		Name:  "refused",
		Match: everything(),
		Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{
			Status: 503,
			Body:   inlineString(strings.ToValidUTF8(body[:min(len(body), 4096)], "")),
		}},
	}
}

func inlineString(s string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: s}}
}

// lastVirtualHost catches every host that nobody declared.
func (c *compiler) lastVirtualHost() *routev3.VirtualHost {
	if c.mesh.looksUp {
		return c.undeclaredHost("allow_any_dynamic_dns", xds.LookupCluster)
	}
	if c.mesh.registryOnly {
		return &routev3.VirtualHost{
			Name:    "block_all",
			Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Name:   "block_all",
				Match:  everything(),
				Action: &routev3.Route_DirectResponse{DirectResponse: &routev3.DirectResponseAction{Status: 502}},
			}},
			IncludeRequestAttemptCount: c.group.CompatIstio,
		}
	}
	return c.undeclaredHost("allow_any", c.undeclaredCluster())
}

// undeclaredHost leads requests for every other host to a cluster.
func (c *compiler) undeclaredHost(name, cluster string) *routev3.VirtualHost {
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: cluster},
		Timeout:          durationpb.New(0),
	}
	c.limitByClient(action)
	return &routev3.VirtualHost{
		Name:                       name,
		Domains:                    []string{"*"},
		Routes:                     []*routev3.Route{{Name: name, Match: everything(), Action: &routev3.Route_Route{Route: action}}},
		IncludeRequestAttemptCount: c.group.CompatIstio,
	}
}

// findRouters gives the VirtualServices that apply to sidecars and are visible to the group, in the order istiod asks
// them: the group's own namespace's, those exported to it by name, the public ones; each in order of age.
func (c *compiler) findRouters() {
	rank := func(o *config.Object) int {
		to := o.Spec.(*networking.VirtualService).ExportTo
		if len(to) == 0 {
			to = c.mesh.routerExportTo
		}
		switch private := len(to) > 0 && !slices.Contains(to, "*"); {
		case private && o.Namespace == c.group.Namespace:
			return 0
		case private:
			return 1
		}
		return 2
	}
	for _, o := range c.set.All(config.VirtualService) {
		vs := o.Spec.(*networking.VirtualService)
		if len(vs.Hosts) > 0 && forSidecars(vs.Gateways) && exportedTo(vs.ExportTo, c.mesh.routerExportTo, o.Namespace, c.group.Namespace) {
			c.routerOrder = append(c.routerOrder, c.merged(o))
		}
	}
	slices.SortStableFunc(c.routerOrder, func(a, b *config.Object) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
	})
}

// forSidecars tells whether a list of gateways includes the sidecars; an empty one means nothing else.
func forSidecars(gateways []string) bool {
	return len(gateways) == 0 || slices.Contains(gateways, "mesh")
}
