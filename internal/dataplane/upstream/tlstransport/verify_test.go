//lint:file-ignore SA1019 the deprecated fields are still sent

package tlstransport

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"detour.dev/detour/internal/testcert"
)

func exact(v string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: v}}
}

func typed(typ tlsv3.SubjectAltNameMatcher_SanType, m *matcherv3.StringMatcher) *tlsv3.SubjectAltNameMatcher {
	return &tlsv3.SubjectAltNameMatcher{SanType: typ, Matcher: m}
}

// withValidation is a context whose validation is v and nothing else.
func withValidation(v *tlsv3.CertificateValidationContext) *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}}}
}

// What is verified, through real handshakes: want is empty where the handshake must succeed, else a part of the error.
func TestVerification(t *testing.T) {
	ca, other := must(testcert.NewCA("test"))(t), must(testcert.NewCA("other"))(t)
	inter := must(ca.Intermediate("between"))(t)
	names := []string{"a.test", "*.wild.test", "127.0.0.1", "spiffe://mesh/ns/a"}
	good := must(ca.Server(names...))(t)
	deep := must(inter.Server(names...))(t)
	expired := must(ca.Issue(testcert.Template{Names: names, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}))(t)
	early := must(ca.Issue(testcert.Template{Names: names, NotBefore: time.Now().Add(time.Hour)}))(t)
	foreign := must(other.Server(names...))(t)
	wrongUse := must(ca.Issue(testcert.Template{Names: names, Client: true}))(t)

	trust := func(m ...*tlsv3.SubjectAltNameMatcher) *tlsv3.UpstreamTlsContext {
		return withValidation(&tlsv3.CertificateValidationContext{TrustedCa: inline(ca.PEM), MatchTypedSubjectAltNames: m})
	}
	withSNI := func(c *tlsv3.UpstreamTlsContext, sni string) *tlsv3.UpstreamTlsContext { c.Sni = sni; return c }
	auto := func(c *tlsv3.UpstreamTlsContext) *tlsv3.UpstreamTlsContext {
		c.AutoHostSni, c.AutoSniSanValidation = true, true
		return c
	}
	crl := func(revoked *testcert.Pair, from *testcert.CA) *tlsv3.UpstreamTlsContext {
		c := withSNI(trust(), "a.test")
		v := c.CommonTlsContext.GetValidationContext()
		v.Crl = inline(must(from.CRL(revoked))(t))
		return c
	}
	const dns, ip, uri = tlsv3.SubjectAltNameMatcher_DNS, tlsv3.SubjectAltNameMatcher_IP_ADDRESS, tlsv3.SubjectAltNameMatcher_URI
	both := func(f *corev3.DataSource) *tlsv3.UpstreamTlsContext {
		return withValidation(&tlsv3.CertificateValidationContext{TrustedCa: f, SystemRootCerts: &tlsv3.CertificateValidationContext_SystemRootCerts{}})
	}
	untrusted := withValidation(&tlsv3.CertificateValidationContext{TrustedCa: inline(ca.PEM),
		TrustChainVerification: tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED})

	for name, c := range map[string]struct {
		ctx  *tlsv3.UpstreamTlsContext
		p    Params
		pair *testcert.Pair
		want string
	}{
		"endpoint name":                  {auto(trust()), Params{Hostname: "a.test"}, good, ""},
		"endpoint name, intermediate CA": {auto(trust()), Params{Hostname: "a.test"}, deep, ""},
		"endpoint name, wildcard":        {auto(trust()), Params{Hostname: "x.wild.test"}, good, ""},
		"endpoint name, wrong":           {auto(trust()), Params{Hostname: "b.test"}, good, "not valid for b.test; the certificate is for a.test, *.wild.test, 127.0.0.1, spiffe://mesh/ns/a"},
		"endpoint address":               {auto(trust()), Params{Hostname: "127.0.0.1"}, good, ""},
		"endpoint address, wrong":        {auto(trust()), Params{Hostname: "127.0.0.2"}, good, "not valid for 127.0.0.2"},
		"auto replaces names":            {auto(trust(typed(dns, exact("a.test")))), Params{Hostname: "b.test"}, good, "not valid for b.test"},
		"Host's name":                    {auto(trust()), Params{Hostname: "b.test", ServerName: "a.test"}, good, ""},
		"Host's name to verify":          {trust(typed(dns, exact("a.test"))), Params{VerifyName: "b.test"}, good, "not valid for b.test"},
		"expired":                        {auto(trust()), Params{Hostname: "a.test"}, expired, "expired"},
		"not yet valid":                  {auto(trust()), Params{Hostname: "a.test"}, early, "not yet valid"},
		"unknown authority":              {auto(trust()), Params{Hostname: "a.test"}, foreign, "unknown authority"},
		"a client's certificate":         {auto(trust()), Params{Hostname: "a.test"}, wrongUse, "incompatible key usage"},
		"sni alone is verified":          {withSNI(trust(), "a.test"), Params{}, good, ""},
		"sni alone is verified, wrong":   {withSNI(trust(), "b.test"), Params{}, good, "not valid for b.test"},
		"endpoint name for want of sni":  {trust(), Params{Hostname: "b.test"}, good, "not valid for b.test"},
		"no name at all":                 {trust(), Params{}, good, "no name to verify"},
		"exact DNS":                      {trust(typed(dns, exact("a.test"))), Params{}, good, ""},
		"exact DNS, wildcard":            {trust(typed(dns, exact("y.wild.test"))), Params{}, good, ""},
		"one of two":                     {trust(typed(dns, exact("no.test")), typed(uri, exact("spiffe://mesh/ns/a"))), Params{}, good, ""},
		"IP":                             {trust(typed(ip, exact("127.0.0.1"))), Params{}, good, ""},
		"type counts":                    {trust(typed(uri, exact("a.test"))), Params{}, good, "none of its names"},
		"names, unknown authority":       {trust(typed(dns, exact("a.test"))), Params{}, foreign, "unknown authority"},
		"revoked":                        {crl(good, ca), Params{}, good, "is revoked"},
		"another is revoked":             {crl(early, ca), Params{}, good, ""},
		"revocation list of another":     {crl(good, other), Params{}, good, "no revocation list"},
		"no validation":                  {withValidation(nil), Params{Hostname: "b.test"}, foreign, ""},
		"empty validation":               {withValidation(&tlsv3.CertificateValidationContext{}), Params{}, expired, ""},
		"untrusted accepted":             {untrusted, Params{}, foreign, ""},
		"no trust but names":             {withValidation(&tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: []*tlsv3.SubjectAltNameMatcher{typed(dns, exact("a.test"))}}), Params{}, foreign, ""},
		"system's trust":                 {withSNI(system(), "a.test"), Params{}, good, "unknown authority"},
		"system's trust, good":           {withSNI(system(), "a.test"), Params{}, foreign, ""},
		"system's trust and usual file":  {withSNI(both(file(systemCAFile)), "a.test"), Params{}, foreign, ""},
		"system's trust and other file":  {withSNI(both(inline(ca.PEM)), "a.test"), Params{}, foreign, "unknown authority"},
	} {
		t.Run(name, func(t *testing.T) {
			d := loop(t)
			ctx := must(New(c.ctx, Options{Roots: other.Pool()}))(t)
			r := dial(t, d, tlsServer(t, serverConfig(t, c.pair), nil), ctx, c.p)
			if c.want == "" {
				if r.err != nil {
					t.Fatal(r.err)
				}
				on(d, r.s.Close)
				return
			}
			if r.err == nil || !strings.Contains(r.err.Error(), c.want) {
				t.Fatalf("error %v, want …%s…", r.err, c.want)
			}
			if k := kindOf(r.err); k != KindCertificate && c.want != "no name to verify" {
				t.Errorf("kind %s", k)
			}
		})
	}
}

