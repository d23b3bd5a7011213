package translate

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"net/netip"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// This file holds every place where detour's snapshot differs from istiod's on purpose (DESIGN.md, "Where detour differs
// from Istio on purpose"). Each function does nothing, or what istiod does, when NodeGroup.CompatIstio is set.

// AnnotationHostRewrite, on a DestinationRule or ServiceEntry, decides what Host an endpoint sees: HostPreserve the
// application's, HostEndpoint the endpoint's own name. The DestinationRule's word counts before the ServiceEntry's.
const (
	AnnotationHostRewrite = "detour.dev/host-rewrite"
	HostPreserve          = "preserve"
	HostEndpoint          = "endpoint"
)

// dnsJitter spreads look-ups (istiod: PILOT_DNS_JITTER_DURATION).
func dnsJitter() *durationpb.Duration { return durationpb.New(100 * time.Millisecond) }

// ejectAllButTheLast is deviation 1. Envoy's default maxEjectionPercent of 10 ejects none of two endpoints since its 1.28
// (T1), so that the rule as most people write it never fails over. 99 lets all but the last go, for up to 100 endpoints.
// Istio leaves the field out.
func (c *compiler) ejectAllButTheLast(d *clusterv3.OutlierDetection) {
	if !c.group.CompatIstio {
		d.MaxEjectionPercent = wrapperspb.UInt32(99)
	}
}

// namesFollowEndpoints is deviation 2: with SIMPLE or MUTUAL and no sni, SNI and the certificate's name are those of the
// chosen endpoint when that is known by a name. Istio sends and verifies the application's host, which no provider's
// certificate carries (T3).
func (c *compiler) namesFollowEndpoints(cc *clusterContext) bool {
	t := cc.policy.tls
	return !c.group.CompatIstio && originates(t) && t.Sni == "" && resolvesByName(cc.service.spec.Resolution)
}

// nameEndpoints belongs to deviation 2: an endpoint given as an IP address among DNS endpoints has no name to be verified
// by, so it answers for the service's.
func (c *compiler) nameEndpoints(cc *clusterContext, groups []localityGroup) {
	if !c.namesFollowEndpoints(cc) || isWildcard(cc.service.host) {
		return
	}
	for _, g := range groups {
		for i := range g.members {
			if !g.members[i].isName() {
				g.members[i].hostname = cc.service.host
			}
		}
	}
}

// rewritesHost belongs to deviation 2: Host follows the endpoint where SNI does, because a provider's front end refuses a
// Host that does not fit the SNI. The annotation keeps Host there, or asks for the endpoint's with plain HTTP too. Istio
// always keeps Host (T4).
func (c *compiler) rewritesHost(s *service, port servicePort, sub *subset) bool {
	if c.group.CompatIstio || !resolvesByName(s.spec.Resolution) {
		return false
	}
	for _, o := range s.annotated() {
		switch v := o.Annotations[AnnotationHostRewrite]; v {
		case "":
			continue
		case HostPreserve, HostEndpoint:
			return v == HostEndpoint
		default:
			c.warn(o, CodeBadAnnotation, "metadata.annotations",
				"%s: %q is neither %q nor %q, and is ignored", AnnotationHostRewrite, v, HostPreserve, HostEndpoint)
		}
	}
	cc := &clusterContext{service: s, port: port, subset: sub, policy: c.policyFor(s.rule, port.number, sub)}
	return c.namesFollowEndpoints(cc)
}

// annotated gives the objects whose annotations count for a service, the DestinationRule's first.
func (s *service) annotated() []*config.Object {
	var out []*config.Object
	if s.rule != nil {
		out = append(out, s.rule.from)
	}
	return append(out, s.entries...)
}

// verifyStatedName belongs to deviation 2: a stated sni without names to verify is itself the name to verify. Istio then
// accepts any certificate that the authorities signed.
func (c *compiler) verifyStatedName(t *networking.ClientTLSSettings, sans []string) []string {
	if c.group.CompatIstio || len(sans) > 0 {
		return sans
	}
	return []string{t.Sni}
}

// certificatesByFile belongs to deviation 3: CA and certificates are files that Envoy and the embedded engine read
// themselves, where istiod names secrets that its agent serves. Without verification there is no CA at all.
func certificatesByFile(common *tlsv3.CommonTlsContext, t *networking.ClientTLSSettings, sans []string, skip bool) {
	if t.Mode == networking.ClientTLSSettings_MUTUAL {
		common.TlsCertificates = []*tlsv3.TlsCertificate{{CertificateChain: fileSource(t.ClientCertificate), PrivateKey: fileSource(t.PrivateKey)}}
	}
	v := &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: typedSANs(sans)}
	switch {
	case skip:
		v.TrustChainVerification = tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED
	case t.CaCertificates == "" || t.CaCertificates == "system":
		v.TrustedCa = fileSource(SystemCAFile)
		v.SystemRootCerts = &tlsv3.CertificateValidationContext_SystemRootCerts{}
	default:
		v.TrustedCa = fileSource(t.CaCertificates)
	}
	if t.CaCrl != "" && !skip {
		v.Crl = fileSource(t.CaCrl)
	}
	common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContext{ValidationContext: v}
}

func fileSource(path string) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_Filename{Filename: path}}
}

