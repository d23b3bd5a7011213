package translate

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
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
	if ctx := c.tlsContext(cc, cl); ctx != nil {
		cl.TransportSocket = &corev3.TransportSocket{
			Name:       tlsSocketName,
			ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: mustAny(ctx)},
		}
	}
	if p := cc.policy.proxy; p != nil && !c.leavesProxyOut(cc, cl) {
		cl.TransportSocket = proxySocket(p, cl.TransportSocket)
	}
}

// tlsContext makes a cluster's TLS context; nil for plain text.
func (c *compiler) tlsContext(cc *clusterContext, cl *clusterv3.Cluster) *tlsv3.UpstreamTlsContext {
	t := cc.policy.tls
	switch {
	case c.meetsMesh(cc):
		followDynamically(cc, cl, &networking.ClientTLSSettings{})
		return nil
	case t.GetMode() == networking.ClientTLSSettings_ISTIO_MUTUAL:
		if cc.dynamic() {
			followDynamically(cc, cl, t)
		}
		return c.meshTLS(cc, t)
	case !originates(t) || c.withheld(cc, t):
		return nil
	}
	if cc.dynamic() {
		followDynamically(cc, cl, t)
	}
	return c.upstreamTLS(cc, t)
}

// dynamic tells whether the cluster looks up whatever name a request carries.
func (cc *clusterContext) dynamic() bool {
	return cc.service.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS
}

// followDynamically takes SNI, and the name to verify, from the name that a dynamic cluster looks up. Envoy refuses TLS to
// such a cluster without both unless it is told that this is meant.
func followDynamically(cc *clusterContext, cl *clusterv3.Cluster, t *networking.ClientTLSSettings) {
	sni, verify := t.Sni == "", !t.InsecureSkipVerify.GetValue()
	if !sni || !verify {
		allowInsecure(cl)
	}
	if sni || verify {
		cc.httpOptions().UpstreamHttpProtocolOptions = &corev3.UpstreamHttpProtocolOptions{AutoSni: sni, AutoSanValidation: verify}
	}
}

// allowInsecure tells Envoy that a dynamic cluster takes no names from requests on purpose.
func allowInsecure(cl *clusterv3.Cluster) {
	custom := cl.GetClusterType()
	dfp := &dfpv3.ClusterConfig{}
	if err := custom.GetTypedConfig().UnmarshalTo(dfp); err == nil {
		dfp.AllowInsecureClusterOptions = true
		custom.TypedConfig = mustAny(dfp)
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
			TlsParams:     tlsParameters(),
			AlpnProtocols: alpn(cc),
		},
	}
	skip := t.InsecureSkipVerify.GetValue()
	sans := c.namesToVerify(cc, t)
	switch {
	case t.Sni != "" || cc.dynamic():
	case c.namesFollowEndpoints(cc):
		ctx.AutoHostSni = true
		ctx.AutoSniSanValidation = !skip && len(sans) == 0
	case c.followsRequest(cc):
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
	if len(sans) == 0 && !cc.dynamic() {
		sans = c.accounts(cc.service)
	}
	if t.Sni != "" {
		sans = c.verifyStatedName(t, sans)
	}
	return sans
}

// alpn: h2 only where the cluster always speaks HTTP/2. Where it follows the client, Envoy offers what the connection is
// for, as long as nothing is stated here.
func alpn(cc *clusterContext) []string {
	if cc.speaksHTTP2() && !cc.followsClient() {
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
	if at, ruled := cc.policy.at["tls"]; skip && ruled {
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
	if t.CredentialName != "" {
		secretsOfKubernetes(common, t, sans, skip)
		return
	}
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
	common.ValidationContextType = combined(sans, fileSecret("file-root:"+ca))
}

// secretsOfKubernetes names the secrets that istiod itself serves.
func secretsOfKubernetes(common *tlsv3.CommonTlsContext, t *networking.ClientTLSSettings, sans []string, skip bool) {
	name := t.CredentialName
	if !strings.Contains(name, "://") {
		name = "kubernetes://" + name
	}
	if t.Mode == networking.ClientTLSSettings_MUTUAL {
		common.TlsCertificateSdsSecretConfigs = []*tlsv3.SdsSecretConfig{{Name: name, SdsConfig: adsSource()}}
	}
	if !skip {
		common.ValidationContextType = combined(sans, &tlsv3.SdsSecretConfig{Name: name + "-cacert", SdsConfig: adsSource()})
	}
}

// combined is a validation context of which the CA is a secret.
func combined(sans []string, ca *tlsv3.SdsSecretConfig) *tlsv3.CommonTlsContext_CombinedValidationContext {
	validation := &tlsv3.CertificateValidationContext{}
	validation.MatchSubjectAltNames = exactSANs(sans)
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext: validation, ValidationContextSdsSecretConfig: ca,
		},
	}
}

// meshTLS is what a mesh's own certificates are named by (ISTIO_MUTUAL).
func (c *compiler) meshTLS(cc *clusterContext, t *networking.ClientTLSSettings) *tlsv3.UpstreamTlsContext {
	common := &tlsv3.CommonTlsContext{
		TlsParams:                      tlsParameters(),
		AlpnProtocols:                  append([]string{"istio-peer-exchange", "istio"}, alpn(cc)...),
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{fileSecret("default")},
	}
	sans, sni := t.SubjectAltNames, t.Sni
	if sans == nil && !cc.dynamic() {
		sans = c.accounts(cc.service)
	}
	common.ValidationContextType = combined(sans, fileSecret("ROOTCA"))
	if sni == "" && !cc.dynamic() {
		sni = "outbound_." + strconv.FormatUint(uint64(cc.port.number), 10) + "_." + cc.subset.name() + "_." + cc.service.host
	}
	return &tlsv3.UpstreamTlsContext{Sni: sni, CommonTlsContext: common}
}

func tlsParameters() *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
}

// accounts gives the names of which a service's certificates carry one: the ServiceEntries' subjectAltNames and the
// identities of the endpoints' service accounts, sorted (istiod: ServiceAccounts).
func (c *compiler) accounts(s *service) []string {
	last := s.entries[len(s.entries)-1]
	out := slices.Clone(entryOf(last).SubjectAltNames)
	for _, o := range s.entries {
		endpoints := entryOf(o).Endpoints
		if entryOf(o).WorkloadSelector != nil {
			endpoints = c.selectedWorkloads(o)
		}
		for _, e := range endpoints {
			if e.ServiceAccount != "" {
				out = append(out, "spiffe://cluster.local/ns/"+o.Namespace+"/sa/"+e.ServiceAccount)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
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
