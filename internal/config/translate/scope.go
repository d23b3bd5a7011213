package translate

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// What istiod does (model/sidecar.go; SEMANTICS §1.7): a Sidecar of the caller's namespace that selects it, else one there
// that selects nobody in particular, else the root namespace's, limits what the caller sees. Each of its egress listeners
// imports services and VirtualServices by NAMESPACE/HOST; one with a port has the services of that port only, and the last
// one, without a port, takes the ports that are left. Without a Sidecar one egress listener imports everything.

// egress is one egress listener of the caller's scope and what it imports.
type egress struct {
	port     *servicePort // the Sidecar's own port; nil: the ports of the services
	proxied  bool         // protocol HTTP_PROXY: requests for any host and port
	bind     string       // an address, or unix:// and a path; "": by the services' addresses
	bound    bool         // the listener has a socket of its own (captureMode NONE)
	services []*service   // as seen here: with the ports and routers that this listener imports
	byHost   map[string]*service
	routers  []*config.Object   // VirtualServices, in the order istiod asks them
	order    map[config.Key]int // their places
	index    hostIndex          // of routers
	uses     map[uint32]*portUse
}

// portUse counts what the services of an egress listener do with a port.
type portUse struct {
	all    int // services that have it
	plain  int // requests, and nothing else
	open   int // of plain: services that may be anywhere
	detect int // no protocol is declared
}

// count adds n services like s, or takes them away.
func (e *egress) count(s *service, n int) {
	for _, p := range s.ports {
		u := e.uses[p.number]
		if u == nil {
			u = &portUse{}
			e.uses[p.number] = u
		}
		u.all += n
		switch p.protocol {
		case sniffed:
			u.detect += n
		case plainHTTP, http2:
			u.plain += n
			if s.anywhere() {
				u.open += n
			}
		}
	}
}

// imports is what one list of NAMESPACE/HOST selects, by namespace.
type imports map[string]*hostSet

// hostSet is the hosts imported from one namespace ("*": from all).
type hostSet struct{ wanted, excluded []string }

// allHosts imports everything.
const allHosts = "*/*"

// parseImports reads an egress listener's hosts: "." is the caller's namespace, "~ns" excludes, and "~" alone excludes from
// all namespaces.
func parseImports(hosts []string, own string) imports {
	out := imports{}
	for _, h := range hosts {
		ns, host, ok := strings.Cut(h, "/")
		if !ok {
			continue
		}
		ns, excluded := strings.CutPrefix(ns, "~")
		if excluded && ns == "" {
			ns = "*"
		}
		if ns == "." {
			ns = own
		}
		set := out[ns]
		if set == nil {
			set = &hostSet{}
			out[ns] = set
		}
		if host = resolveHost(host); excluded {
			set.excluded = append(set.excluded, host)
		} else {
			set.wanted = append(set.wanted, host)
		}
	}
	return out
}

// excludes tells whether a host of a namespace is excluded.
func (im imports) excludes(ns, host string) bool {
	for _, from := range []string{ns, "*"} {
		if set := im[from]; set != nil && slices.ContainsFunc(set.excluded, func(p string) bool { return hostMatches(p, host) }) {
			return true
		}
	}
	return false
}

// service tells whether a service's host is imported from its namespace.
func (im imports) service(ns, host string) bool {
	if im.excludes(ns, host) {
		return false
	}
	return im.any(ns, func(p string) bool { return hostMatches(p, host) })
}

// router tells whether a VirtualService's host is imported; wildcards on either side are enough.
func (im imports) router(ns, host string) bool {
	return !im.excludes(ns, host) && im.any(ns, func(p string) bool { return hostMatches(p, host) || hostMatches(host, p) })
}

func (im imports) any(ns string, match func(string) bool) bool {
	for _, from := range []string{ns, "*"} {
		if set := im[from]; set != nil && slices.ContainsFunc(set.wanted, match) {
			return true
		}
	}
	return false
}

