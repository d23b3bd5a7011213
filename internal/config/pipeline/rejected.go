package pipeline

import (
	"regexp"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// rejectedHost finds the host in what a sink says: in a cluster's name, outbound|PORT|SUBSET|HOST, or a virtual host's,
// HOST:PORT.
var rejectedHost = regexp.MustCompile(`outbound\|[0-9]+\|[^|]*\|([^\s)\]]+)|virtual_hosts\[([^\]]+):[0-9]+\]`)

// sinkIssues tells what the sink refused, each at the ServiceEntry it is about: a warning, for everything else is served.
// What validation warned of already is not said again.
func sinkIssues(rejected []xds.Rejection, set *config.Set, known []config.Issue) []config.Issue {
	var out []config.Issue
	for _, r := range rejected {
		i := config.Issue{Severity: config.Warning, Code: config.CodeSinkRejected,
			Message: "the engine does not serve " + r.Name + " (" + r.TypeURL[strings.LastIndexByte(r.TypeURL, '.')+1:] + "): " + r.Reason}
		host := ""
		if m := rejectedHost.FindStringSubmatch(r.Name + " " + r.Reason); m != nil {
			host = m[1] + m[2]
		}
		if host != "" && warned(host, set, known) {
			continue
		}
		for _, o := range set.All(config.ServiceEntry) {
			if host != "" && slices.Contains(hostsOf(o), host) {
				i.Object, i.Origin = o.Key, o.Origin
				break
			}
		}
		out = append(out, i)
	}
	return out
}

// warned tells whether validation said of an object about the host that the engine does not serve something of it.
func warned(host string, set *config.Set, known []config.Issue) bool {
	return slices.ContainsFunc(known, func(i config.Issue) bool {
		o := set.Get(i.Object)
		if i.Code != config.CodeUnsupported || o == nil {
			return false
		}
		if _, routes := o.Spec.(*networking.VirtualService); routes {
			return false
		}
		return slices.ContainsFunc(hostsOf(o), func(h string) bool {
			return h == host || strings.HasPrefix(h, "*") && strings.HasSuffix(host, h[1:])
		})
	})
}
