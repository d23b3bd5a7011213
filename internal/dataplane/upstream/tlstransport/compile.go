package tlstransport

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
)

func (c *Context) compile(common *tlsv3.CommonTlsContext) error {
	switch {
	case common.GetCustomHandshaker() != nil:
		return unsupported("custom_handshaker")
	case common.GetKeyLog() != nil:
		return unsupported("key_log")
	case common.GetCustomTlsCertificateSelector() != nil:
		return unsupported("custom_tls_certificate_selector")
	case common.GetTlsCertificateProviderInstance() != nil:
		return unsupported("tls_certificate_provider_instance")
	}
	var err error
	if c.params, err = newParams(common.GetTlsParams()); err != nil {
		return err
	}
	if err := c.compileCertificates(common); err != nil {
		return err
	}
	v, err := validation(common)
	if err != nil {
		return err
	}
	return c.compileValidation(v)
}

func (c *Context) compileCertificates(common *tlsv3.CommonTlsContext) error {
	for _, cert := range common.GetTlsCertificates() {
		switch {
		case cert.GetPkcs12() != nil:
			return unsupported("tls_certificates.pkcs12")
		case cert.GetPrivateKeyProvider() != nil:
			return unsupported("tls_certificates.private_key_provider")
		case cert.GetPassword() != nil:
			return unsupported("tls_certificates.password")
		}
		if err := c.addPart("client certificate", parsePair, cert.GetCertificateChain(), cert.GetPrivateKey()); err != nil {
			return err
		}
	}
	for _, sds := range common.GetTlsCertificateSdsSecretConfigs() {
		files, ok := strings.CutPrefix(sds.GetName(), "file-cert:")
		cert, key, both := strings.Cut(files, "~")
		if !ok || !both {
			return fmt.Errorf("secret %q: only files are supported (file-cert:CERT~KEY)", sds.GetName())
		}
		if err := c.addPart("client certificate", parsePair, file(cert), file(key)); err != nil {
			return err
		}
	}
	return nil
}

