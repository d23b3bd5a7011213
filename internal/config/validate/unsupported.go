package validate

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// This file holds what is right but not served yet; the rest of the package is what Istio itself refuses. A field that
// is not listed here as served is refused by name wherever it is set, so that nothing is ever silently ignored.

// served lists the fields that are compiled and run, by message. A message that is missing is served as a whole.
var served = map[protoreflect.Name]string{
	"ServiceEntry":                "hosts addresses ports location resolution endpoints exportTo subjectAltNames",
	"DestinationRule":             "host trafficPolicy exportTo",
	"TrafficPolicy":               "loadBalancer connectionPool outlierDetection tls",
	"LoadBalancerSettings":        "simple localityLbSetting",
	"LocalityLoadBalancerSetting": "failover enabled",
	"TCPSettings":                 "maxConnections connectTimeout tcpKeepalive maxConnectionDuration idleTimeout",
	"HTTPSettings":                "http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries idleTimeout",
	"ClientTLSSettings":           "mode clientCertificate privateKey caCertificates subjectAltNames sni insecureSkipVerify",
	"VirtualService":              "hosts gateways http exportTo",
	"HTTPRoute":                   "name match route retries",
	"HTTPMatchRequest":            "name uri",
	"HTTPRouteDestination":        "destination weight",
	"Destination":                 "host port",
}

// unserved refuses every field of m that is set and not served.
func (c *checker) unserved(path string, m protoreflect.Message) {
	words, limited := served[m.Descriptor().Name()]
	fields := strings.Fields(words)
	all := m.Descriptor().Fields()
	for i := range all.Len() {
		fd := all.Get(i)
		if !m.Has(fd) {
			continue
		}
		p := path + "." + fd.JSONName()
		if limited && !slices.Contains(fields, fd.JSONName()) {
			c.notYet(p, "%s is not supported yet", fd.JSONName())
			continue
		}
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			list := m.Get(fd).List()
			for j := range list.Len() {
				c.unserved(fmt.Sprintf("%s[%d]", p, j), list.Get(j).Message())
			}
		default:
			c.unserved(p, m.Get(fd).Message())
		}
	}
}

func (c *checker) notYet(path, format string, args ...any) {
	c.errorf(config.CodeUnsupported, path, format, args...)
}

// unsupportedExportTo: namespaces by name need the namespaces of callers, which come with Kubernetes.
func (c *checker) unsupportedExportTo(list []string) {
	for i, ns := range list {
		if ns != "*" && ns != "." {
			c.notYet(fmt.Sprintf("spec.exportTo[%d]", i), "%q is not supported yet; served: \"*\" and \".\"", ns)
		}
	}
}

// connectStrategy changes how a name's addresses are tried.
const connectStrategy = "istio.io/connect-strategy"

func (c *checker) unsupportedServiceEntry(se *networking.ServiceEntry) {
	c.unserved("spec", se.ProtoReflect())
	c.unsupportedExportTo(se.ExportTo)
	if _, there := c.o.Annotations[connectStrategy]; there {
		c.notYet("metadata.annotations", "%s is not supported yet", connectStrategy)
	}
	if r := se.Resolution; r != networking.ServiceEntry_DNS && r != networking.ServiceEntry_STATIC {
		c.notYet("spec.resolution", "%s is not supported yet; served: DNS and STATIC", r)
	}
	for i, h := range se.Hosts {
		if strings.Contains(h, "*") {
			c.notYet(fmt.Sprintf("spec.hosts[%d]", i), "the wildcard host %q is not supported yet", h)
		}
	}
	for i, a := range se.Addresses {
		if isCIDR(a) {
			c.notYet(fmt.Sprintf("spec.addresses[%d]", i), "the address range %q is not supported yet", a)
		}
	}
	for i, p := range se.Ports {
		switch path := fmt.Sprintf("spec.ports[%d].protocol", i); strings.ToUpper(p.Protocol) {
		case "":
			c.notYet(path, "a port without a protocol is not supported yet; give HTTP, HTTPS, TLS or TCP")
		case "HTTP2", "GRPC", "GRPC-WEB":
			c.notYet(path, "%s is not supported yet", p.Protocol)
		}
	}
}

func (c *checker) unsupportedDestinationRule(dr *networking.DestinationRule) {
	c.unserved("spec", dr.ProtoReflect())
	c.unsupportedExportTo(dr.ExportTo)
	tp := dr.TrafficPolicy
	if tp.GetLoadBalancer().GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		c.notYet("spec.trafficPolicy.loadBalancer.simple", "PASSTHROUGH is not supported yet; served: LEAST_REQUEST, ROUND_ROBIN and RANDOM")
	}
	if tp.GetTls().GetMode() == networking.ClientTLSSettings_ISTIO_MUTUAL {
		c.notYet("spec.trafficPolicy.tls.mode", "ISTIO_MUTUAL is not supported yet: it takes the mesh's own certificates, which exist inside a mesh only; choose SIMPLE or MUTUAL")
	}
}

func (c *checker) unsupportedVirtualService(vs *networking.VirtualService) {
	c.unserved("spec", vs.ProtoReflect())
	c.unsupportedExportTo(vs.ExportTo)
	for i, h := range vs.Hosts {
		if strings.Contains(h, "*") {
			c.notYet(fmt.Sprintf("spec.hosts[%d]", i), "the wildcard host %q is not supported yet", h)
		}
	}
	for i, r := range vs.Http {
		path := fmt.Sprintf("spec.http[%d]", i)
		if len(r.Route) > 1 {
			c.notYet(path+".route[1]", "several destinations are not supported yet; served: one")
		}
		for j, m := range r.Match {
			if m.Uri != nil && m.Uri.GetPrefix() != "/" {
				c.notYet(fmt.Sprintf("%s.match[%d].uri", path, j), "this match is not supported yet; served: prefix \"/\"")
			}
		}
	}
}