// With revocation lists, every certificate below the root needs one of its issuer, or only the leaf does.
func TestRevocation(t *testing.T) {
	root := must(testcert.NewCA("root"))(t)
	inter := must(root.Intermediate("between"))(t)
	pair, other := must(inter.Server("a.test"))(t), must(inter.Server("b.test"))(t)
	list := func(ca *testcert.CA, revoked *testcert.Pair) []byte { return must(ca.CRL(revoked))(t) }
	ofInter := &testcert.Pair{Leaf: inter.Cert}
	for name, c := range map[string]struct {
		lists    [][]byte
		leafOnly bool
		expired  bool
		want     string
	}{
		"whole chain":          {[][]byte{list(inter, other), list(root, other)}, false, false, ""},
		"no list of the root":  {[][]byte{list(inter, other)}, false, false, "no revocation list of CN=root"},
		"leaf only":            {[][]byte{list(inter, other)}, true, false, ""},
		"leaf only, revoked":   {[][]byte{list(inter, pair)}, true, false, "CN=a.test is revoked"},
		"intermediate revoked": {[][]byte{list(inter, other), list(root, ofInter)}, false, false, "CN=between is revoked"},
		"expired list":         {[][]byte{list(inter, other)}, true, true, "expired at"},
	} {
		m := &material{roots: root.Pool()}
		apply, err := parseCRLs([][]byte{slices.Concat(c.lists...)})
		if err != nil {
			t.Fatal(err)
		}
		apply(m)
		if c.expired {
			m.crls[0].NextUpdate = time.Now().Add(-time.Minute)
		}
		v := &verifier{material: m, name: "a.test", leafOnly: c.leafOnly, now: time.Now}
		err = v.check(tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Leaf, inter.Cert}})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want …%s…", name, err, c.want)
		}
	}
}

