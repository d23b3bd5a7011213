package validate

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// maxRegex is the longest regular expression istiod accepts, in characters.
const maxRegex = 1024

// headerName is RFC 9110 §5.6.2's token.
var headerName = regexp.MustCompile("^[-!#$%&'*+.^_`|~0-9A-Za-z]+$")

// pseudoHeaders can be matched like headers.
var pseudoHeaders = []string{":method", ":scheme", ":authority", ":path", ":status"}

func (c *checker) httpMatch(path string, m *networking.HTTPMatchRequest) {
	c.regexMatch(path+".uri", m.Uri) // an empty prefix takes every path
	for _, f := range []struct {
		name string
		m    *networking.StringMatch
	}{{"scheme", m.Scheme}, {"method", m.Method}, {"authority", m.Authority}} {
		c.stringMatch(path+"."+f.name, f.m)
	}
	for _, name := range sortedKeys(m.Headers) {
		c.matchedHeader(path+".headers", name)
		c.stringMatch(path+".headers."+name, m.Headers[name])
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		c.matchedHeader(path+".withoutHeaders", name)
		if m.WithoutHeaders[name].GetRegex() != "*" { // istiod's word for "is there", here only
			c.stringMatch(path+".withoutHeaders."+name, m.WithoutHeaders[name])
		}
	}
	for _, name := range sortedKeys(m.QueryParams) {
		if name == "" {
			c.errorf(config.CodeMatch, path+".queryParams", "a parameter has no name")
		}
		c.stringMatch(path+".queryParams."+name, m.QueryParams[name])
	}
	if m.Port != 0 {
		c.port(config.CodeMatch, path+".port", m.Port)
	}
	c.labels(path+".sourceLabels", m.SourceLabels)
	c.gateways(path+".gateways", m.Gateways)
	if m.SourceNamespace != "" && !isLabel(m.SourceNamespace) {
		c.errorf(config.CodeMatch, path+".sourceNamespace", "%q is not a namespace", m.SourceNamespace)
	}
}

func (c *checker) matchedHeader(path, name string) {
	if !headerName.MatchString(name) && !slices.Contains(pseudoHeaders, name) && !isClaim(name) {
		c.errorf(config.CodeMatch, path, "%q is not a header's name; allowed: letters, digits and any of !#$%%&'*+-.^_`|~", name)
	}
}

const claimsHeader = "@request.auth.claims"

// isClaim tells whether a header's name stands for a claim of a token, as in @request.auth.claims.sub or
// @request.auth.claims[sub].
func isClaim(name string) bool {
	if len(name) < len(claimsHeader) || !strings.EqualFold(name[:len(claimsHeader)], claimsHeader) {
		return false
	}
	rest := name[len(claimsHeader):]
	return len(rest) > 1 && rest[0] == '.' || len(rest) > 2 && rest[0] == '[' && strings.HasSuffix(rest, "]")
}

// claims: only gateways know a token's claims.
func (c *checker) claims(path string, r *networking.HTTPRoute, gateway bool) {
	for i, m := range r.Match {
		for field, headers := range map[string]map[string]*networking.StringMatch{"headers": m.Headers, "withoutHeaders": m.WithoutHeaders} {
			for _, name := range sortedKeys(headers) {
				if isClaim(name) && !gateway {
					c.errorf(config.CodeMatch, fmt.Sprintf("%s.match[%d].%s", path, i, field), "%q is a claim of a token, which gateways only can match", name)
				}
			}
		}
	}
}

// stringMatch wants what it compares with: an empty prefix is no condition, and Envoy takes none.
func (c *checker) stringMatch(path string, m *networking.StringMatch) {
	if p, ok := m.GetMatchType().(*networking.StringMatch_Prefix); ok && p.Prefix == "" {
		c.errorf(config.CodeMatch, path+".prefix", "is empty; give some characters, or leave the match out")
	}
	c.regexMatch(path, m)
}

func (c *checker) regexMatch(path string, m *networking.StringMatch) {
	if r, ok := m.GetMatchType().(*networking.StringMatch_Regex); ok {
		c.regex(config.CodeMatch, path, r.Regex)
	}
}

