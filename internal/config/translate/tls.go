package translate

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"net/netip"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// What istiod does (core/cluster_tls.go; SEMANTICS §1.5, §3): DISABLE and no mode at all mean plain text. SIMPLE and MUTUAL
// verify the chain against caCertificates, else the system's, and the name against subjectAltNames, else the
// ServiceEntry's. Without `sni` the SNI is the request's Host (auto_sni), and without subjectAltNames in the rule the
// certificate must carry that name too (auto_san_validation), unless insecureSkipVerify. TLS 1.2 to 1.3.

// SystemCAFile is the usual place of the system's certificate authorities. Envoy needs a file; where a validation context
// also says system_root_certs, the embedded engine asks the operating system instead.
const SystemCAFile = "/etc/ssl/certs/ca-certificates.crt"

const (
	tlsSocketName   = "envoy.transport_sockets.tls"
	proxySocketName = "envoy.transport_sockets.upstream_proxy_protocol"
	rawSocketName   = "raw_buffer"
)

// applyTLS writes DestinationRule.tls and proxyProtocol as the cluster's transport socket.
func (c *compiler) applyTLS(cc *clusterContext, cl *clusterv3.Cluster) {
	if t := cc.policy.tls; originates(t) && !(c.group.CompatIstio && t.CredentialName != "") {
		cl.TransportSocket = &corev3.TransportSocket{
			Name:       tlsSocketName,
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(c.upstreamTLS(cc, t))},
		}
	}
	if p := cc.policy.proxy; p != nil {
		cl.TransportSocket = proxySocket(p, cl.TransportSocket)
	}
}

// originates tells whether the proxy speaks TLS upstream of its own accord with certificates of this configuration's.
// ISTIO_MUTUAL needs a mesh's and is blocked.
func originates(t *networking.ClientTLSSettings) bool {
	return t.GetMode() == networking.ClientTLSSettings_SIMPLE || t.GetMode() == networking.ClientTLSSettings_MUTUAL
}

func proxySocket(p *networking.TrafficPolicy_ProxyProtocol, inner *corev3.TransportSocket) *corev3.TransportSocket {
	version := corev3.ProxyProtocolConfig_V1
	if p.Version == networking.TrafficPolicy_ProxyProtocol_V2 {
		version = corev3.ProxyProtocolConfig_V2
	}
	if inner == nil {
		inner = &corev3.TransportSocket{Name: rawSocketName, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(&rawv3.RawBuffer{})}}
	}
	return &corev3.TransportSocket{Name: proxySocketName, ConfigType: &corev3.TransportSocket_TypedConfig{
		TypedConfig: mustAny(&proxyv3.ProxyProtocolUpstreamTransport{
			Config: &corev3.ProxyProtocolConfig{Version: version}, TransportSocket: inner,
		}),
	}}
}

// upstreamTLS makes the TLS context of a cluster and, where the names follow the request, its protocol options.
func (c *compiler) upstreamTLS(cc *clusterContext, t *networking.ClientTLSSettings) *tlsv3.UpstreamTlsContext {
	ctx := &tlsv3.UpstreamTlsContext{
		Sni: t.Sni,
		CommonTlsContext: &tlsv3.CommonTlsContext{
			TlsParams: &tlsv3.TlsParameters{
				TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
				TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
			},
			AlpnProtocols: alpn(cc),
		},
	}
	skip := t.InsecureSkipVerify.GetValue()
	sans := c.namesToVerify(cc, t)
	switch {
	case t.Sni != "":
	case c.namesFollowEndpoints(cc):
		ctx.AutoHostSni = true
		ctx.AutoSniSanValidation = !skip && len(sans) == 0
	case cc.port.protocol.http():
		followRequest(cc, !skip && len(t.SubjectAltNames) == 0)
	case len(sans) == 0 && !skip && !c.group.CompatIstio:
		at := cc.policy.at["tls"]
		c.warn(at.Object, CodeInsecure, at.Field,
			"no name is verified on port %d of %s: there is no request to take it from, so any certificate that the authorities signed will do; state sni or subjectAltNames",
			cc.port.number, cc.service.host)
	}
	c.applyValidation(cc, ctx, t, sans, skip)
	return ctx
}

