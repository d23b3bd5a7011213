package analyze

import (
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"
)

// protocols tells of rules that no connection to the hosts can come to, because none of their ports has the protocol they
// are for: http rules see requests, tls rules the name in a ClientHello, tcp rules bytes.
func (v *routes) protocols() {
	ports := map[string]bool{}
	for _, h := range v.spec.Hosts {
		plans := v.planned[normal(h)]
		if len(plans) == 0 {
			return // a wildcard, or somebody else's
		}
		for _, p := range plans {
			if !statesProtocol(p) {
				return // the first bytes decide
			}
			ports[p.Protocol] = true
		}
	}
	hosts := strings.Join(v.spec.Hosts, ", ")
	if len(v.spec.Http) > 0 && len(ports) > 0 && !ports["http"] {
		what := "carries bytes that nobody reads"
		if ports["tls"] {
			what = "carries TLS that the application speaks itself, of which only the name asked for can be seen"
		}
		v.warn(CodeOtherProtocol, "spec.http", "these rules are never used: no port of %s is HTTP, and what there is %s; write tls or tcp rules, or declare the port HTTP", hosts, what)
	}
	if len(v.spec.Tls) > 0 && len(ports) > 0 && !ports["tls"] {
		v.warn(CodeOtherProtocol, "spec.tls", "these rules are never used: no port of %s is HTTPS or TLS; write http or tcp rules, or declare the port HTTPS", hosts)
	}
	if len(v.spec.Tcp) > 0 && len(ports) == 1 && ports["http"] {
		v.warn(CodeOtherProtocol, "spec.tcp", "these rules are never used: all ports of %s are HTTP; write http rules, or declare the port TCP", hosts)
	}
}

// neverMatches tells of conditions that no request can fulfil.
func (v *routes) neverMatches(path string, m *networking.HTTPMatchRequest) {
	const never = "no request can match: "
	if uri, kind := literal(m.Uri); uri != "" && uri[0] != '/' && uri != "*" {
		v.warn(CodeNeverMatches, path+".uri."+kind, never+"%q does not begin with \"/\", and every path does", uri)
	}
	if method, kind := literal(m.Method); method != strings.ToUpper(method) {
		v.warn(CodeNeverMatches, path+".method."+kind, never+"methods are told apart by case (RFC 9110 §9.1), and nobody sends %q; write %s", method, strings.ToUpper(method))
	}
	bound := v.spec.Gateways
	if len(bound) == 0 {
		bound = []string{"mesh"}
	}
	if len(m.Gateways) > 0 && !slices.ContainsFunc(m.Gateways, func(g string) bool { return slices.Contains(bound, g) }) {
		v.warn(CodeNeverMatches, path+".gateways", never+"this VirtualService is bound to %s only; add %s to spec.gateways, or leave this out", strings.Join(bound, ", "), strings.Join(m.Gateways, ", "))
	}
	v.otherAuthority(path, m)
}

// otherAuthority: requests come here by their host, which is one of spec.hosts.
func (v *routes) otherAuthority(path string, m *networking.HTTPMatchRequest) {
	e, exact := m.Authority.GetMatchType().(*networking.StringMatch_Exact)
	if !exact || len(v.spec.Hosts) == 0 || strings.Count(e.Exact, ":") > 1 { // the last: an IPv6 address
		return
	}
	asked, _, _ := strings.Cut(normal(e.Exact), ":")
	for _, h := range v.spec.Hosts {
		h = normal(h)
		if !strings.Contains(h, ".") || strings.Contains(h, ":") || covers(h, asked) || strings.HasPrefix(h, asked+".") {
			return
		}
	}
	for _, h := range v.spec.Hosts {
		for _, p := range v.planned[normal(h)] {
			if se, ok := p.Entry.Spec.(*networking.ServiceEntry); !ok || slices.Contains(se.Addresses, asked) {
				return // asked for by address
			}
		}
	}
	v.warn(CodeNeverMatches, path+".authority", "no request can match: requests come here by their host, and %q is none of %s", e.Exact, strings.Join(v.spec.Hosts, ", "))
}

// literal gives what a value must be, or begin with, and the field that says so.
func literal(m *networking.StringMatch) (value, kind string) {
	switch t := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return t.Exact, "exact"
	case *networking.StringMatch_Prefix:
		return t.Prefix, "prefix"
	}
	return "", ""
}