// regex wants a regular expression as RE2 and Go have them.
func (c *checker) regex(code, path, r string) {
	if len(r) > maxRegex {
		c.errorf(code, path, "the regular expression has %d characters; allowed: %d", len(r), maxRegex)
		return
	}
	if r == "" {
		c.errorf(code, path, "the regular expression is empty")
		return
	}
	if _, err := regexp.Compile(r); err != nil {
		c.errorf(code, path, "%q is not a regular expression (RE2): %s", r, strings.TrimPrefix(err.Error(), "error parsing regexp: "))
	}
}

// unreachableHTTP warns of rules and matches that no request can reach because earlier ones take all of theirs.
func (c *checker) unreachableHTTP(routes []*networking.HTTPRoute) {
	type taker struct {
		path  string
		match *networking.HTTPMatchRequest
	}
	var before []taker
	for i, r := range routes {
		path := fmt.Sprintf("spec.http[%d]", i)
		if len(r.Match) == 0 {
			r = &networking.HTTPRoute{Match: []*networking.HTTPMatchRequest{{}}}
		}
		var shadowed []string
		by := ""
		own := before
		for j, m := range r.Match {
			k := slices.IndexFunc(own, func(t taker) bool { return takesAllOf(t.match, m) })
			if k >= 0 {
				by = own[k].path
				shadowed = append(shadowed, fmt.Sprintf("%s.match[%d]", path, j))
				continue
			}
			p := fmt.Sprintf("%s.match[%d]", path, j)
			own = append(own, taker{p, m})
		}
		switch {
		case len(shadowed) == len(r.Match):
			c.warnf(config.CodeUnreachable, path, "is never reached: %s takes every request that it would, before it; put this one first, or remove it", strings.TrimSuffix(by, ".match[0]"))
		default:
			for _, p := range shadowed {
				c.warnf(config.CodeUnreachable, p, "is never reached: %s takes every request that it would, before it; remove it", by)
			}
		}
		if len(own) > maxTakers {
			own = own[:maxTakers]
		}
		before = own
	}
}

// maxTakers bounds how many matches a later one is compared with.
const maxTakers = 500

// takesAllOf tells whether every request that b matches is matched by a too. False means only that nobody can say.
func takesAllOf(a, b *networking.HTTPMatchRequest) bool {
	rest := func(m *networking.HTTPMatchRequest) *networking.HTTPMatchRequest {
		out := proto.Clone(m).(*networking.HTTPMatchRequest)
		out.Name, out.StatPrefix, out.Uri, out.IgnoreUriCase = "", "", nil, false
		return out
	}
	if catchesAll(a) {
		return true
	}
	if ra := rest(a); !proto.Equal(ra, &networking.HTTPMatchRequest{}) && !proto.Equal(ra, rest(b)) {
		return false
	}
	return uriTakesAllOf(a, b)
}

func uriTakesAllOf(a, b *networking.HTTPMatchRequest) bool {
	if a.Uri == nil || a.Uri.GetPrefix() == "/" {
		return true
	}
	if b.Uri == nil || a.IgnoreUriCase != b.IgnoreUriCase {
		return false
	}
	if proto.Equal(a.Uri, b.Uri) {
		return true
	}
	prefix, ok := a.Uri.GetMatchType().(*networking.StringMatch_Prefix)
	if !ok {
		return false
	}
	switch u := b.Uri.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return strings.HasPrefix(u.Exact, prefix.Prefix)
	case *networking.StringMatch_Prefix:
		return strings.HasPrefix(u.Prefix, prefix.Prefix)
	}
	return false
}

// catchesAll tells whether a match excludes nothing: it is empty but for its name, or asks for prefix "/" alone.
func catchesAll(m *networking.HTTPMatchRequest) bool {
	rest := &networking.HTTPMatchRequest{Name: m.Name, StatPrefix: m.StatPrefix, Uri: m.Uri, IgnoreUriCase: m.IgnoreUriCase}
	all := m.Uri == nil || m.Uri.GetPrefix() == "/" || slices.Contains([]string{".*", "/.*"}, m.Uri.GetRegex())
	return all && proto.Equal(m, rest)
}

// l4Route is what of a tls or tcp rule decides whether it is reached.
type l4Route []proto.Message

func tlsMatches(routes []*networking.TLSRoute) []l4Route {
	out := make([]l4Route, len(routes))
	for i, r := range routes {
		for _, m := range r.Match {
			out[i] = append(out[i], m)
		}
	}
	return out
}