// namesToVerify gives the names of which a certificate must carry one: the rule's, else the ServiceEntry's. None means that
// SNI or Host decides, or that nothing is verified.
func (c *compiler) namesToVerify(cc *clusterContext, t *networking.ClientTLSSettings) []string {
	if t.InsecureSkipVerify.GetValue() {
		return nil
	}
	sans := t.SubjectAltNames
	if len(sans) == 0 {
		sans = cc.service.spec.SubjectAltNames
	}
	if t.Sni != "" {
		sans = c.verifyStatedName(t, sans)
	}
	return sans
}

// alpn: h2 only where the cluster speaks HTTP/2, both where it follows the client, else none.
func alpn(cc *clusterContext) []string {
	switch {
	case cc.followsClient():
		return []string{"h2", "http/1.1"}
	case cc.speaksHTTP2():
		return []string{"h2"}
	}
	return nil
}

// followRequest takes SNI, and the name to verify, from the request's Host.
func followRequest(cc *clusterContext, verify bool) {
	cc.httpOptions().UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: true, AutoSanValidation: verify}
}

// applyValidation says whom to trust and what to present.
func (c *compiler) applyValidation(cc *clusterContext, ctx *tlsv3.UpstreamTlsContext, t *networking.ClientTLSSettings, sans []string, skip bool) {
	if c.group.CompatIstio {
		secretsBySDS(ctx.CommonTlsContext, t, sans, skip)
		return
	}
	if skip {
		at := cc.policy.at["tls"]
		c.warn(at.Object, CodeInsecure, at.Field+".insecureSkipVerify",
			"nobody verifies who answers for %s: whoever can reach the network path can read and change everything; remove insecureSkipVerify, or name the authority in caCertificates",
			cc.service.host)
	}
	certificatesByFile(ctx.CommonTlsContext, t, sans, skip)
}

// exactSANs is how istiod writes the names a certificate must carry one of.
func exactSANs(sans []string) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	for _, s := range sans {
		out = append(out, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}})
	}
	return out
}

// typedSANs is the same with the type of each name, which current Envoys ask for.
func typedSANs(sans []string) []*tlsv3.SubjectAltNameMatcher {
	var out []*tlsv3.SubjectAltNameMatcher
	for i, m := range exactSANs(sans) {
		t := tlsv3.SubjectAltNameMatcher_DNS
		if _, err := netip.ParseAddr(sans[i]); err == nil {
			t = tlsv3.SubjectAltNameMatcher_IP_ADDRESS
		} else if strings.Contains(sans[i], "://") {
			t = tlsv3.SubjectAltNameMatcher_URI
		}
		out = append(out, &tlsv3.SubjectAltNameMatcher{SanType: t, Matcher: m})
	}
	return out
}

// secretsBySDS names CA and certificates as secrets that pilot-agent serves from files.
func secretsBySDS(common *tlsv3.CommonTlsContext, t *networking.ClientTLSSettings, sans []string, skip bool) {
	if t.Mode == networking.ClientTLSSettings_MUTUAL {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{fileSecret("file-cert:" + t.ClientCertificate + "~" + t.PrivateKey)}
	}
	if skip {
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{}}
		return
	}
	ca := t.CaCertificates
	if ca == "" {
		ca = "system"
	}
	validation := &tlsv3.CertificateValidationContext{}
	validation.MatchSubjectAltNames = exactSANs(sans)
	common.ValidationContextType = &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         validation,
			ValidationContextSdsSecretConfig: fileSecret("file-root:" + ca),
		},
	}
}

func fileSecret(name string) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: &corev3.ConfigSource{
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:                   corev3.ApiConfigSource_GRPC,
			SetNodeOnFirstMessageOnly: true,
			TransportApiVersion:       corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: "sds-grpc"},
			}}},
		}},
		ResourceApiVersion: corev3.ApiVersion_V3,
	}}
}
