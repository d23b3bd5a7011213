package translate

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// Names of resources that exist whatever the configuration says (istiod: pilot/pkg/networking/util).
const (
	passthroughName = "PassthroughCluster"
	blackHoleName   = "BlackHoleCluster"
	anyV4           = "0.0.0.0"
	anyV6           = "::"
)

// clusterName is outbound|PORT|SUBSET|HOST.
func clusterName(port uint32, subset, host string) string {
	return "outbound|" + strconv.FormatUint(uint64(port), 10) + "|" + subset + "|" + host
}

// listenerName is ADDRESS_PORT.
func listenerName(address string, port uint32) string {
	return address + "_" + strconv.FormatUint(uint64(port), 10)
}

// configPath names the object a resource came from, as istiod writes it into metadata and istioctl reads it for its
// "DESTINATION RULE" and "VIRTUAL SERVICE" columns.
func configPath(o *config.Object) string {
	kind := map[config.Kind]string{
		config.DestinationRule: "destination-rule",
		config.VirtualService:  "virtual-service",
	}[o.Kind]
	return "/apis/networking.istio.io/v1alpha3/namespaces/" + o.Namespace + "/" + kind + "/" + o.Name
}

// isWildcard tells whether a host is "*" or "*.suffix".
func isWildcard(host string) bool { return strings.HasPrefix(host, "*") }

// hostMatches tells whether pattern covers host; a wildcard host is covered by a wildcard that is no narrower
// (istiod: pkg/config/host.Name.SubsetOf).
func hostMatches(pattern, host string) bool {
	if pattern == host {
		return true
	}
	if !isWildcard(pattern) {
		return false
	}
	return strings.HasSuffix(strings.TrimPrefix(host, "*"), pattern[1:])
}

// moreSpecific orders two patterns that both match: an exact host before a wildcard, a longer wildcard before a
// shorter one.
func moreSpecific(a, b string) bool {
	if isWildcard(a) != isWildcard(b) {
		return !isWildcard(a)
	}
	return len(a) > len(b)
}

// resolveHost gives the full name of a host as an object writes it: lower case, without a trailing dot. A name without
// a dot stays as it is; outside Kubernetes there is no cluster domain to complete it with.
func resolveHost(host string) string {
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

// exportedTo tells whether an object of namespace ns with that exportTo list is visible from the namespace to. An empty
// list means what MeshConfig says of the kind, by default everyone.
func exportedTo(exportTo, byDefault []string, ns, to string) bool {
	if len(exportTo) == 0 {
		exportTo = byDefault
	}
	if len(exportTo) == 0 {
		return true
	}
	return slices.ContainsFunc(exportTo, func(e string) bool {
		return e == "*" || e == to || (e == "." && ns == to)
	})
}

// namesAfter gives the names, those of the run before but for what changed. A Service's short names depend on what else is
// declared, so where there are any all are made anew.
func (c *compiler) namesAfter(out *output) {
	before := c.before
	if before.made == c && len(c.entered) == 0 {
		out.names, out.namesSum = before.names, before.namesSum
		return
	}
	if before.made != c || len(c.set.All(config.Service)) > 0 {
		out.names = c.names()
	} else {
		out.names = append(make([]xds.Name, 0, len(before.names)+len(c.entered)), before.names...)
		for h := range c.dirty {
			i, found := slices.BinarySearchFunc(out.names, h, func(n xds.Name, h string) int { return strings.Compare(n.Host, h) })
			if found {
				out.names = slices.Delete(out.names, i, i+1)
			}
			if s := c.byHost[h]; s != nil && s.named() {
				out.names = slices.Insert(out.names, i, xds.Name{Host: h, Addrs: s.singles()})
			}
		}
	}
	out.namesSum = xds.SumOfNames(out.names)
}

// singles gives the single addresses of a service.
func (s *service) singles() (out []netip.Addr) {
	for _, p := range s.vips {
		if p.IsSingleIP() {
			out = append(out, p.Addr())
		}
	}
	return out
}

// named tells whether the DNS proxy answers for a service.
func (s *service) named() bool {
	return !isWildcard(s.host) && slices.ContainsFunc(s.vips, netip.Prefix.IsSingleIP)
}

// names is what the DNS proxy answers from: every host that has addresses of its own.
func (c *compiler) names() []xds.Name {
	var out []xds.Name
	for _, s := range c.services {
		if !s.named() {
			continue
		}
		addrs := s.singles()
		out = append(out, xds.Name{Host: s.host, Addrs: addrs})
		if s.kubernetes() {
			for _, h := range c.shortNames(s.first) {
				if h = resolveHost(h); c.byHost[h] == nil { // what is declared under its full name counts
					out = append(out, xds.Name{Host: h, Addrs: addrs})
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b xds.Name) int { return strings.Compare(a.Host, b.Host) })
	return out
}
