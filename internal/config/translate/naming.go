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

// names is what the DNS proxy answers from: every host that has addresses of its own.
func (c *compiler) names() []xds.Name {
	var out []xds.Name
	for _, s := range c.services {
		var addrs []netip.Addr
		for _, p := range s.vips {
			if p.IsSingleIP() {
				addrs = append(addrs, p.Addr())
			}
		}
		if len(addrs) == 0 || isWildcard(s.host) {
			continue
		}
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