// findSidecar gives the Sidecar in force for the caller; nil when there is none.
func (c *compiler) findSidecar() *config.Object {
	var general, root *config.Object
	for _, o := range c.set.All(config.Sidecar) {
		sel := o.Spec.(*networking.Sidecar).WorkloadSelector
		switch {
		case o.Namespace == c.group.Namespace && sel != nil && labelsInclude(c.group.Labels, sel.Labels):
			return o
		case sel != nil:
		case o.Namespace == c.group.Namespace && general == nil:
			general = o
		case o.Namespace == c.mesh.root && root == nil:
			root = o
		}
	}
	return cmp.Or(general, root)
}

// findScope makes the egress listeners and what all of them together reach.
func (c *compiler) findScope() {
	spec := &networking.Sidecar{}
	o := c.findSidecar()
	if c.open = o == nil; !c.open {
		spec = o.Spec.(*networking.Sidecar)
	}
	if p := spec.OutboundTrafficPolicy; p != nil {
		c.mesh.looksUp = false
		c.mesh.registryOnly = p.Mode == networking.OutboundTrafficPolicy_REGISTRY_ONLY
		c.egressProxy = p.EgressProxy
	}
	listeners := spec.Egress
	if len(listeners) == 0 {
		listeners = []*networking.IstioEgressListener{{Hosts: []string{allHosts}}}
	}
	for _, l := range listeners {
		c.egress = append(c.egress, c.newEgress(l))
	}
	c.collectServices()
	for _, e := range c.egress {
		e.attachRouters()
	}
}

// newEgress makes one egress listener with what it imports.
func (c *compiler) newEgress(l *networking.IstioEgressListener) *egress {
	e := &egress{bind: l.Bind, bound: l.CaptureMode == networking.CaptureMode_NONE || strings.HasPrefix(l.Bind, unixPrefix), byHost: map[string]*service{}, uses: map[uint32]*portUse{}}
	if p := l.Port; p != nil {
		e.port = &servicePort{number: p.Number, name: p.Name, protocol: parseProtocol(p.Protocol), wellKnown: strings.ToUpper(p.Protocol)}
		e.proxied = strings.EqualFold(p.Protocol, "HTTP_PROXY")
	}
	im := parseImports(l.Hosts, c.group.Namespace)
	c.importRouters(e, im)
	for _, s := range c.candidates {
		if im.service(s.first.Namespace, s.host) {
			e.take(s, c.group.Namespace)
		}
	}
	for _, s := range e.services {
		e.count(s, 1)
	}
	return e
}

// importRouters gives an egress listener the VirtualServices it imports.
func (c *compiler) importRouters(e *egress, im imports) {
	e.routers, e.order, e.index = nil, map[config.Key]int{}, hostIndex{}
	for _, o := range c.routerOrder {
		if slices.ContainsFunc(virtualServiceOf(o).Hosts, func(h string) bool { return im.router(o.Namespace, resolveHost(h)) }) {
			e.order[o.Key] = len(e.routers)
			e.routers = append(e.routers, o)
			for _, h := range virtualServiceOf(o).Hosts {
				e.index.add(h, o)
			}
		}
	}
	e.index.sort()
}

// take imports a service. Of several for one host the caller's own namespace's counts, else a Kubernetes Service, else the
// first.
func (e *egress) take(s *service, own string) {
	if s = e.trimmed(s); s == nil {
		return
	}
	have := e.byHost[s.host]
	if have != nil {
		better := s.first.Namespace == own || !have.kubernetes() && s.kubernetes() && have.first.Namespace != own
		if !better {
			return
		}
		e.services = without(e.services, have)
	}
	e.services = append(e.services, s)
	e.byHost[s.host] = s
}

// trimmed gives a service as a listener with a port of its own sees it: with that port only; nil where it has none such.
// Nothing is trimmed for a generic HTTP proxy.
func (e *egress) trimmed(s *service) *service {
	view := *s
	if e.port != nil && e.port.number != 0 && !e.proxied {
		p, ok := s.port(e.port.number)
		if !ok {
			return nil
		}
		view.ports = []servicePort{p}
	}
	return &view
}

