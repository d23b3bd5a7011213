package validate

import (
	"fmt"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// Protocols of a service port that Istio knows (pkg/config/protocol), lower case; "" means that it finds out.
var (
	protocols = []string{"http", "https", "http2", "grpc", "grpc-web", "http_proxy", "tcp", "tls", "mongo", "redis", "mysql", "udp", ""}
	// named are those whose bytes name the host asked for, so that several hosts can share a port without addresses.
	named = []string{"http", "http2", "grpc", "grpc-web", "http_proxy", "https", "tls"}
	// byAddress are those that istiod tells apart by address where there is one.
	byAddress = []string{"tcp", "https", "tls", "mongo", "redis", "mysql"}
)

// serviceEntry follows istiod's ValidateServiceEntry (SEMANTICS §1.1).
func (c *checker) serviceEntry(se *networking.ServiceEntry) {
	c.serviceHosts(se)
	ports := c.servicePorts(se)
	c.serviceAddresses(se)
	c.exportTo(se.ExportTo)
	if se.WorkloadSelector != nil {
		if len(se.Endpoints) > 0 {
			c.errorf(config.CodeEndpoints, "spec.workloadSelector", "excludes endpoints; give one of them")
		}
		c.selector("spec.workloadSelector", "labels", se.WorkloadSelector.Labels)
	}
	c.resolution(se)
	for i, e := range se.Endpoints {
		c.endpoint(fmt.Sprintf("spec.endpoints[%d]", i), se, e, ports)
	}
}

func (c *checker) serviceHosts(se *networking.ServiceEntry) {
	if len(se.Hosts) == 0 {
		c.errorf(config.CodeNoHost, "spec.hosts", "is missing; a ServiceEntry has at least one host")
	}
	for i, h := range se.Hosts {
		path := fmt.Sprintf("spec.hosts[%d]", i)
		if h == "*" {
			c.errorf(config.CodeBadHost, path, "\"*\" alone is not allowed; write a host, or a part of one as in \"*.example.com\"")
		} else if err := checkDomain(h, true); err != nil {
			c.errorf(config.CodeBadHost, path, "%v", err)
		} else if isPartialWildcard(h) && se.Resolution != networking.ServiceEntry_DYNAMIC_DNS {
			c.warnf(config.CodeBadHost, path, "%q: a wildcard for part of a label works with resolution DYNAMIC_DNS only; write \"*.\" and a domain", h)
		}
	}
}

// servicePorts checks the ports and gives the names that endpoints may use.
func (c *checker) servicePorts(se *networking.ServiceEntry) map[string]bool {
	names, numbers := map[string]bool{}, map[uint32]bool{}
	bare := ""
	if len(se.Ports) == 0 {
		c.warnf(config.CodeBadPort, "spec.ports", "is missing; a service without ports takes no traffic")
	}
	for i, p := range se.Ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		if !isLabel(p.Name) {
			c.errorf(config.CodeBadPortName, path+".name", "%q is not a port's name; allowed: 1 to 63 letters, digits and '-'", p.Name)
		} else if names[p.Name] {
			c.errorf(config.CodeDuplicatePort, path+".name", "the name %q is taken by an earlier port", p.Name)
		}
		c.port(config.CodeBadPort, path+".number", p.Number)
		if numbers[p.Number] {
			c.errorf(config.CodeDuplicatePort, path+".number", "port %d is declared by an earlier entry", p.Number)
		}
		if p.TargetPort != 0 {
			c.port(config.CodeBadPort, path+".targetPort", p.TargetPort)
		}
		proto := strings.ToLower(p.Protocol)
		if !slices.Contains(protocols, proto) {
			c.errorf(config.CodeBadProtocol, path+".protocol", "%q is not a protocol%s; allowed: HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, TCP, TLS, MONGO, REDIS, MYSQL, UDP", p.Protocol, nearestProtocol(p.Protocol))
		} else if !slices.Contains(named, proto) {
			bare = path + ".protocol"
		}
		if proto == "udp" {
			c.warnf(config.CodeBadProtocol, path+".protocol", "the port is ignored, as in Istio: datagrams are not carried")
		}
		names[p.Name], numbers[p.Number] = true, true
	}
	if len(se.Hosts) > 1 && bare != "" && se.Resolution != networking.ServiceEntry_NONE {
		c.errorf(config.CodeManyHostsTCP, bare, "several hosts can't share a port whose bytes name no host; allowed with several hosts: HTTP, HTTPS and TLS, or one ServiceEntry for each")
	}
	return names
}

