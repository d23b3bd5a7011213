package validate

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// sidecar follows istiod's ValidateSidecar. Its ingress says nothing about outbound traffic, and is judged because istiod
// takes no Sidecar of which a part is wrong.
func (c *checker) sidecar(s *networking.Sidecar) {
	if s.WorkloadSelector != nil {
		c.selector("spec.workloadSelector", "labels", s.WorkloadSelector.Labels)
	}
	if len(s.Egress)+len(s.Ingress) == 0 && s.OutboundTrafficPolicy == nil && s.InboundConnectionPool == nil {
		c.errorf(config.CodeSidecar, "spec", "is empty; give egress or outboundTrafficPolicy")
	}
	c.connectionPool("spec.inboundConnectionPool", s.InboundConnectionPool)
	c.ingress(s.Ingress)
	taken := map[string]int{}
	for i, e := range s.Egress {
		path := fmt.Sprintf("spec.egress[%d]", i)
		switch {
		case e.Port == nil && i < len(s.Egress)-1:
			c.errorf(config.CodeSidecar, path, "has no port, so it catches all ports that are left; it must be the last, and the only one")
		case e.Port != nil:
			key := strconv.FormatUint(uint64(e.Port.Number), 10)
			if e.Port.Number == 0 {
				key = e.Bind
			}
			if was, there := taken[key]; there {
				c.errorf(config.CodeSidecar, path+".port.number", "%s is taken by spec.egress[%d]; each port stands once, whatever it binds to", key, was)
			}
			taken[key] = i
			c.sidecarPort(path+".port", e.Port)
			c.egressBind(path, e)
		}
		if e.Port == nil && strings.HasPrefix(e.Bind, unixPrefix) {
			c.warnf(config.CodeSidecar, path+".bind", "a unix socket without a port is not opened; write port: {number: 0, protocol: HTTP, name: http}")
		}
		c.egressHosts(path+".hosts", e.Hosts)
	}
	c.outboundPolicy("spec.outboundTrafficPolicy", s.OutboundTrafficPolicy)
}

func (c *checker) sidecarPort(path string, p *networking.SidecarPort) {
	if p.Name != "" && !isLabel(p.Name) {
		c.errorf(config.CodeSidecar, path+".name", "%q is not a port's name; allowed: letters, digits and '-'", p.Name)
	}
	if !slices.Contains(protocols, strings.ToLower(p.Protocol)) {
		c.errorf(config.CodeSidecar, path+".protocol", "%q is not a protocol; allowed: HTTP, HTTPS, HTTP2, GRPC, GRPC-WEB, HTTP_PROXY, TCP, TLS, MONGO, REDIS, MYSQL, UDP", p.Protocol)
	}
	//lint:ignore SA1019 people's files may hold it
	if p.TargetPort > 0 {
		c.errorf(config.CodeSidecar, path+".targetPort", "has no meaning in a Sidecar; remove it")
	}
}

// egressBind checks what an egress listener with a port binds to: port 0 is a unix socket's.
func (c *checker) egressBind(path string, e *networking.IstioEgressListener) {
	if e.Port.Number != 0 {
		c.port(config.CodeSidecar, path+".port.number", e.Port.Number)
		if e.Bind != "" && !isIP(e.Bind) {
			c.errorf(config.CodeSidecar, path+".bind", "%q is not an address; a unix socket needs port number 0", e.Bind)
		}
		return
	}
	if !isUnixAddress(e.Bind) {
		c.errorf(config.CodeSidecar, path+".bind", "%q does not fit port number 0, which is for unix sockets; write unix:///path, or a port of 1 to 65535", e.Bind)
	}
	if e.CaptureMode == networking.CaptureMode_IPTABLES {
		c.errorf(config.CodeSidecar, path+".captureMode", "IPTABLES can't capture what goes to a unix socket; allowed: DEFAULT, NONE")
	}
}

