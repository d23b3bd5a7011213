package analyze

import (
	"net/netip"
	"slices"
	"strings"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// tlsPort is the port on which everybody expects TLS.
const tlsPort = 443

// transport looks for TLS where there is none, none where there is TLS, and names that no certificate can have.
func (r *run) transport(p *translate.Plan) {
	if p.Blocked != "" {
		return
	}
	r.tlsToPlain(p)
	switch {
	case p.TLS != nil && p.Protocol == "tls":
		r.report(at(config.Warning, CodeTLSInTLS, p.At("tls"),
			"port %d of %s carries TLS that the application speaks itself, and this adds TLS around it, which no server expects; remove tls, or declare the port HTTP and have the application speak HTTP to it",
			p.Port, p.Host))
	case p.TLS != nil:
		r.names(p)
	case p.Protocol == "http" && p.Port == tlsPort && statesProtocol(p):
		r.report(at(config.Warning, CodePlain443, portPlace(p),
			"port 443 of %s is declared HTTP, so applications that speak TLS to it are refused; declare it HTTPS or TLS, or have detour speak TLS to the endpoints with a DestinationRule's tls and the application HTTP to port 80",
			p.Host))
	case p.Protocol == "http":
		r.plainToTLS(p)
	}
}

// statesProtocol tells whether a port's protocol is declared: one that states none finds out by itself.
func statesProtocol(p *translate.Plan) bool {
	for _, port := range ports(p.Entry) {
		if port.Number == p.Port {
			return port.Protocol != ""
		}
	}
	return false
}

// portPlace is where a plan's port is declared.
func portPlace(p *translate.Plan) translate.Place {
	for i, port := range ports(p.Entry) {
		if port.Number == p.Port {
			return translate.Place{Object: p.Entry, Field: indexed("spec.ports", i) + ".protocol"}
		}
	}
	return translate.Place{Object: p.Entry, Field: "spec.ports"}
}

// plainPort is the port on which everybody expects plain HTTP.
const plainPort = 80

// tlsToPlain: endpoints on port 80 that get TLS.
func (r *run) tlsToPlain(p *translate.Plan) {
	who := "the application speaks TLS to this port"
	switch {
	case p.TLS != nil:
		who = "the DestinationRule's tls"
	case p.Protocol != "tls":
		return
	}
	var plain []string
	for _, e := range p.Endpoints {
		if e.Port == plainPort {
			plain = append(plain, e.Address)
		}
	}
	if len(plain) > 0 {
		place := portPlace(p)
		place.Field = strings.TrimSuffix(place.Field, ".protocol")
		r.report(at(config.Warning, CodeTLSToPlain, place,
			"TLS goes to port 80 of %s, where plain HTTP is spoken (%s); write targetPort: 443 here, or the port in the endpoint's ports", listed(plain), who))
	}
}

// plainToTLS: endpoints on 443 that get plain HTTP.
func (r *run) plainToTLS(p *translate.Plan) {
	if p.States("tls") {
		return // mode: DISABLE says that plain text is meant
	}
	other := r.selectiveTLS(p.Host)
	for _, e := range p.Endpoints {
		switch {
		case e.Port != tlsPort:
		case other != nil:
			r.report(at(config.Note, CodePlainToTLS, e.At,
				"plain HTTP goes to port 443 of %s from callers without the labels that %s at %s selects; give --labels to look at those",
				e.Address, other.Key, other.Origin))
		default:
			r.report(at(config.Warning, CodePlainToTLS, e.At,
				"plain HTTP goes to port 443 of %s, which answers it with an error; have a DestinationRule for %s with trafficPolicy.tls.mode: SIMPLE",
				e.Address, p.Host))
		}
	}
}

// selectiveTLS gives a DestinationRule for the host that speaks TLS for some workloads only; nil where there is none.
func (r *run) selectiveTLS(host string) *config.Object {
	for _, o := range r.set.All(config.DestinationRule) {
		dr := o.Spec.(*networking.DestinationRule)
		tp := dr.TrafficPolicy
		speaks := tp.GetTls() != nil || slices.ContainsFunc(tp.GetPortLevelSettings(), func(p *networking.TrafficPolicy_PortTrafficPolicy) bool { return p.Tls != nil })
		if dr.WorkloadSelector != nil && speaks && covers(normal(dr.Host), normal(host)) {
			return o
		}
	}
	return nil
}

// names judges the names that are verified without asking anybody: what can't stand in a ClientHello, and endpoints whose
// own name the stated ones can't fit. Certificates may carry more names than the endpoint's, so names of the same domain
// pass.
func (r *run) names(p *translate.Plan) {
	place := p.At("tls")
	if sni := p.TLS.Sni; sni != "" {
		_, err := netip.ParseAddr(sni)
		if err == nil || strings.Contains(sni, "*") {
			place.Field += ".sni"
			r.report(at(config.Warning, CodeNoSuchName, place,
				"%q can't be a server name: RFC 6066 allows host names only, without wildcards or addresses; write the name that the certificate carries", sni))
			return
		}
	}
	want := p.SANs
	if r.opt.Connect || len(want) == 0 || // what certificates carry is asked of the endpoints themselves
		p.TLS.InsecureSkipVerify.GetValue() {
		return
	}
	place.Field += ".sni"
	if len(p.TLS.SubjectAltNames) > 0 {
		place = p.At("tls")
		place.Field += ".subjectAltNames"
	} else if p.TLS.Sni == "" {
		place = translate.Place{Object: p.Entry, Field: "spec.subjectAltNames"}
	}
	var fit, other, foreign []string
	for _, e := range p.Endpoints {
		switch {
		case !e.IsName:
			return // nobody knows an address's names
		case slices.ContainsFunc(want, func(n string) bool { return fits(n, e.Address) }):
			fit = append(fit, e.Address)
		default:
			other = append(other, e.Address)
			if !slices.ContainsFunc(want, func(n string) bool { return strings.Contains(n, "://") || sameDomain(n, e.Address) }) {
				foreign = append(foreign, e.Address)
			}
		}
	}
	switch {
	case len(fit) > 0 && len(other) > 0:
		r.report(at(config.Warning, CodeNoSuchName, place,
			"certificates are verified for %s, the name of %s; %s can take over only if its certificate carries that name too; leave sni out and each endpoint is verified by its own name, or list all in subjectAltNames",
			strings.Join(want, ", "), fit[0], strings.Join(other, ", ")))
	case len(fit) == 0 && len(foreign) == len(p.Endpoints) && len(foreign) > 0:
		r.report(at(config.Warning, CodeNoSuchName, place,
			"certificates are verified for %s, which none of the endpoints (%s) is likely to carry: nobody certifies names of another's domain; leave the name out and each endpoint is verified by its own",
			strings.Join(want, ", "), strings.Join(foreign, ", ")))
	}
}

// fits tells whether a name, which may have a wildcard as first label, stands for a host.
func fits(name, host string) bool {
	name, host = normal(name), normal(host)
	if rest, wild := strings.CutPrefix(name, "*."); wild {
		_, domain, _ := strings.Cut(host, ".")
		return domain == rest
	}
	return name == host
}

// sameDomain tells whether two names share their last two labels.
func sameDomain(a, b string) bool { return lastTwo(a) == lastTwo(b) }

func lastTwo(name string) string {
	labels := strings.Split(normal(name), ".")
	return strings.Join(labels[max(0, len(labels)-2):], ".")
}