// system is Istio's secret for the system's trust store.
func system() *tlsv3.UpstreamTlsContext {
	return &tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{
			CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
				DefaultValidationContext:         &tlsv3.CertificateValidationContext{},
				ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "file-root:system"}}}}}
}

func TestSANMatchers(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	leaf := must(ca.Server("api.a.test", "10.0.0.1", "2001:db8::1", "spiffe://mesh/ns/a"))(t).Leaf
	const dns, ip, uri, any = tlsv3.SubjectAltNameMatcher_DNS, tlsv3.SubjectAltNameMatcher_IP_ADDRESS, tlsv3.SubjectAltNameMatcher_URI, tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED
	regex := func(re string) *matcherv3.StringMatcher {
		return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: re}}}
	}
	folded := exact("SPIFFE://Mesh/ns/a")
	folded.IgnoreCase = true
	for _, c := range []struct {
		typ  tlsv3.SubjectAltNameMatcher_SanType
		m    *matcherv3.StringMatcher
		want bool
	}{
		{dns, exact("api.a.test"), true},
		{dns, exact("API.a.test"), true}, // DNS names have no case
		{dns, exact("a.test"), false},
		{dns, exact(""), false},
		{dns, exact("10.0.0.1"), false},
		{ip, exact("10.0.0.1"), true},
		{ip, exact("2001:0db8:0::1"), true},
		{uri, exact("spiffe://mesh/ns/b"), false},
		{uri, exact("SPIFFE://Mesh/ns/a"), false},
		{uri, folded, true},
		{any, exact("spiffe://mesh/ns/a"), true},
		{uri, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "spiffe://mesh/"}}, true},
		{uri, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: "mesh/"}}, false},
		{dns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: ".a.test"}}, true},
		{dns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: "i.a"}}, true},
		{dns, regex(`a[p]i\..*`), true},
		{dns, regex(`api`), false},                // the whole name
		{dns, regex(`x|api.a.test`), true},        // the alternatives are bracketed
		{uri, regex(`spiffe://mesh/ns/a`), true},  //
		{uri, regex("spiffe://mesh/ns"), false},   //
		{dns, regex(`spiffe://mesh/ns/a`), false}, // not a DNS name
	} {
		m, err := newSANMatcher(c.typ, c.m)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.matches(leaf); got != c.want {
			t.Errorf("%s %s: %v, want %v", c.typ, c.m, got, c.want)
		}
	}
}

