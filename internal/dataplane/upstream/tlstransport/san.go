package tlstransport

import (
	"crypto/x509"
	"fmt"
	"net"
	"regexp"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// sanMatcher is one entry of match_typed_subject_alt_names, or of match_subject_alt_names (any type).
type sanMatcher struct {
	typ   tlsv3.SubjectAltNameMatcher_SanType // unspecified: any of the types
	exact string                              // set where the matcher is an exact one
	match func(string) bool
}

func newSANMatcher(typ tlsv3.SubjectAltNameMatcher_SanType, m *matcherv3.StringMatcher) (sanMatcher, error) {
	s := sanMatcher{typ: typ}
	if typ == tlsv3.SubjectAltNameMatcher_OTHER_NAME {
		return s, fmt.Errorf("subject alternative names of type OTHER_NAME are not supported")
	}
	fold := func(v string) string { return v }
	if m.GetIgnoreCase() {
		fold = strings.ToLower
	}
	switch p := m.GetMatchPattern().(type) {
	case *matcherv3.StringMatcher_Exact:
		s.exact = p.Exact
		want := fold(p.Exact)
		s.match = func(v string) bool { return fold(v) == want }
	case *matcherv3.StringMatcher_Prefix:
		want := fold(p.Prefix)
		s.match = func(v string) bool { return strings.HasPrefix(fold(v), want) }
	case *matcherv3.StringMatcher_Suffix:
		want := fold(p.Suffix)
		s.match = func(v string) bool { return strings.HasSuffix(fold(v), want) }
	case *matcherv3.StringMatcher_Contains:
		want := fold(p.Contains)
		s.match = func(v string) bool { return strings.Contains(fold(v), want) }
	case *matcherv3.StringMatcher_SafeRegex:
		re, err := regexp.Compile(`\A(?:` + p.SafeRegex.GetRegex() + `)\z`)
		if err != nil {
			return s, fmt.Errorf("subject alternative name: %w", err)
		}
		s.match = re.MatchString
	default:
		return s, fmt.Errorf("subject alternative name without a pattern that is supported (%T)", p)
	}
	return s, nil
}

func (m sanMatcher) is(typ tlsv3.SubjectAltNameMatcher_SanType) bool {
	return m.typ == tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED || m.typ == typ
}

// matches follows Envoy's DnsExactStringSanMatcher in that an exact DNS name also matches a certificate's wildcard.
func (m sanMatcher) matches(c *x509.Certificate) bool {
	if m.is(tlsv3.SubjectAltNameMatcher_DNS) {
		if m.exact != "" && net.ParseIP(m.exact) == nil && !strings.Contains(m.exact, "*") && c.VerifyHostname(m.exact) == nil {
			return true
		}
		for _, n := range c.DNSNames {
			if m.match(n) {
				return true
			}
		}
	}
	if m.is(tlsv3.SubjectAltNameMatcher_URI) {
		for _, u := range c.URIs {
			if m.match(u.String()) {
				return true
			}
		}
	}
	if m.is(tlsv3.SubjectAltNameMatcher_IP_ADDRESS) {
		for _, ip := range c.IPAddresses {
			if m.match(ip.String()) || m.exact != "" && ip.Equal(net.ParseIP(m.exact)) {
				return true
			}
		}
	}
	if m.is(tlsv3.SubjectAltNameMatcher_EMAIL) {
		for _, e := range c.EmailAddresses {
			if m.match(e) {
				return true
			}
		}
	}
	return false
}