// egressHosts checks NAMESPACE/HOST, where "~" before the namespace excludes, and tells of those that others include.
func (c *checker) egressHosts(path string, hosts []string) {
	if len(hosts) == 0 {
		c.errorf(config.CodeSidecar, path, "is missing; wants NAMESPACE/HOST, as in \"./*\" or \"*/api.example.com\"")
	}
	seen := map[string]map[string]bool{}
	for i, h := range hosts {
		p := fmt.Sprintf("%s[%d]", path, i)
		ns, name, ok := c.egressHost(p, h)
		if !ok || strings.HasPrefix(ns, "~") {
			continue
		}
		if ns == "." {
			ns = c.o.Namespace
		}
		if seen[ns] == nil {
			seen[ns] = map[string]bool{}
		}
		if seen[ns][name] || name != "*" && seen[ns]["*"] || name == "*" && len(seen[ns]) > 0 {
			c.warnf(config.CodeSidecar, p, "%q overlaps with another host of the same namespace here; remove one of them", h)
		}
		seen[ns][name] = true
	}
	if seen["*"]["*"] && len(seen) > 1 {
		c.warnf(config.CodeSidecar, path, "\"*/*\" includes everything, so the others change nothing; remove it or them")
	}
}

func (c *checker) egressHost(path, h string) (ns, name string, ok bool) {
	ns, name, ok = strings.Cut(h, "/")
	bare := strings.TrimPrefix(ns, "~")
	switch {
	case !ok:
		c.errorf(config.CodeSidecar, path, "%q has no namespace; write NAMESPACE/HOST, as in \"*/%s\"", h, h)
	case ns == "" || name == "":
		c.errorf(config.CodeSidecar, path, "%q wants both a namespace and a host, as in \"./*\"", h)
	case bare != "" && bare != "*" && bare != "." && !isLabel(bare):
		c.errorf(config.CodeSidecar, path, "%q: %q is not a namespace; allowed: \"*\" (all), \".\" (its own) or a namespace, each with \"~\" before it to exclude, and \"~\" alone (exclude from all)", h, ns)
	case name == "*":
	case isPartialWildcard(name):
		c.errorf(config.CodeSidecar, path, "%q: a wildcard is \"*\" alone or begins with \"*.\"", h)
	default:
		if err := checkDomain(name, true); err != nil {
			c.errorf(config.CodeSidecar, path, "%v", err)
		} else if !strings.Contains(name, ".") {
			c.errorf(config.CodeSidecar, path, "%q: short names are not allowed; write the full name, as in %s.%s", h, name, config.ClusterDomain)
		}
	}
	return ns, name, ok
}

func (c *checker) outboundPolicy(path string, p *networking.OutboundTrafficPolicy) {
	proxy := p.GetEgressProxy()
	if proxy == nil {
		return
	}
	path += ".egressProxy"
	if p.Mode != networking.OutboundTrafficPolicy_ALLOW_ANY {
		c.errorf(config.CodeSidecar, path, "is for mode ALLOW_ANY only; the mode is %s", p.Mode)
	}
	if proxy.Port == nil {
		c.errorf(config.CodeSidecar, path+".port", "is missing")
	}
	if err := checkDomain(proxy.Host, false); err != nil {
		c.errorf(config.CodeSidecar, path+".host", "%v", err)
		return
	}
	c.destination(path, proxy)
}

func (c *checker) ingress(list []*networking.IstioIngressListener) {
	taken := map[uint32]int{}
	for i, l := range list {
		path := fmt.Sprintf("spec.ingress[%d]", i)
		if l.Port == nil {
			c.errorf(config.CodeSidecar, path+".port", "is missing")
			continue
		}
		c.port(config.CodeSidecar, path+".port.number", l.Port.Number)
		c.sidecarPort(path+".port", l.Port)
		if was, there := taken[l.Port.Number]; there {
			c.errorf(config.CodeSidecar, path+".port.number", "%d is taken by spec.ingress[%d]", l.Port.Number, was)
		}
		taken[l.Port.Number] = i
		if l.Bind != "" && !isIP(l.Bind) {
			c.errorf(config.CodeSidecar, path+".bind", "%q is not an address", l.Bind)
		}
		c.defaultEndpoint(path+".defaultEndpoint", l.DefaultEndpoint)
		c.ingressTLS(path+".tls", l)
		c.connectionPool(path+".connectionPool", l.ConnectionPool)
		if l.ConnectionPool.GetHttp() != nil && !slices.Contains([]string{"http", "http2", "grpc", "grpc-web", "http_proxy"}, strings.ToLower(l.Port.Protocol)) {
			c.warnf(config.CodeSidecar, path+".connectionPool.http", "is without effect on a port with protocol %q; only tcp applies", l.Port.Protocol)
		}
	}
}

