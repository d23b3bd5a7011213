package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// protocol is what a port speaks, as istiod classifies it (pkg/config/protocol).
type protocol int

const (
	sniffed protocol = iota // none declared: HTTP is told from other things by its first bytes
	plainHTTP
	http2
	opaqueTLS // TLS and HTTPS: the application speaks TLS itself
	opaqueTCP
	mongo
	datagram // UDP: no listener, no cluster
)

// parseProtocol reads ServiceEntry.ports[].protocol; unknown words count as none, as istiod has it.
func parseProtocol(s string) protocol {
	switch strings.ToUpper(s) {
	case "HTTP", "HTTP_PROXY":
		return plainHTTP
	case "HTTP2", "GRPC", "GRPC-WEB":
		return http2
	case "HTTPS", "TLS":
		return opaqueTLS
	case "TCP", "REDIS", "MYSQL":
		return opaqueTCP
	case "MONGO":
		return mongo
	case "UDP":
		return datagram
	}
	return sniffed
}

// http tells whether requests on the port are routed one by one.
func (p protocol) http() bool { return p == plainHTTP || p == http2 || p == sniffed }

// servicePort is one declared port of a service.
type servicePort struct {
	number    uint32
	name      string
	protocol  protocol
	wellKnown string // the protocol's own word, upper case: some share no port with others
}

// service is one host that this node group can reach: what all ServiceEntries of one namespace say about it.
type service struct {
	host    string // lower case, no trailing dot
	first   *config.Object
	entries []*config.Object // in order of age; resolution and location are the first's
	spec    *networking.ServiceEntry
	ports   []servicePort // by number
	// vips are the addresses by which connections to the host are recognised: stated (single addresses or ranges), else
	// allocated. Empty for a host that has none.
	vips      []netip.Prefix
	allocated bool
	rule      *rule           // nil when no DestinationRule applies
	refused   *config.Refusal // a DestinationRule about this host is refused: it answers 503
	// routers are the VirtualServices whose hosts cover this one, most specific host first.
	routers []*config.Object
	// relays are those whose hosts cover this one or are covered by it: what their tcp and tls rules say counts, in this order.
	relays []*config.Object
	// allocates: addresses are given to the host, these, because it states none.
	allocates bool
	given     config.VIPs

	identity
	inputs   []*config.Object // beside the entries, that endpoints come from
	clusters *clusterUnit     // what was compiled of this service; nil: nothing yet
	routes   []*routeUnit
}

// external tells whether the host lies outside the mesh (ServiceEntry.location, MESH_EXTERNAL by default).
func (s *service) external() bool { return s.spec.Location == networking.ServiceEntry_MESH_EXTERNAL }

// anywhere tells whether requests to an address that is nobody's own may be for the service: it has none, or a range.
func (s *service) anywhere() bool {
	return len(s.vips) == 0 || slices.ContainsFunc(s.vips, func(p netip.Prefix) bool { return !p.IsSingleIP() })
}

func (s *service) port(number uint32) (servicePort, bool) {
	i, ok := slices.BinarySearchFunc(s.ports, number, func(p servicePort, n uint32) int { return cmp.Compare(p.number, n) })
	if !ok {
		return servicePort{}, false
	}
	return s.ports[i], true
}

func entryOf(o *config.Object) *networking.ServiceEntry {
	return o.Spec.(*networking.ServiceEntry)
}

// findCandidates collects the services that the caller may see, in order of age. Several ServiceEntries of one namespace
// that name the same host are one service with the ports and endpoints of all (SEMANTICS §1.1).
func (c *compiler) findCandidates() {
	c.candidatesByHost, c.hidden = map[string][]*service{}, map[string]*service{}
	for _, kind := range []config.Kind{config.Service, config.ServiceEntry} {
		for _, o := range c.set.All(kind) {
			se := entryOf(o)
			if !c.visible(o) {
				c.hide(o)
				continue
			}
			for _, h := range se.Hosts {
				c.declare(resolveHost(h), o)
			}
		}
	}
	c.sortCandidates()
	for _, s := range c.candidates {
		c.complete(s)
		c.attachRule(s)
	}
	for _, s := range c.hidden {
		c.complete(s)
		c.attachRule(s)
	}
}

// hide keeps the hosts of an object of the caller's namespace that is not exported to it.
func (c *compiler) hide(o *config.Object) {
	if o.Namespace != c.group.Namespace {
		return
	}
	for _, h := range hostsOf(o) {
		if c.hidden[h] == nil {
			c.hidden[h] = newService(h, o)
		}
	}
}

// sortCandidates puts services into the order in which istiod asks them, and the entries of each.
func (c *compiler) sortCandidates() {
	for _, s := range c.candidates {
		if len(s.entries) > 1 {
			slices.SortStableFunc(s.entries, c.compareEntries)
			s.first, s.spec = s.entries[0], entryOf(s.entries[0])
		}
	}
	slices.SortStableFunc(c.candidates, c.compareServices)
	for _, same := range c.candidatesByHost {
		slices.SortStableFunc(same, c.compareServices)
	}
}