func tcpMatches(routes []*networking.TCPRoute) []l4Route {
	out := make([]l4Route, len(routes))
	for i, r := range routes {
		for _, m := range r.Match {
			out[i] = append(out[i], m)
		}
	}
	return out
}

// unreachableL4 warns of rules behind one without a match, and of matches that stand there twice.
func (c *checker) unreachableL4(path string, routes []l4Route) {
	all := -1
	seen := map[string]string{}
	for i, r := range routes {
		p := fmt.Sprintf("%s[%d]", path, i)
		if all >= 0 {
			c.warnf(config.CodeUnreachable, p, "is never reached: %s[%d] has no match and takes everything before it; put this one first, or remove it", path, all)
			continue
		}
		if len(r) == 0 {
			all = i
			continue
		}
		for j, m := range r {
			at := fmt.Sprintf("%s.match[%d]", p, j)
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
			if was := seen[string(b)]; err == nil && was != "" {
				c.warnf(config.CodeUnreachable, at, "is never reached: %s is the same and stands before it; remove it", was)
				continue
			}
			seen[string(b)] = at
		}
	}
}

// tlsRoute: matched by the name in the ClientHello, so every match names one, within the object's hosts.
func (c *checker) tlsRoute(path string, r *networking.TLSRoute, hosts []string) {
	if len(r.Match) == 0 {
		c.errorf(config.CodeMatch, path+".match", "is missing; a TLS route has at least one match with sniHosts")
	}
	for i, m := range r.Match {
		p := fmt.Sprintf("%s.match[%d]", path, i)
		if len(m.SniHosts) == 0 {
			c.errorf(config.CodeMatch, p+".sniHosts", "is missing; a TLS match names at least one host, as in sniHosts: [%s]", strings.Join(hosts, ", "))
		}
		for j, h := range m.SniHosts {
			sp := fmt.Sprintf("%s.sniHosts[%d]", p, j)
			if err := checkDomain(h, true); err != nil && isIP(h) {
				c.warnf(config.CodeMatch, sp, "%q is an address, and no client names one in a ClientHello (RFC 6066 §3)", h)
			} else if err != nil {
				c.errorf(config.CodeMatch, sp, "%v", err)
			} else if !slices.ContainsFunc(hosts, func(in string) bool { return covers(in, h) }) {
				c.errorf(config.CodeMatch, sp, "%q is none of the VirtualService's hosts: %s", h, strings.Join(hosts, ", "))
			}
		}
		c.l4Match(p, m.DestinationSubnets, m.Port, m.SourceLabels)
		c.gateways(p+".gateways", m.Gateways)
	}
	c.l4Destinations(path+".route", r.Route)
}

func (c *checker) tcpRoute(path string, r *networking.TCPRoute) {
	for i, m := range r.Match {
		p := fmt.Sprintf("%s.match[%d]", path, i)
		c.l4Match(p, m.DestinationSubnets, m.Port, m.SourceLabels)
		c.gateways(p+".gateways", m.Gateways)
		if m.SourceSubnet != "" && !isIP(m.SourceSubnet) && !isCIDR(m.SourceSubnet) {
			c.warnf(config.CodeMatch, p+".sourceSubnet", "%q is not an address or range as in 10.0.0.0/8", m.SourceSubnet)
		}
	}
	c.l4Destinations(path+".route", r.Route)
}

func (c *checker) l4Match(path string, subnets []string, port uint32, labels map[string]string) {
	for i, s := range subnets {
		if _, err := netip.ParsePrefix(s); err != nil && !isIP(s) {
			c.errorf(config.CodeMatch, fmt.Sprintf("%s.destinationSubnets[%d]", path, i), "%q is not an address or range as in 10.0.0.0/8", s)
		}
	}
	if port != 0 {
		c.port(config.CodeMatch, path+".port", port)
	}
	c.labels(path+".sourceLabels", labels)
}

func (c *checker) l4Destinations(path string, list []*networking.RouteDestination) {
	if len(list) == 0 {
		c.errorf(config.CodeNoRoute, path, "is missing; give at least one destination")
	}
	weights := make([]int32, len(list))
	for i, d := range list {
		c.destination(fmt.Sprintf("%s[%d].destination", path, i), d.Destination)
		weights[i] = d.Weight
	}
	c.weights(path, weights)
}