// collectServices gathers what clusters are made for: the services of all egress listeners with the ports of each, and the
// destinations of the VirtualServices that they import.
func (c *compiler) collectServices() {
	c.byHost = map[string]*service{}
	for _, e := range c.egress {
		for _, s := range e.services {
			c.reach(s)
		}
		for _, o := range e.routers {
			for _, d := range c.destinations(o.Spec.(*networking.VirtualService)) {
				if s := c.candidate(d.host); s != nil {
					c.reach(e.destination(s, d.ports))
				}
			}
		}
	}
	for _, s := range c.byHost { // in order of age, whoever imported it
		c.services = append(c.services, s)
	}
	slices.SortFunc(c.services, c.compareServices)
}

// reach adds a service to those that clusters are made for, or its ports to the same service's.
func (c *compiler) reach(s *service) {
	if s == nil {
		return
	}
	have := c.byHost[s.host]
	if have == nil {
		view := *s
		c.byHost[s.host] = &view
		return
	}
	if have.first.Namespace != s.first.Namespace {
		return
	}
	for _, p := range s.ports {
		if _, ok := have.port(p.number); !ok {
			have.ports = append(slices.Clone(have.ports), p)
			slices.SortFunc(have.ports, func(a, b servicePort) int { return cmp.Compare(a.number, b.number) })
		}
	}
}

// candidate picks the service that a VirtualService's destination means: the caller's namespace's, else a Kubernetes
// Service, else the oldest.
func (c *compiler) candidate(host string) *service {
	out := c.hidden[host]
	for _, s := range c.candidatesByHost[host] {
		switch {
		case s.first.Namespace == c.group.Namespace:
			return s
		case out != nil && out == c.hidden[host]:
		case out == nil, s.kubernetes() && !out.kubernetes():
			out = s
		}
	}
	return out
}

// destination gives a destination as a VirtualService reaches it: with the ports it names, all where it names none.
func (e *egress) destination(s *service, ports []uint32) *service {
	if e.port != nil && e.port.number != 0 && !e.proxied {
		return e.trimmed(s)
	}
	if len(ports) == 0 || slices.Contains(ports, 0) {
		return s
	}
	view := *s
	view.ports = nil
	for _, p := range s.ports {
		if slices.Contains(ports, p.number) {
			view.ports = append(view.ports, p)
		}
	}
	if len(view.ports) == 0 {
		return nil
	}
	return &view
}

// routed is a host that a VirtualService leads to and the ports it names there; 0 stands for a destination without port.
type routed struct {
	host  string
	ports []uint32
}

// destinations lists where a VirtualService leads callers of this namespace, by host.
func (c *compiler) destinations(vs *networking.VirtualService) []routed {
	ports := map[string][]uint32{}
	for r, d := range config.Destinations(vs) {
		if r == nil || c.mayCall(r.Match) {
			h := resolveHost(d.Host)
			ports[h] = append(ports[h], d.GetPort().GetNumber())
		}
	}
	var out []routed
	for _, h := range slices.Sorted(maps.Keys(ports)) {
		out = append(out, routed{h, ports[h]})
	}
	return out
}

// mayCall tells whether a rule's sourceNamespaces leave room for the caller's.
func (c *compiler) mayCall(matches []*networking.HTTPMatchRequest) bool {
	other := false
	for _, m := range matches {
		if m.SourceNamespace == c.group.Namespace {
			return true
		}
		other = other || m.SourceNamespace != ""
	}
	return !other
}

// attachRouters finds the VirtualServices for each service.
func (e *egress) attachRouters() {
	for _, s := range e.services {
		s.routers, s.relays = e.routersFor(s.host), e.relaysFor(s.host)
	}
}

// relaysFor gives the VirtualServices with a host that covers this one or, where this one is a wildcard, that it covers, in
// the order istiod asks them.
func (e *egress) relaysFor(host string) []*config.Object {
	out := e.related(host)
	slices.SortFunc(out, func(a, b *config.Object) int { return cmp.Compare(e.order[a.Key], e.order[b.Key]) })
	return slices.Compact(out)
}

// routersFor gives the VirtualServices for a host: those with its most specific host; of several that name the same
// wildcard only the first.
func (e *egress) routersFor(host string) []*config.Object {
	var out []*config.Object
	covering := e.index.covering(host)
	for _, r := range covering {
		if r.host != covering[0].host || isWildcard(r.host) && r.host != host && len(out) > 0 {
			break
		}
		if !slices.Contains(out, r.object) {
			out = append(out, r.object)
		}
	}
	return out
}
