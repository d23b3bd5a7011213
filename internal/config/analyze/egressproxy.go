package analyze

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// egressProxies: what nothing declares goes to a cluster that is not there.
func (r *run) egressProxies(set *config.Set, d *directory) {
	for _, o := range set.All(config.Sidecar) {
		spec := o.Spec.(*networking.Sidecar)
		p := spec.OutboundTrafficPolicy.GetEgressProxy()
		if p == nil || !strings.Contains(p.Host, ".") { // a short name is a Kubernetes Service
			continue
		}
		const path = "spec.outboundTrafficPolicy.egressProxy"
		field, what := d.missing(p, o.Namespace)
		if what == "" && !letsIn(spec.Egress, p.Host) {
			field, what = "host", fmt.Sprintf("egress lets %s in nowhere; add \"*/%s\" to its hosts", p.Host, p.Host)
		}
		if what != "" {
			r.report(config.Warningf(o, CodeNoEgressProxy, path+"."+field, "requests for hosts that nothing declares get 503, and other connections are closed: %s", what))
		}
	}
}

// missing tells what of a destination is not declared, and the field that asks for it; "": nothing.
func (d *directory) missing(p *networking.Destination, namespace string) (field, what string) {
	host := normal(p.Host)
	ports, n := d.ports[host], p.GetPort().GetNumber()
	there, known := d.subset(host, p.Subset)
	switch {
	case !d.defines(host, namespace):
		return "host", "nothing declares " + p.Host + d.nearest(p.Host)
	case len(ports) > 0 && !ports[n]:
		return "port.number", fmt.Sprintf("%s has no port %d; declared: %s", p.Host, n, servicePorts(ports))
	case p.Subset != "" && !there && (known || len(ports) > 0):
		return "subset", fmt.Sprintf("no DestinationRule declares subset %s of %s", p.Subset, p.Host)
	}
	return "", ""
}

// letsIn tells whether a Sidecar's egress may import a host. In which namespace it is declared is not asked.
func letsIn(egress []*networking.IstioEgressListener, host string) bool {
	return len(egress) == 0 || slices.ContainsFunc(egress, func(l *networking.IstioEgressListener) bool {
		return slices.ContainsFunc(l.Hosts, func(h string) bool {
			ns, name, _ := strings.Cut(h, "/")
			return ns != "~" && (name == "*" || covers(normal(name), normal(host)))
		})
	})
}