// ownAddresses are those at which a Sidecar's workload can listen.
var ownAddresses = []string{"", "127.0.0.1", "0.0.0.0", "::1", "::"}

func (c *checker) defaultEndpoint(path, e string) {
	if e == "" || isUnixAddress(e) {
		return
	}
	host, port, err := net.SplitHostPort(e)
	n, bad := strconv.Atoi(port)
	if strings.HasPrefix(e, unixPrefix) || err != nil || bad != nil || n < 1 || n > 65535 || !slices.Contains(ownAddresses, host) {
		c.errorf(config.CodeSidecar, path, "%q is not allowed; wants 127.0.0.1:PORT, 0.0.0.0:PORT, [::1]:PORT, [::]:PORT, :PORT or unix:///path", e)
	}
}

// ingressTLS: a sidecar takes its certificate from files.
func (c *checker) ingressTLS(path string, l *networking.IstioIngressListener) {
	t := l.Tls
	if t == nil {
		return
	}
	if p := strings.ToLower(l.Port.Protocol); p != "https" && p != "tls" {
		c.errorf(config.CodeSidecar, path, "is for ports with protocol HTTPS or TLS; this one has %q", l.Port.Protocol)
	}
	unsupported := map[string]bool{
		"subjectAltNames": len(t.SubjectAltNames) > 0, "httpsRedirect": t.HttpsRedirect, "credentialName": t.CredentialName != "",
		"credentialNames": len(t.CredentialNames) > 0, "tlsCertificates": len(t.TlsCertificates) > 0,
	}
	for _, name := range sortedKeys(unsupported) {
		if unsupported[name] {
			c.errorf(config.CodeSidecar, path+"."+name, "is not supported in a Sidecar; remove it")
		}
	}
	mutual := t.Mode == networking.ServerTLSSettings_MUTUAL || t.Mode == networking.ServerTLSSettings_OPTIONAL_MUTUAL
	switch {
	case t.Mode == networking.ServerTLSSettings_ISTIO_MUTUAL || t.Mode == networking.ServerTLSSettings_AUTO_PASSTHROUGH:
		c.errorf(config.CodeSidecar, path+".mode", "%s is not allowed in a Sidecar; allowed: SIMPLE, MUTUAL, OPTIONAL_MUTUAL, PASSTHROUGH", t.Mode)
	case mutual && t.CaCertificates == "":
		c.errorf(config.CodeSidecar, path+".caCertificates", "is missing; mode %s needs it", t.Mode)
	case t.Mode == networking.ServerTLSSettings_SIMPLE && t.CaCrl != "":
		c.errorf(config.CodeSidecar, path+".caCrl", "is for mode MUTUAL only")
	case t.Mode == networking.ServerTLSSettings_PASSTHROUGH && t.ServerCertificate+t.PrivateKey+t.CaCertificates+t.CaCrl != "":
		c.warnf(config.CodeSidecar, path, "mode PASSTHROUGH uses no certificates")
	}
	if (mutual || t.Mode == networking.ServerTLSSettings_SIMPLE) && (t.ServerCertificate == "" || t.PrivateKey == "") && t.CredentialName == "" {
		c.errorf(config.CodeSidecar, path, "mode %s needs serverCertificate and privateKey", t.Mode)
	}
}