// What can't be honoured is refused; nothing that would make the check stricter is passed over.
func TestRefused(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	v := func(f func(*tlsv3.CertificateValidationContext)) *tlsv3.UpstreamTlsContext {
		v := &tlsv3.CertificateValidationContext{TrustedCa: inline(ca.PEM)}
		f(v)
		return withValidation(v)
	}
	common := func(f func(*tlsv3.CommonTlsContext)) *tlsv3.UpstreamTlsContext {
		c := upstream(ca)
		f(c.CommonTlsContext)
		return c
	}
	for want, ctx := range map[string]*tlsv3.UpstreamTlsContext{
		"verify_certificate_hash": v(func(v *tlsv3.CertificateValidationContext) { v.VerifyCertificateHash = []string{"00"} }),
		"verify_certificate_spki": v(func(v *tlsv3.CertificateValidationContext) { v.VerifyCertificateSpki = []string{"00"} }),
		"allow_expired":           v(func(v *tlsv3.CertificateValidationContext) { v.AllowExpiredCertificate = true }),
		"OTHER_NAME": v(func(v *tlsv3.CertificateValidationContext) {
			v.MatchTypedSubjectAltNames = []*tlsv3.SubjectAltNameMatcher{typed(tlsv3.SubjectAltNameMatcher_OTHER_NAME, exact("x"))}
		}),
		"error parsing regexp": v(func(v *tlsv3.CertificateValidationContext) {
			v.MatchSubjectAltNames = []*matcherv3.StringMatcher{{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: "("}}}}
		}),
		"allow_renegotiation": {AllowRenegotiation: true},
		"only files are supported (file-cert:CERT~KEY)": common(func(c *tlsv3.CommonTlsContext) {
			c.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: "kubernetes://secret"}}
		}),
		"only files are supported (file-root:PATH": common(func(c *tlsv3.CommonTlsContext) {
			c.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "ROOTCA"}}
		}),
		"cipher suite RC4": common(func(c *tlsv3.CommonTlsContext) { c.TlsParams = &tlsv3.TlsParameters{CipherSuites: []string{"RC4"}} }),
		"curve P-1":        common(func(c *tlsv3.CommonTlsContext) { c.TlsParams = &tlsv3.TlsParameters{EcdhCurves: []string{"P-1"}} }),
		"above the maximum": common(func(c *tlsv3.CommonTlsContext) {
			c.TlsParams = &tlsv3.TlsParameters{TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_3, TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_2}
		}),
		"a file name or inline text": common(func(c *tlsv3.CommonTlsContext) {
			c.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: inline(ca.PEM)}}
		}),
	} {
		if _, err := New(ctx, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v", want, err)
		}
	}
}

func TestInsecure(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	for name, c := range map[string]struct {
		ctx  *tlsv3.UpstreamTlsContext
		want bool
	}{
		"nothing":  {&tlsv3.UpstreamTlsContext{}, true},
		"empty":    {withValidation(&tlsv3.CertificateValidationContext{}), true},
		"CA":       {withValidation(&tlsv3.CertificateValidationContext{TrustedCa: inline(ca.PEM)}), false},
		"system":   {system(), false},
		"auto":     {&tlsv3.UpstreamTlsContext{AutoSniSanValidation: true}, false},
		"SAN only": {withValidation(&tlsv3.CertificateValidationContext{MatchSubjectAltNames: []*matcherv3.StringMatcher{exact("a")}}), false},
	} {
		if got := must(New(c.ctx, Options{}))(t).Insecure(); got != c.want {
			t.Errorf("%s: Insecure is %v", name, got)
		}
	}
}

func TestProbe(t *testing.T) {
	ca := must(testcert.NewCA("test"))(t)
	pair := must(ca.Server("dynamodb.us-east-1.test", "*.ddb.test"))(t)
	config := serverConfig(t, pair)
	config.ClientAuth = 4 // RequireAndVerifyClientCert: the probe has none
	addr := tlsServer(t, config, nil)
	dial := func(a fmt.Stringer) net.Conn {
		t.Helper()
		c := must(net.Dial("tcp", a.String()))(t)
		t.Cleanup(func() { c.Close() })
		return c
	}
	names, until, err := Probe(t.Context(), dial(addr), "mydb.test")
	if err != nil || !slices.Equal(names, []string{"dynamodb.us-east-1.test", "*.ddb.test"}) || !until.Equal(pair.Leaf.NotAfter) {
		t.Errorf("%v, %s, %v", names, until, err)
	}
	plain := server(t, plainHTTP)
	if _, _, err := Probe(t.Context(), dial(plain), "mydb.test"); kindOf(err) != KindProtocol {
		t.Errorf("a server without TLS: %v", err)
	}
}

func FuzzEachPEM(f *testing.F) {
	ca := must(testcert.NewCA("test"))(f)
	f.Add(ca.PEM)
	f.Add(ca.PEM[:len(ca.PEM)/2])
	f.Add([]byte("text\n-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		err := eachPEM(data, "CERTIFICATE", func([]byte) error { n++; return nil })
		if strict := countPEM(data); err == nil && n != strict {
			t.Errorf("%d blocks, a plain count finds %d", n, strict)
		}
		if apply, err := parseRoots([][]byte{data}); err == nil {
			m := &material{}
			apply(m)
			if m.roots.Equal(x509.NewCertPool()) {
				t.Error("a trust file without certificates was accepted")
			}
		}
	})
}

func countPEM(data []byte) int {
	n := 0
	for {
		b, rest := pem.Decode(data)
		if b == nil {
			return n
		}
		if b.Type == "CERTIFICATE" {
			n++
		}
		data = rest
	}
}