// nearestProtocol gives the protocol that was likely meant, as config.DidYouMean writes it.
func nearestProtocol(p string) string {
	var words []string
	for _, w := range protocols {
		if w != "" {
			words = append(words, strings.ToUpper(w))
		}
	}
	return config.DidYouMean(strings.ToUpper(p), words)
}

func (c *checker) serviceAddresses(se *networking.ServiceEntry) {
	if se.Resolution == networking.ServiceEntry_DYNAMIC_DNS && len(se.Addresses) > 0 {
		c.errorf(config.CodeBadAddress, "spec.addresses", "not allowed with resolution DYNAMIC_DNS: the host that is asked for is looked up")
	}
	for i, a := range se.Addresses {
		path := fmt.Sprintf("spec.addresses[%d]", i)
		switch {
		case isIP(a):
		case !isCIDR(a):
			c.errorf(config.CodeBadAddress, path, "%q is not an IP address; allowed: an address, or with resolution NONE or STATIC a range as in 10.0.0.0/8", a)
		case se.Resolution != networking.ServiceEntry_NONE && se.Resolution != networking.ServiceEntry_STATIC:
			c.errorf(config.CodeCIDR, path, "the range %q is allowed with resolution NONE or STATIC only", a)
		}
	}
}

// resolution checks that hosts and endpoints are such as the resolution needs.
func (c *checker) resolution(se *networking.ServiceEntry) {
	n := len(se.Endpoints)
	switch se.Resolution {
	case networking.ServiceEntry_NONE:
		if n > 0 {
			c.errorf(config.CodeEndpoints, "spec.endpoints", "not allowed with resolution NONE; choose STATIC or DNS, or leave them out")
		}
		if se.WorkloadSelector != nil {
			c.warnf(config.CodeEndpoints, "spec.workloadSelector", "selects nothing with resolution NONE; choose STATIC or DNS, or leave it out")
		}
		for i, p := range se.Ports {
			if len(se.Addresses) == 0 && !slices.Contains(named, strings.ToLower(p.Protocol)) {
				c.warnf(config.CodeBadAddress, fmt.Sprintf("spec.ports[%d].protocol", i), "a port that names no host needs spec.addresses with resolution NONE; without them the whole port goes there")
			}
		}
	case networking.ServiceEntry_STATIC:
		if n == 0 && se.WorkloadSelector == nil {
			c.warnf(config.CodeEndpoints, "spec.resolution", "STATIC without endpoints: the host answers nothing but 503")
		}
	case networking.ServiceEntry_DNS, networking.ServiceEntry_DNS_ROUND_ROBIN:
		c.dnsResolution(se)
	case networking.ServiceEntry_DYNAMIC_DNS:
		c.dynamicResolution(se)
	}
}

func (c *checker) dnsResolution(se *networking.ServiceEntry) {
	n := len(se.Endpoints)
	if n > 1 && se.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN {
		c.errorf(config.CodeEndpoints, "spec.endpoints", "has %d; allowed with resolution DNS_ROUND_ROBIN: at most 1", n)
	}
	for i, h := range se.Hosts {
		if n == 0 && h != "*" && checkDomain(h, true) == nil && checkDomain(h, false) != nil {
			c.errorf(config.CodeBadHost, fmt.Sprintf("spec.hosts[%d]", i), "%q can't be looked up: with resolution %s and no endpoints hosts are full names", h, se.Resolution)
		}
	}
	if len(se.Hosts) < 2 || len(se.Addresses) == 0 {
		return
	}
	for i, p := range se.Ports {
		if slices.Contains(byAddress, strings.ToLower(p.Protocol)) {
			c.warnf(config.CodeManyHostsTCP, fmt.Sprintf("spec.ports[%d].protocol", i), "connections to spec.addresses are told apart by address, and %d hosts share these; give each host a ServiceEntry and addresses of its own", len(se.Hosts))
			return
		}
	}
}

// dynamicProtocols are those whose first bytes name the host to look up (resolution DYNAMIC_DNS).
var dynamicProtocols = []string{"http", "http2", "grpc", "tls"}