// destinationPort: a destination without port means its service's only port, as the field's documentation says. istiod looks
// among the services of the request's own port only, so that a service on another port gets a cluster that does not exist.
func (c *compiler) destinationPort(d *networking.Destination, port servicePort) uint32 {
	if n := d.GetPort().GetNumber(); n > 0 || !c.group.CompatIstio {
		return c.onlyPort(d, port)
	}
	return port.number
}

// namedAddresses belongs to deviation 3 (T15): requests to any of a host's addresses are for it. istiod makes a service of
// each address and names only the last one in its routes.
func (c *compiler) namedAddresses(s *service) []netip.Prefix {
	if c.group.CompatIstio && len(s.vips) > 1 {
		return s.vips[len(s.vips)-1:]
	}
	return s.vips
}

// copiesOf belongs to deviation 3 (T15): istiod makes one service of each stated address and then gives a STATIC service's
// endpoints once for each. detour gives them once.
func (c *compiler) copiesOf(s *service) int {
	if c.group.CompatIstio && s.spec.Resolution == networking.ServiceEntry_STATIC && !s.kubernetes() {
		return max(len(s.spec.Addresses), 1)
	}
	return 1
}

// typedDNSCluster belongs to deviation 3 (T17): Envoy 1.40 calls the cluster's own DNS fields deprecated and asks for the
// DnsCluster extension, which says the same.
func (c *compiler) typedDNSCluster(cl *clusterv3.Cluster, r networking.ServiceEntry_Resolution, lookup addressFamily) {
	family := map[addressFamily]dnsv3.DnsLookupFamily{
		familyV4:  dnsv3.DnsLookupFamily_V4_ONLY,
		familyV6:  dnsv3.DnsLookupFamily_V6_ONLY,
		familyAll: dnsv3.DnsLookupFamily_ALL,
	}
	cl.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
		Name: "envoy.clusters.dns",
		TypedConfig: mustAny(&dnsclusterv3.DnsCluster{
			DnsRefreshRate:               c.mesh.dnsRefresh,
			RespectDnsTtl:                true,
			DnsJitter:                    dnsJitter(),
			DnsLookupFamily:              family[lookup],
			AllAddressesInSingleEndpoint: r == networking.ServiceEntry_DNS_ROUND_ROBIN,
		}),
	}}
}

// limitByClient belongs to deviation 3 (T17): istiod lets a gRPC client shorten the time limit by a deprecated field. The
// field that Envoy offers instead, max_stream_duration, makes it forget the route's own timeout (seen on 1.40, router.cc
// FilterUtility::finalTimeout), so it is no replacement.
func (c *compiler) limitByClient(action *routev3.RouteAction) {
	if c.group.CompatIstio {
		action.MaxGrpcTimeout = action.Timeout
	}
}

// updateFrequency belongs to deviation 3: with Istio's 2 a retry reaches the next priority on the third attempt only
// (T10); with 1 the second attempt does.
func (c *compiler) updateFrequency() int32 {
	if c.group.CompatIstio {
		return 2
	}
	return 1
}

// takesAnyAddress belongs to deviation 3: Istio gives a TCP host without addresses every connection to its port, whatever
// address it goes to. detour never takes what nobody declared: such a host is reached by its allocated address only.
func (c *compiler) takesAnyAddress() bool { return c.group.CompatIstio }

// blocked tells why nothing may be sent to a service under a policy; "" when all is well. It is blocked when its
// DestinationRule is refused, because what that asked for can't be known; and (deviation 3, T14) when TLS was asked for
// with secrets that only a mesh or Kubernetes holds. Istio sends plain text then.
func (c *compiler) blocked(s *service, p policy) string {
	switch {
	case s.refused != nil:
		return s.refused.Key.String() + " is refused: " + s.refused.Issue.String()
	case c.group.CompatIstio:
		return ""
	case originates(p.tls) && p.tls.CredentialName != "":
		at := p.at["tls"]
		c.warn(at.Object, CodeCredential, at.Field+".credentialName",
			"secret %q can't be read outside Kubernetes, so %s answers 503; name files in caCertificates, clientCertificate and privateKey", p.tls.CredentialName, s.host)
		return at.Object.Key.String() + " at " + c.current(at.Object).At(at.Field).String() + " takes its certificates from a Kubernetes secret, which can't be read here"
	case p.tls.GetMode() == networking.ClientTLSSettings_ISTIO_MUTUAL:
		at := p.at["tls"]
		c.warn(at.Object, CodeCredential, at.Field+".mode",
			"ISTIO_MUTUAL needs a mesh's certificates, so %s answers 503; use SIMPLE or MUTUAL", s.host)
		return at.Object.Key.String() + " at " + c.current(at.Object).At(at.Field).String() + " asks for a mesh's own certificates, which do not exist here"
	}
	return ""
}

// faultDefault belongs to deviation 3 (T13): a fault without a percentage hits every request, as the field's documentation
// says. Istio's output makes it hit none.
func (c *compiler) faultDefault(istio *typev3.FractionalPercent) *typev3.FractionalPercent {
	if c.group.CompatIstio {
		return istio
	}
	return &typev3.FractionalPercent{Numerator: 100}
}

// appendWord belongs to deviation 3: istiod appends a word of retry_on even to nothing, and Envoy skips the empty word
// before the comma. detour writes none.
func (c *compiler) appendWord(list, word string) string {
	if list == "" && !c.group.CompatIstio {
		return word
	}
	return list + "," + word
}
