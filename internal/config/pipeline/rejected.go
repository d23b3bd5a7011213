package pipeline

import (
	"net"
	"regexp"
	"slices"
	"strconv"
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
			if host != "" && slices.Contains(hostsOf(o), host) || host == "" && states(o, r.Name) {
				i.Object, i.Origin = o.Key, o.Origin
				break
			}
		}
		if r.Listen != "" {
			i.Message = r.Reason
			if o, field := listenerOf(r.Listen, set); o != nil {
				i.Object, i.Origin, i.Field = o.Key, o.At(field), field
			}
		}
		out = append(out, i)
	}
	return out
}

// states tells whether a ServiceEntry states the address that a listener is named by: ADDRESS_PORT.
func states(o *config.Object, listener string) bool {
	address, _, found := strings.Cut(listener, "_")
	se, ok := o.Spec.(*networking.ServiceEntry)
	return found && ok && slices.Contains(se.Addresses, address)
}

// Refused gives what the sink refused as errors, for a start that can't go on without it.
func (p *Pipeline) Refused(rejected []xds.Rejection) error {
	status := p.Status()
	out := sinkIssues(rejected, status.Set, status.Issues)
	for i := range out {
		out[i].Severity = config.Error
	}
	return Errors(sortIssues(out))
}

// listenerOf finds the Sidecar that asks for a socket at an address, and where.
func listenerOf(address string, set *config.Set) (*config.Object, string) {
	host, port, _ := net.SplitHostPort(address)
	for _, o := range set.All(config.Sidecar) {
		for i, e := range o.Spec.(*networking.Sidecar).Egress {
			bind := e.Bind
			if bind == "" {
				bind = "127.0.0.1"
			}
			number := e.GetPort().GetNumber()
			if e.Bind == address || bind == host && (number == 0 || strconv.FormatUint(uint64(number), 10) == port) {
				return o, "spec.egress[" + strconv.Itoa(i) + "]"
			}
		}
	}
	return nil, ""
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