func (c *checker) dynamicResolution(se *networking.ServiceEntry) {
	if len(se.Endpoints) > 0 {
		c.errorf(config.CodeEndpoints, "spec.endpoints", "not allowed with resolution DYNAMIC_DNS")
	}
	for i, h := range se.Hosts {
		if !strings.HasPrefix(h, "*") {
			c.errorf(config.CodeBadHost, fmt.Sprintf("spec.hosts[%d]", i), "%q is not a wildcard; resolution DYNAMIC_DNS is for those, as in \"*.example.com\": write DNS for one host", h)
		}
	}
	for i, p := range se.Ports {
		if !slices.Contains(dynamicProtocols, strings.ToLower(p.Protocol)) {
			c.errorf(config.CodeBadProtocol, fmt.Sprintf("spec.ports[%d].protocol", i), "%q is not allowed with resolution DYNAMIC_DNS; allowed: HTTP, HTTP2, GRPC, TLS", p.Protocol)
		}
	}
	if w := c.o.Labels[waypointLabel]; se.Location == networking.ServiceEntry_MESH_INTERNAL && w != "" && !strings.EqualFold(w, "none") {
		c.errorf(config.CodeEndpoints, "spec.location", "MESH_INTERNAL is not allowed with resolution DYNAMIC_DNS and the label %s", waypointLabel)
	}
}

// waypointLabel, on a ServiceEntry, names the waypoint that serves it in a mesh.
const waypointLabel = "istio.io/use-waypoint"

const unixPrefix = "unix://"

func (c *checker) endpoint(path string, se *networking.ServiceEntry, e *networking.WorkloadEntry, ports map[string]bool) {
	c.endpointAddress(path+".address", se, e)
	for _, name := range sortedKeys(e.Ports) {
		p := path + ".ports." + name
		if !ports[name] {
			c.errorf(config.CodeEndpointPort, p, "the ServiceEntry has no port named %q; it has: %s", name, strings.Join(sortedKeys(ports), ", "))
		}
		c.port(config.CodeBadPort, p, e.Ports[name])
	}
	c.labels(path+".labels", e.Labels)
	c.locality(path+".locality", e.Locality)
}

func (c *checker) locality(path, l string) {
	if n := strings.Count(l, "/"); n > 2 {
		c.warnf(config.CodeBadEndpoint, path, "%q has %d parts; only region/zone/subzone count", l, n+1)
	}
}

// endpointAddress checks an endpoint's address by its service's resolution.
func (c *checker) endpointAddress(path string, se *networking.ServiceEntry, e *networking.WorkloadEntry) {
	switch static := se.Resolution == networking.ServiceEntry_STATIC; {
	case static && e.Address == "" && e.Network != "":
		c.warnf(config.CodeBadEndpoint, path, "is missing: a network alone is of use in a mesh of several networks only, here nothing goes there")
	case e.Address == "":
		c.errorf(config.CodeBadEndpoint, path, "is missing; wants an IP address, a host name (resolution DNS) or unix:///path (resolution STATIC)")
	case strings.HasPrefix(e.Address, unixPrefix) && !static:
		c.errorf(config.CodeBadEndpoint, path, "%q is allowed with resolution STATIC only", e.Address)
	case strings.HasPrefix(e.Address, unixPrefix):
		c.unixAddress(config.CodeBadEndpoint, path, e)
		if len(se.Ports) != 1 {
			c.errorf(config.CodeBadEndpoint, path, "a unix socket serves one port; the ServiceEntry has %d", len(se.Ports))
		}
	case isIP(e.Address):
	case static:
		c.errorf(config.CodeBadEndpoint, path, "%q is not an IP address, which resolution STATIC demands; choose DNS for names", e.Address)
	default:
		if err := checkDomain(e.Address, false); err != nil {
			c.errorf(config.CodeBadEndpoint, path, "%v", err)
		}
	}
}

// unixAddress checks unix:///path and unix://@name.
func (c *checker) unixAddress(code, path string, e *networking.WorkloadEntry) {
	if !isUnixAddress(e.Address) {
		c.errorf(code, path, "%q is not an absolute path to a socket; write unix:///path or unix://@name", e.Address)
	}
	if len(e.Ports) > 0 {
		c.errorf(code, path, "a unix socket has no ports; remove them")
	}
}

func isUnixAddress(a string) bool {
	file, unix := strings.CutPrefix(a, unixPrefix)
	return unix && (strings.HasPrefix(file, "@") || strings.HasPrefix(file, "/") && !strings.HasSuffix(file, "/"))
}
