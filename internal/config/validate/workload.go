package validate

import (
	"fmt"
	"slices"
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
	used := map[string]int{}
	for i, e := range s.Egress {
		path := fmt.Sprintf("spec.egress[%d]", i)
		if e.Port == nil && i < len(s.Egress)-1 {
			c.errorf(config.CodeSidecar, path, "has no port and is not the last; the one without port takes what is left, so it comes last")
		}
		c.egressBind(path, e)
		key := e.Bind
		if n := e.Port.GetNumber(); n > 0 {
			key = fmt.Sprint(n)
		}
		if first, taken := used[key]; taken {
			c.errorf(config.CodeSidecar, path, "%s is spec.egress[%d]'s already", key, first)
		}
		if e.Port != nil && key != "" {
			used[key] = i
		}
		if len(e.Hosts) == 0 {
			c.errorf(config.CodeSidecar, path+".hosts", "is missing; wants NAMESPACE/HOST, as in \"./*\" or \"*/api.example.com\"")
		}
		for j, h := range e.Hosts {
			c.egressHost(fmt.Sprintf("%s.hosts[%d]", path, j), h)
		}
	}
	c.egressProxy("spec.outboundTrafficPolicy", s.OutboundTrafficPolicy)
}

// egressBind follows istiod's validateSidecarEgressPortBindAndCaptureMode.
func (c *checker) egressBind(path string, e *networking.IstioEgressListener) {
	file, unix := strings.CutPrefix(e.Bind, unixPrefix)
	switch {
	case unix && !strings.HasPrefix(file, "@") && (!strings.HasPrefix(file, "/") || strings.HasSuffix(file, "/")):
		c.errorf(config.CodeSidecar, path+".bind", "%q is not an absolute path to a file; write unix:///path or unix://@name", e.Bind)
	case unix && e.CaptureMode == networking.CaptureMode_IPTABLES:
		c.errorf(config.CodeSidecar, path+".captureMode", "nothing is redirected to a unix socket; allowed: DEFAULT, NONE")
	case !unix && e.Bind != "" && !isIP(e.Bind):
		c.errorf(config.CodeSidecar, path+".bind", "%q is not an address; allowed: an IP address, unix:///path or unix://@name", e.Bind)
	}
	p := e.Port
	switch {
	case unix && p == nil:
		c.errorf(config.CodeSidecar, path+".port", "is missing: a unix socket serves one protocol; write port: {number: 0, protocol: HTTP, name: http}")
		return
	case p == nil:
		return
	case unix && p.Number != 0:
		c.errorf(config.CodeSidecar, path+".port.number", "a unix socket has no port; leave number out, or write 0")
	case !unix:
		c.port(config.CodeSidecar, path+".port.number", p.Number)
	}
	if !slices.Contains(protocols, strings.ToLower(p.Protocol)) {
		c.errorf(config.CodeSidecar, path+".port.protocol", "%q is not a protocol; allowed: HTTP, HTTP_PROXY, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, REDIS, MYSQL, UDP", p.Protocol)
	}
}

// egressProxy follows istiod's validateSidecarOutboundTrafficPolicy.
func (c *checker) egressProxy(path string, t *networking.OutboundTrafficPolicy) {
	p := t.GetEgressProxy()
	switch {
	case p == nil:
		return
	case t.Mode != networking.OutboundTrafficPolicy_ALLOW_ANY:
		c.errorf(config.CodeSidecar, path+".egressProxy", "needs mode: ALLOW_ANY; with REGISTRY_ONLY nothing undeclared is let through")
	case p.Port == nil:
		c.errorf(config.CodeSidecar, path+".egressProxy.port", "is missing; wants the port of the host that gets what nobody declares")
	}
	c.destination(path+".egressProxy", p)
}

func (c *checker) egressHost(path, h string) {
	ns, name, ok := strings.Cut(h, "/")
	switch {
	case !ok:
		c.errorf(config.CodeSidecar, path, "%q has no namespace; write NAMESPACE/HOST, as in \"*/%s\"", h, h)
	case !slices.Contains([]string{"*", ".", "~", "~*", "~."}, ns) && !isLabel(strings.TrimPrefix(ns, "~")):
		c.errorf(config.CodeSidecar, path, "%q: %q is not a namespace; allowed: \"*\" (all), \".\" (its own) or a namespace, each with \"~\" before it to exclude", h, ns)
	case name != "*":
		if err := checkDomain(name, true); err != nil {
			c.errorf(config.CodeSidecar, path, "%v", err)
		}
	}
}
