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

// routeConfigs makes the route configurations of all HTTP ports.
func (c *compiler) routeConfigs() []*routev3.RouteConfiguration {
	var out []*routev3.RouteConfiguration
	byPort := c.httpPorts()
	for _, port := range slices.Sorted(maps.Keys(byPort)) {
		rc := &routev3.RouteConfiguration{
			Name:                           strconv.FormatUint(uint64(port), 10),
			ValidateClusters:               wrapperspb.Bool(false),
			IgnorePortInHostMatching:       true,
			MaxDirectResponseBodySizeBytes: wrapperspb.UInt32(1 << 20),
		}
		taken := map[string]bool{}
		for _, s := range byPort[port] {
			p, _ := s.port(port)
			rc.VirtualHosts = append(rc.VirtualHosts, c.virtualHost(s, p, taken))
		}
		rc.VirtualHosts = append(rc.VirtualHosts, c.aliasHosts(port, taken)...)
		slices.SortFunc(rc.VirtualHosts, func(a, b *routev3.VirtualHost) int { return strings.Compare(a.Name, b.Name) })
		rc.VirtualHosts = append(rc.VirtualHosts, c.lastVirtualHost())
		out = append(out, rc)
	}
	slices.SortFunc(out, func(a, b *routev3.RouteConfiguration) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// httpPorts gives the services of every port that needs routes, in order.
func (c *compiler) httpPorts() map[uint32][]*service {
	out := map[uint32][]*service{}
	for _, s := range c.services {
		for _, p := range s.ports {
			if p.protocol.http() {
				out[p.number] = append(out[p.number], s)
			}
		}
	}
	return out
}

// virtualHost makes the virtual host of one service on one port. taken holds the domains that earlier services have:
// Envoy refuses a route configuration in which one occurs twice.
func (c *compiler) virtualHost(s *service, port servicePort, taken map[string]bool) *routev3.VirtualHost {
	vh := &routev3.VirtualHost{
		Name:                       s.host + ":" + strconv.FormatUint(uint64(port.number), 10),
		IncludeRequestAttemptCount: c.group.CompatIstio,
	}
	for _, d := range domains(s) {
		if !taken[d] {
			taken[d] = true
			vh.Domains = append(vh.Domains, d)
		}
	}
	switch {
	case c.blocked(s, s.rule.policyFor(port.number, nil)) != "":
		vh.Routes = []*routev3.Route{blockedRoute(c.blocked(s, s.rule.policyFor(port.number, nil)))}
	case len(s.routers) > 0:
		vh.Routes = c.virtualServiceRoutes(s, port)
	}
	if len(vh.Routes) == 0 {
		vh.Routes = []*routev3.Route{c.defaultRoute(s, port)}
	}
	return vh
}

// aliasHosts makes the virtual hosts of names that VirtualServices route and no ServiceEntry declares: on the HTTP ports of
// the VirtualService's declared hosts, on port 80 where it has none (istiod: buildSidecarVirtualHostsForVirtualService).
func (c *compiler) aliasHosts(port uint32, taken map[string]bool) []*routev3.VirtualHost {
	var out []*routev3.VirtualHost
	for _, a := range c.aliases {
		if !a.ports[port] || taken[a.host] {
			continue
		}
		vh := &routev3.VirtualHost{
			Name:                       a.host + ":" + strconv.FormatUint(uint64(port), 10),
			Domains:                    []string{a.host},
			Routes:                     c.httpRoutes(a.router, a.router.Spec.(*networking.VirtualService), servicePort{number: port}),
			IncludeRequestAttemptCount: c.group.CompatIstio,
		}
		taken[a.host] = true
		if len(vh.Routes) > 0 {
			out = append(out, vh)
		}
	}
	return out
}

// alias is a host that a VirtualService routes and nobody declares.
type alias struct {
	host   string
	router *config.Object
	ports  map[uint32]bool
}

// findAliases collects them; a wildcard that covers a declared host is none.
func (c *compiler) findAliases() {
	for _, o := range c.routerOrder {
		vs := o.Spec.(*networking.VirtualService)
		ports := map[uint32]bool{}
		var undeclared []string
		for _, h := range vs.Hosts {
			h = resolveHost(h)
			declared := c.declaredUnder(h)
			for _, s := range declared {
				for _, p := range s.ports {
					ports[p.number] = ports[p.number] || p.protocol.http() && slices.Contains(s.routers, o)
				}
			}
			if len(declared) == 0 {
				undeclared = append(undeclared, h)
			}
		}
		if !slices.Contains(slices.Collect(maps.Values(ports)), true) {
			ports[80] = true
		}
		for _, h := range undeclared {
			if h != "*" && len(vs.Http) > 0 {
				c.aliases = append(c.aliases, alias{h, o, ports})
			}
		}
	}
}

// declaredUnder gives the services whose host a VirtualService's host names or covers.
func (c *compiler) declaredUnder(host string) []*service {
	if s := c.byHost[host]; s != nil {
		return []*service{s}
	}
	var out []*service
	if isWildcard(host) {
		for _, s := range c.services {
			if hostMatches(host, s.host) {
				out = append(out, s)
			}
		}
	}
	return out
}

// domains gives the names by which requests name a service: the host with and without its trailing dot, and every single
// address by which it is reached.
func domains(s *service) []string {
	out := []string{s.host, s.host + "."}
	for _, p := range s.vips {
		if p.IsSingleIP() {
			out = append(out, addressDomain(p.Addr()))
		}
	}
	return out
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
		Timeout:          durationpb.New(0),
		RetryPolicy:      defaultRetryPolicy(),
		HashPolicy:       requestHash(s.rule.policyFor(port.number, nil)),
	}
	c.limitByClient(action)
	if c.rewritesHost(s, port, nil) {
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	return &routev3.Route{
		Name:     "default",
		Match:    everything(),
		Action:   &routev3.Route_Route{Route: action},
		Metadata: c.routeMetadata(nil, true),
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
	action := &routev3.RouteAction{
		ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: passthroughName},
		Timeout:          durationpb.New(0),
	}
	c.limitByClient(action)
	return &routev3.VirtualHost{
		Name:    "allow_any",
		Domains: []string{"*"},
		Routes: []*routev3.Route{{
			Name: "allow_any", Match: everything(), Action: &routev3.Route_Route{Route: action},
		}},
		IncludeRequestAttemptCount: c.group.CompatIstio,
	}
}

// findRouters gives the VirtualServices that apply to sidecars and are visible to the group, in the order istiod asks
// them: the group's own namespace's, those exported to it by name, the public ones; each in order of age.
func (c *compiler) findRouters() {
	rank := func(o *config.Object) int {
		vs := o.Spec.(*networking.VirtualService)
		private := len(vs.ExportTo) > 0 && !slices.Contains(vs.ExportTo, "*")
		switch {
		case private && o.Namespace == c.group.Namespace:
			return 0
		case private:
			return 1
		}
		return 2
	}
	var found []*config.Object
	for _, o := range c.set.All(config.VirtualService) {
		vs, ok := o.Spec.(*networking.VirtualService)
		if ok && exportedTo(vs.ExportTo, o.Namespace, c.group.Namespace) && forSidecars(vs.Gateways) {
			found = append(found, o)
		}
	}
	slices.SortStableFunc(found, func(a, b *config.Object) int { return cmp.Compare(rank(a), rank(b)) })
	c.routerOrder = found
	for _, o := range found {
		for _, h := range o.Spec.(*networking.VirtualService).Hosts {
			c.routers.add(h, o)
		}
	}
	c.routers.sort()
}

// forSidecars tells whether a list of gateways includes the sidecars; an empty one means nothing else.
func forSidecars(gateways []string) bool {
	return len(gateways) == 0 || slices.Contains(gateways, "mesh")
}

// attachRouters finds the VirtualServices for a service: those with its most specific host.
func (c *compiler) attachRouters(s *service) {
	covering := c.routers.covering(s.host)
	for _, e := range covering {
		if e.host != covering[0].host {
			break
		}
		if !slices.Contains(s.routers, e.object) {
			s.routers = append(s.routers, e.object)
		}
	}
}
