package translate

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
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
// each address and names only the last one with the port in its routes, even where it is a range, which names nothing.
func (c *compiler) namedAddresses(s *service, port uint32) []string {
	var out []string
	if c.group.CompatIstio && !s.kubernetes() {
		for _, o := range s.entries {
			se := entryOf(o)
			if port != 0 && portNamed(se, port) == nil {
				continue
			}
			out = nil
			if n := len(se.Addresses); n > 0 {
				out = []string{literalDomain(se.Addresses[n-1])}
			}
		}
		return out
	}
	for _, p := range s.vips {
		if p.IsSingleIP() && (!c.group.CompatIstio || c.reaches(p)) {
			out = append(out, addressDomain(p.Addr()))
		}
	}
	return out
}

// asIstio belongs to deviation 3: of a Kubernetes Service's addresses istiod takes those of a family that the caller has, else
// the first. A Service without one is headless to it: requests go to the pod that the application has picked. Outside a
// cluster nobody resolves its name, so detour gives it an address and balances over its endpoints.
func (c *compiler) asIstio(s *service) {
	switch own := slices.DeleteFunc(slices.Clone(s.vips), func(p netip.Prefix) bool { return !c.reaches(p) }); {
	case !s.kubernetes():
	case len(own) > 0:
		s.vips = own
	case len(s.vips) > 0:
		s.vips = s.vips[:1]
	case s.spec.Resolution == networking.ServiceEntry_STATIC:
		s.spec = proto.CloneOf(s.spec)
		s.spec.Resolution = networking.ServiceEntry_NONE
	}
}

// literalDomain is how istiod writes a stated address or range as a domain.
func literalDomain(address string) string {
	if p, err := netip.ParsePrefix(address); err == nil && p.IsSingleIP() {
		address = p.Addr().String()
	}
	if strings.Contains(address, ":") {
		return "[" + address + "]"
	}
	return address
}

// asked belongs to deviation 3: a real sidecar asks only for the route configurations that its listeners name. detour keeps
// the others as well, for a plain HTTP proxy finds every port's hosts in them.
func (c *compiler) asked(names map[string]bool, configs []*routev3.RouteConfiguration, sums []xds.Sum) ([]*routev3.RouteConfiguration, []xds.Sum) {
	if !c.group.CompatIstio {
		return configs, sums
	}
	var out []*routev3.RouteConfiguration
	var outSums []xds.Sum
	for i, rc := range configs {
		if names[rc.Name] {
			out, outSums = append(out, rc), append(outSums, sums[i])
		}
	}
	return out, outSums
}

// joinsSniffed belongs to deviation 3: istiod forgets a port without protocol where another host has one at the same
// address. With detour what tells it from that one, a range of addresses, still leads to it.
func (c *compiler) joinsSniffed() bool { return !c.group.CompatIstio }

// afterSubnets belongs to deviation 3: a tls rule's destinationSubnets hold for that match. With istiod they hold for all
// that follow as well.
func (c *compiler) afterSubnets(own, stated []netip.Prefix) []netip.Prefix {
	if c.group.CompatIstio {
		return stated
	}
	return own
}

// joins belongs to deviation 3: of several ServiceEntries for one host istiod joins only those with the first's resolution,
// labels, workloadSelector and exportTo; the ports of the others have no clusters. detour joins all.
func (c *compiler) joins(s *service, port uint32) bool {
	if !c.group.CompatIstio || len(s.entries) == 1 {
		return true
	}
	first := entryOf(s.first)
	return slices.ContainsFunc(s.entries, func(o *config.Object) bool {
		se := entryOf(o)
		return portNamed(se, port) != nil && (o == s.first || se.Resolution == first.Resolution && sameLabels(o.Labels, s.first.Labels) &&
			sameLabels(se.WorkloadSelector.GetLabels(), first.WorkloadSelector.GetLabels()) && sameSet(se.ExportTo, first.ExportTo))
	})
}