func file(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

func (c *Context) addPart(what string, parse func([][]byte) (func(*material), error), from ...*corev3.DataSource) error {
	p := &part{what: what, parse: parse}
	for _, ds := range from {
		src := &source{}
		switch s := ds.GetSpecifier().(type) {
		case *corev3.DataSource_Filename:
			if src.path = s.Filename; src.path == "" {
				return fmt.Errorf("%s: empty file name", what)
			}
		case *corev3.DataSource_InlineBytes:
			src.data = s.InlineBytes
		case *corev3.DataSource_InlineString:
			src.data = []byte(s.InlineString)
		default:
			return fmt.Errorf("%s: a file name or inline text is needed", what)
		}
		p.sources = append(p.sources, src)
	}
	c.files.parts = append(c.files.parts, p)
	return nil
}

// validation finds the validation context, in the three forms it may have. Istio's secrets named file-root:PATH and
// file-root:system are read from the files themselves.
func validation(common *tlsv3.CommonTlsContext) (*tlsv3.CertificateValidationContext, error) {
	switch t := common.GetValidationContextType().(type) {
	case nil:
		return nil, nil
	case *tlsv3.CommonTlsContext_ValidationContext:
		return t.ValidationContext, nil
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		return rootSecret(t.ValidationContextSdsSecretConfig)
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		v := &tlsv3.CertificateValidationContext{}
		if def := t.CombinedValidationContext.GetDefaultValidationContext(); def != nil {
			v = proto.Clone(def).(*tlsv3.CertificateValidationContext)
		}
		secret, err := rootSecret(t.CombinedValidationContext.GetValidationContextSdsSecretConfig())
		if err != nil {
			return nil, err
		}
		proto.Merge(v, secret)
		return v, nil
	default:
		return nil, unsupported(fmt.Sprintf("%T", t))
	}
}

func rootSecret(sds *tlsv3.SdsSecretConfig) (*tlsv3.CertificateValidationContext, error) {
	path, ok := strings.CutPrefix(sds.GetName(), "file-root:")
	switch {
	case !ok || path == "":
		return nil, fmt.Errorf("secret %q: only files are supported (file-root:PATH, file-root:system)", sds.GetName())
	case path == "system":
		return &tlsv3.CertificateValidationContext{SystemRootCerts: &tlsv3.CertificateValidationContext_SystemRootCerts{}}, nil
	}
	return &tlsv3.CertificateValidationContext{TrustedCa: file(path)}, nil
}

func (c *Context) compileValidation(v *tlsv3.CertificateValidationContext) error {
	if err := refuse(v); err != nil {
		return err
	}
	for _, m := range v.GetMatchTypedSubjectAltNames() {
		san, err := newSANMatcher(m.GetSanType(), m.GetMatcher())
		if err != nil {
			return err
		}
		if m.GetSanType() == tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED {
			return errors.New("match_typed_subject_alt_names without san_type")
		}
		c.sans = append(c.sans, san)
	}
	if len(c.sans) == 0 { // the typed list replaces the deprecated one
		//lint:ignore SA1019 control planes still send it
		for _, m := range v.GetMatchSubjectAltNames() {
			san, err := newSANMatcher(tlsv3.SubjectAltNameMatcher_SAN_TYPE_UNSPECIFIED, m)
			if err != nil {
				return err
			}
			c.sans = append(c.sans, san)
		}
	}
	trust := v.GetTrustedCa() != nil || v.GetSystemRootCerts() != nil
	untrusted := v.GetTrustChainVerification() == tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	c.insecure = untrusted || !trust && len(c.sans) == 0 && !c.autoSAN
	if c.insecure {
		return nil
	}
	if v.GetTrustedCa() != nil && !systemTrust(v) {
		if err := c.addPart("trusted CA", parseRoots, v.GetTrustedCa()); err != nil {
			return err
		}
	}
	c.leafCRL = v.GetOnlyVerifyLeafCertCrl()
	if v.GetCrl() != nil {
		return c.addPart("CRL", parseCRLs, v.GetCrl())
	}
	return nil
}

// systemCAFile is the usual place of the system's authorities; not all systems have it, and SSL_CERT_FILE may name another.
const systemCAFile = "/etc/ssl/certs/ca-certificates.crt"

// systemTrust tells whether the file stands for the system's authorities, wherever they are: both are said because an
// Envoy wants a file. Beside any other file system_root_certs counts for nothing (Envoy's CertificateValidationContext).
func systemTrust(v *tlsv3.CertificateValidationContext) bool {
	return v.GetSystemRootCerts() != nil && v.GetTrustedCa().GetFilename() == systemCAFile
}

// refuse names the fields that ask for a check that isn't done here.
func refuse(v *tlsv3.CertificateValidationContext) error {
	switch {
	case len(v.GetVerifyCertificateSpki()) > 0:
		return unsupported("verify_certificate_spki")
	case len(v.GetVerifyCertificateHash()) > 0:
		return unsupported("verify_certificate_hash")
	case v.GetRequireSignedCertificateTimestamp().GetValue():
		return unsupported("require_signed_certificate_timestamp")
	case v.GetAllowExpiredCertificate():
		return unsupported("allow_expired_certificate")
	case v.GetCustomValidatorConfig() != nil:
		return unsupported("custom_validator_config")
	case v.GetMaxVerifyDepth() != nil:
		return unsupported("max_verify_depth")
	case v.GetCaCertificateProviderInstance() != nil:
		return unsupported("ca_certificate_provider_instance")
	}
	return nil
}

type tlsParams struct {
	min, max uint16
	suites   []uint16
	curves   []tls.CurveID
}

// defaultCurves are those of BoringSSL's default as Envoy sets it, and P-384. X25519MLKEM768 costs a kilobyte and a
// quarter of a handshake more even where the server does not know it (docs/performance.md); ecdh_curves can ask for it.
var defaultCurves = []tls.CurveID{tls.X25519, tls.CurveP256, tls.CurveP384}

var versions = map[tlsv3.TlsParameters_TlsProtocol]uint16{
	tlsv3.TlsParameters_TLSv1_0: tls.VersionTLS10, tlsv3.TlsParameters_TLSv1_1: tls.VersionTLS11,
	tlsv3.TlsParameters_TLSv1_2: tls.VersionTLS12, tlsv3.TlsParameters_TLSv1_3: tls.VersionTLS13,
}

var curves = map[string]tls.CurveID{
	"X25519": tls.X25519, "P-256": tls.CurveP256, "P-384": tls.CurveP384, "P-521": tls.CurveP521,
	"X25519MLKEM768": tls.X25519MLKEM768,
}

// suites has BoringSSL's names of the TLS 1.2 suites that are safe and that crypto/tls has.
var suites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-RSA-AES128-GCM-SHA256":   tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-RSA-AES256-GCM-SHA384":   tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-RSA-CHACHA20-POLY1305":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	"ECDHE-ECDSA-AES128-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA,
	"ECDHE-RSA-AES128-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA,
	"ECDHE-ECDSA-AES256-SHA":        tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA,
	"ECDHE-RSA-AES256-SHA":          tls.TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA,
}

func newParams(p *tlsv3.TlsParameters) (tlsParams, error) {
	out := tlsParams{min: tls.VersionTLS12, max: tls.VersionTLS13, curves: defaultCurves}
	if len(p.GetSignatureAlgorithms()) > 0 {
		return out, unsupported("tls_params.signature_algorithms")
	}
	if len(p.GetCompliancePolicies()) > 0 {
		return out, unsupported("tls_params.compliance_policies")
	}
	if v, ok := versions[p.GetTlsMinimumProtocolVersion()]; ok {
		out.min = v
	}
	if v, ok := versions[p.GetTlsMaximumProtocolVersion()]; ok {
		out.max = v
	}
	if out.min > out.max {
		return out, errors.New("tls_params: the minimum protocol version is above the maximum")
	}
	// Names in brackets are of equal preference: "[A|B]".
	for _, entry := range p.GetCipherSuites() {
		for _, name := range strings.Split(strings.Trim(entry, "[]"), "|") {
			id, ok := suites[name]
			if !ok {
				return out, unsupported("cipher suite " + name)
			}
			out.suites = append(out.suites, id)
		}
	}
	if len(p.GetEcdhCurves()) > 0 {
		out.curves = nil
	}
	for _, name := range p.GetEcdhCurves() {
		id, ok := curves[name]
		if !ok {
			return out, unsupported("curve " + name)
		}
		out.curves = append(out.curves, id)
	}
	return out, nil
}
