package validate

import (
	"fmt"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// workloadEntry follows istiod's ValidateWorkloadEntry; names as addresses are allowed, for ServiceEntries that resolve
// by DNS.
func (c *checker) workloadEntry(w *networking.WorkloadEntry) {
	c.endpointAddress("spec.address", &networking.ServiceEntry{Resolution: networking.ServiceEntry_STATIC}, w, true)
	for _, name := range sortedKeys(w.Ports) {
		p := "spec.ports." + name
		if !isLabel(name) {
			c.errorf(config.CodeBadPortName, p, "%q is not a port's name; allowed: 1 to 63 letters, digits and '-'", name)
		}
		c.port(config.CodeBadPort, p, w.Ports[name])
	}
	c.labels("spec.labels", w.Labels)
	c.locality("spec.locality", w.Locality)
}

// sidecar follows istiod's ValidateSidecar as far as outbound traffic goes.
func (c *checker) sidecar(s *networking.Sidecar) {
	c.labels("spec.workloadSelector.labels", s.WorkloadSelector.GetLabels())
	if len(s.Egress)+len(s.Ingress) == 0 && s.OutboundTrafficPolicy == nil && s.InboundConnectionPool == nil {
		c.errorf(config.CodeSidecar, "spec", "is empty; give egress or outboundTrafficPolicy")
	}
	bare := -1
	for i, e := range s.Egress {
		path := fmt.Sprintf("spec.egress[%d]", i)
		if e.Port != nil {
			c.port(config.CodeSidecar, path+".port.number", e.Port.Number)
		} else if bare >= 0 {
			c.errorf(config.CodeSidecar, path, "is a second one without port, after spec.egress[%d]; only one catches all ports", bare)
		} else {
			bare = i
		}
		if e.Bind != "" && !isIP(e.Bind) && !strings.HasPrefix(e.Bind, unixPrefix) {
			c.errorf(config.CodeSidecar, path+".bind", "%q is not an address", e.Bind)
		}
		if len(e.Hosts) == 0 {
			c.errorf(config.CodeSidecar, path+".hosts", "is missing; wants NAMESPACE/HOST, as in \"./*\" or \"*/api.example.com\"")
		}
		for j, h := range e.Hosts {
			c.egressHost(fmt.Sprintf("%s.hosts[%d]", path, j), h)
		}
	}
	if p := s.OutboundTrafficPolicy.GetEgressProxy(); p != nil {
		c.destination("spec.outboundTrafficPolicy.egressProxy", p)
	}
}

func (c *checker) egressHost(path, h string) {
	ns, name, ok := strings.Cut(h, "/")
	switch {
	case !ok:
		c.errorf(config.CodeSidecar, path, "%q has no namespace; write NAMESPACE/HOST, as in \"*/%s\"", h, h)
	case ns != "*" && ns != "." && ns != "~" && !isLabel(ns):
		c.errorf(config.CodeSidecar, path, "%q: %q is not a namespace; allowed: \"*\" (all), \".\" (its own), \"~\" (none) or a namespace", h, ns)
	case name != "*":
		if err := checkDomain(name, true); err != nil {
			c.errorf(config.CodeSidecar, path, "%v", err)
		}
	}
}
