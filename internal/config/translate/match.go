package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// applies tells whether a match can hold for this group and port at all. What is known when routes are compiled (port,
// gateways, the caller's labels and namespace) is decided here and does not reach the route.
// Gateways in a match stand for the caller: beside them its labels and namespace are not asked for.
func (c *compiler) applies(m *networking.HTTPMatchRequest, port servicePort) bool {
	if m.Port != 0 && m.Port != port.number {
		return false
	}
	if len(m.Gateways) > 0 {
		return forSidecars(m.Gateways)
	}
	return c.isSource(m.SourceLabels, m.SourceNamespace)
}

// routeMatch writes one match; its fields are all demanded at once. An exact path, a plain string prefix, or a regular
// expression for the whole path.
func routeMatch(m *networking.HTTPMatchRequest) *routev3.RouteMatch {
	out := everything()
	switch u := m.Uri.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: u.Exact}
	case *networking.StringMatch_Prefix:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: u.Prefix}
	case *networking.StringMatch_Regex:
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: u.Regex}}
	}
	out.CaseSensitive = wrapperspb.Bool(!m.IgnoreUriCase)
	for _, name := range sortedKeys(m.Headers) {
		out.Headers = append(out.Headers, headerMatch(name, m.Headers[name]))
	}
	for _, name := range sortedKeys(m.WithoutHeaders) {
		h := headerMatch(name, m.WithoutHeaders[name])
		h.InvertMatch = true
		h.TreatMissingHeaderAsEmpty = !h.GetPresentMatch()
		out.Headers = append(out.Headers, h)
	}
	for _, pseudo := range []struct {
		name  string
		match *networking.StringMatch
	}{{":method", m.Method}, {":authority", m.Authority}, {":scheme", m.Scheme}} {
		if pseudo.match != nil {
			out.Headers = append(out.Headers, headerMatch(pseudo.name, pseudo.match))
		}
	}
	for _, name := range sortedKeys(m.QueryParams) {
		out.QueryParameters = append(out.QueryParameters, queryMatch(name, m.QueryParams[name]))
	}
	return out
}

// headerMatch matches one header; an empty match, and the regular expression "*", ask only that it be there.
func headerMatch(name string, m *networking.StringMatch) *routev3.HeaderMatcher {
	s := stringMatch(m)
	if s == nil {
		return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.HeaderMatcher{Name: name, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: s}}
}

func queryMatch(name string, m *networking.StringMatch) *routev3.QueryParameterMatcher {
	s := stringMatch(m)
	if s == nil {
		return &routev3.QueryParameterMatcher{Name: name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: true}}
	}
	return &routev3.QueryParameterMatcher{Name: name, QueryParameterMatchSpecifier: &routev3.QueryParameterMatcher_StringMatch{StringMatch: s}}
}

// stringMatch gives Envoy's form of a match; nil when anything will do.
func stringMatch(m *networking.StringMatch) *matcherv3.StringMatcher {
	switch v := m.GetMatchType().(type) {
	case *networking.StringMatch_Exact:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: v.Exact}}
	case *networking.StringMatch_Prefix:
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: v.Prefix}}
	case *networking.StringMatch_Regex:
		if v.Regex != "*" {
			return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: v.Regex}}}
		}
	}
	return nil
}

// catchesAll tells whether every request matches, so that no route after this one can be reached.
func catchesAll(m *routev3.RouteMatch) bool {
	all := m.GetPrefix() == "/" || m.GetSafeRegex().GetRegex() == ".*"
	return all && len(m.Headers) == 0 && len(m.QueryParameters) == 0
}