// portIn belongs to deviation 3: the endpoints of several ServiceEntries for one host belong together by the number of their
// port. istiod goes by its name.
func (c *compiler) portIn(s *service, se *networking.ServiceEntry, port servicePort) *networking.ServicePort {
	if c.group.CompatIstio && len(s.entries) > 1 {
		if i := slices.IndexFunc(se.Ports, func(p *networking.ServicePort) bool { return p.Name == port.name }); i >= 0 {
			return se.Ports[i]
		}
		if !resolvesByName(s.spec.Resolution) {
			return nil
		}
	}
	return portNamed(se, port.number)
}

// copiesOf belongs to deviation 3 (T15): istiod makes one service of each stated address and then gives a host's endpoints
// once for each. detour gives them once.
func (c *compiler) copiesOf(o *config.Object) int {
	if c.group.CompatIstio && o.Kind == config.ServiceEntry {
		return max(len(entryOf(o).Addresses), 1)
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

// failsOver tells whether outlierDetection gives a cluster's endpoints their priorities. istiod forgets MeshConfig's
// defaultTrafficPolicy there where endpoints come by EDS; with detour (deviation 3) it counts like a rule's own.
func (c *compiler) failsOver(cc *clusterContext) bool {
	od := cc.policy.outlier
	if c.group.CompatIstio && !resolvesByName(cc.service.spec.Resolution) {
		return od != nil && od != c.mesh.defaults.GetOutlierDetection()
	}
	return od != nil
}

// countStatuses belongs to deviation 3: outlierDetectionHttpErrorCodes decides which statuses count, as the field's
// documentation says. istiod does not read it.
func (c *compiler) countStatuses(cc *clusterContext) {
	if codes := cc.policy.outlier.GetOutlierDetectionHttpErrorCodes(); len(codes) > 0 && !c.group.CompatIstio {
		cc.httpOptions().OutlierDetection = &httpv3.HttpProtocolOptions_OutlierDetection{ErrorMatcher: countedStatuses(codes)}
	}
}

// followsRequest belongs to deviation 3: SNI and the name to verify can be those of a request only where there are requests.
// istiod says so of every cluster, and Envoy takes no notice where connections are relayed.
func (c *compiler) followsRequest(cc *clusterContext) bool {
	return c.group.CompatIstio || cc.port.protocol.http()
}

// meetsMesh belongs to deviation 3: istiod expects a mesh's proxies behind a dynamic host that is MESH_INTERNAL and has no TLS
// settings, and takes the names to send and verify from its requests. There is no mesh here.
func (c *compiler) meetsMesh(cc *clusterContext) bool {
	return c.group.CompatIstio && cc.dynamic() && cc.policy.tls == nil && !cc.service.external()
}

// admitPlain belongs to deviation 3: Envoy refuses a dynamic cluster with protocol options that does not take SNI from requests,
// even one without TLS, unless it is told that this is meant. istiod does not tell it.
func (c *compiler) admitPlain(cc *clusterContext, cl *clusterv3.Cluster) {
	if !c.group.CompatIstio && cc.dynamic() && cc.options != nil && cl.TransportSocket == nil {
		allowInsecure(cl)
	}
}

// leavesProxyOut belongs to deviation 3: of a MESH_INTERNAL host without TLS settings istiod expects that a mesh's proxies may
// stand before its endpoints, and wraps only what it sends to those with the PROXY protocol.
func (c *compiler) leavesProxyOut(cc *clusterContext, cl *clusterv3.Cluster) bool {
	return c.group.CompatIstio && cc.policy.tls == nil && !cc.service.external() && cl.GetType() != clusterv3.Cluster_ORIGINAL_DST
}

// withheld belongs to deviation 3 (T14): without a workloadSelector istiod reads no Kubernetes secret for a sidecar, and
// leaves TLS out. detour blocks such a cluster.
func (c *compiler) withheld(cc *clusterContext, t *networking.ClientTLSSettings) bool {
	return c.group.CompatIstio && t.CredentialName != "" && !strings.HasPrefix(t.CredentialName, "configmap://") &&
		cc.service.rule.selector == nil
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