// compareEntries: what is not for everyone first, then by age.
func (c *compiler) compareEntries(a, b *config.Object) int {
	return cmp.Or(cmp.Compare(c.publicity(a), c.publicity(b)), a.Created.Compare(b.Created))
}

// publicity is 0 for an entry that is only for some namespaces, 1 for the others.
func (c *compiler) publicity(o *config.Object) int {
	to := entryOf(o).ExportTo
	if len(to) == 0 {
		to = c.mesh.serviceExportTo
	}
	if len(to) == 0 || slices.Contains(to, "*") {
		return 1
	}
	return 0
}

// compareServices: by their first entries, then by host (of a Kubernetes Service: its name) and namespace (istiod:
// push_context.go, SortServicesByCreationTime and servicesExportedToNamespace).
func (c *compiler) compareServices(a, b *service) int {
	name := func(s *service) string {
		if s.kubernetes() {
			return s.first.Name
		}
		return s.host
	}
	return cmp.Or(c.compareEntries(a.first, b.first), strings.Compare(name(a), name(b)), strings.Compare(a.first.Namespace, b.first.Namespace))
}

func (c *compiler) declare(host string, o *config.Object) {
	for _, s := range c.candidatesByHost[host] {
		if s.first.Namespace != o.Namespace {
			continue
		}
		// A Kubernetes Service is not merged with anything.
		if !slices.Contains(s.entries, o) && !s.kubernetes() && o.Kind != config.Service {
			s.entries = append(s.entries, o)
		}
		return
	}
	s := newService(host, o)
	c.candidates = append(c.candidates, s)
	c.candidatesByHost[host] = append(c.candidatesByHost[host], s)
}

func newService(host string, o *config.Object) *service {
	return &service{host: host, first: o, spec: entryOf(o), entries: []*config.Object{o}}
}

// kubernetes tells whether a Kubernetes Service declares the host.
func (s *service) kubernetes() bool { return s.first.Kind == config.Service }

// headless tells whether a Kubernetes Service is taken for one without an address, whose callers pick among its endpoints
// themselves.
func (s *service) headless() bool {
	return s.kubernetes() && s.spec.Resolution == networking.ServiceEntry_NONE
}

// complete fills in what follows from all entries of a service.
func (c *compiler) complete(s *service) {
	for _, o := range s.entries {
		se := entryOf(o)
		for _, p := range se.Ports {
			if _, ok := s.port(p.Number); ok {
				continue
			}
			s.ports = append(s.ports, servicePort{number: p.Number, name: p.Name, protocol: parseProtocol(p.Protocol), wellKnown: strings.ToUpper(p.Protocol)})
			slices.SortFunc(s.ports, func(a, b servicePort) int { return cmp.Compare(a.number, b.number) })
		}
		for _, a := range se.Addresses {
			if p, ok := parsePrefix(a); ok && !slices.Contains(s.vips, p) {
				s.vips = append(s.vips, p)
			}
		}
	}
	if c.group.CompatIstio {
		c.asIstio(s)
		return
	}
	if len(s.vips) > 0 {
		return
	}
	v, ok := c.set.VIPs(s.host)
	s.allocates, s.given = true, v
	for _, a := range []netip.Addr{v.V4, v.V6} {
		if ok && a.IsValid() {
			s.vips = append(s.vips, netip.PrefixFrom(a, a.BitLen()))
			s.allocated = true
		}
	}
}

// parsePrefix reads an address or a CIDR range.
func parsePrefix(s string) (netip.Prefix, bool) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), true
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, false
	}
	a = a.Unmap()
	return netip.PrefixFrom(a, a.BitLen()), true
}

// selectedWorkloads gives the WorkloadEntries that a ServiceEntry's workloadSelector picks: those of its namespace
// whose labels include the selector's. A WorkloadEntry with a DNS name or a unix socket as address counts only where the
// ServiceEntry resolves by DNS.
func (c *compiler) selectedWorkloads(o *config.Object) []*networking.WorkloadEntry {
	var out []*networking.WorkloadEntry
	for _, w := range c.workloads(o) {
		out = append(out, w.Spec.(*networking.WorkloadEntry))
	}
	return out
}

func (c *compiler) workloads(o *config.Object) []*config.Object {
	sel := entryOf(o).WorkloadSelector
	if sel == nil {
		return nil
	}
	var out []*config.Object
	byName := resolvesByName(entryOf(o).Resolution)
	for _, w := range c.set.All(config.WorkloadEntry) {
		we, ok := w.Spec.(*networking.WorkloadEntry)
		if ok && w.Namespace == o.Namespace && labelsInclude(we.Labels, sel.Labels) && (byName || !strings.HasPrefix(we.Address, unixPrefix)) {
			out = append(out, w)
		}
	}
	slices.SortStableFunc(out, func(a, b *config.Object) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// labelsInclude tells whether labels has every pair of want.
func labelsInclude(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
