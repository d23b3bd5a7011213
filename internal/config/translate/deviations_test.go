package translate_test

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/xds"
)

// entry is a DNS ServiceEntry for a.example.com with two endpoints.
const entry = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}]
  resolution: DNS
  endpoints: [{address: one.example.net, locality: us-east1}, {address: two.example.net, locality: us-west}]
---
`

func ruleWith(policy string) string {
	return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: a}\nspec:\n  host: a.example.com\n  trafficPolicy: " + policy + "\n---\n"
}

// both compiles for detour and for Istio.
func both(t *testing.T, yaml string) (own, istio *xds.Snapshot) {
	t.Helper()
	own, _ = compile(t, yaml, inEast())
	g := inEast()
	g.CompatIstio = true
	istio, _ = compile(t, yaml, g)
	return own, istio
}

func clusterNamed(t *testing.T, s *xds.Snapshot, name string) *clusterv3.Cluster {
	t.Helper()
	for _, c := range s.Clusters {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no cluster %s", name)
	return nil
}

const aCluster = "outbound|80||a.example.com"

func unpack[M proto.Message](t *testing.T, a *anypb.Any, m M) M {
	t.Helper()
	if err := a.UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

func tlsContext(t *testing.T, c *clusterv3.Cluster) *tlsv3.UpstreamTlsContext {
	t.Helper()
	if c.TransportSocket == nil {
		t.Fatalf("%s has no transport socket", c.Name)
	}
	return unpack(t, c.TransportSocket.GetTypedConfig(), &tlsv3.UpstreamTlsContext{})
}

// routeOf gives the first route of a host on port 80.
func routeOf(t *testing.T, s *xds.Snapshot, host string) *routev3.Route {
	t.Helper()
	for _, rc := range s.Routes {
		for _, vh := range rc.VirtualHosts {
			if rc.Name == "80" && vh.Name == host+":80" {
				return vh.Routes[0]
			}
		}
	}
	t.Fatalf("no virtual host for %s", host)
	return nil
}

func TestDeviationMaxEjectionPercent(t *testing.T) {
	for policy, want := range map[string][2]uint32{ // own, Istio's; 0 = not set
		"{outlierDetection: {consecutive5xxErrors: 1}}":                         {99, 0},
		"{outlierDetection: {consecutive5xxErrors: 1, maxEjectionPercent: 10}}": {10, 10},
	} {
		own, istio := both(t, entry+ruleWith(policy))
		for i, s := range []*xds.Snapshot{own, istio} {
			if got := clusterNamed(t, s, aCluster).OutlierDetection.MaxEjectionPercent.GetValue(); got != want[i] {
				t.Errorf("%s: max_ejection_percent %d, want %d", policy, got, want[i])
			}
		}
	}
	internal := strings.Replace(entry, "resolution: DNS", "resolution: DNS\n  location: MESH_INTERNAL", 1)
	own, _ := both(t, internal+ruleWith("{outlierDetection: {}}"))
	if got := clusterNamed(t, own, aCluster).OutlierDetection.MaxEjectionPercent; got != nil {
		t.Errorf("a host in the mesh got %v", got)
	}
}

func TestDeviationEndpointNames(t *testing.T) {
	own, istio := both(t, entry+ruleWith("{tls: {mode: SIMPLE}}"))
	ctx := tlsContext(t, clusterNamed(t, own, aCluster))
	if !ctx.AutoHostSni || !ctx.AutoSniSanValidation || ctx.Sni != "" {
		t.Errorf("own: %v", ctx)
	}
	if !routeOf(t, own, "a.example.com").GetRoute().GetAutoHostRewrite().GetValue() {
		t.Error("own: Host does not follow the endpoint")
	}
	c := clusterNamed(t, istio, aCluster)
	ctx = tlsContext(t, c)
	if ctx.AutoHostSni || ctx.AutoSniSanValidation {
		t.Errorf("istio: %v", ctx)
	}
	opts := unpack(t, c.TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"], &httpv3.HttpProtocolOptions{})
	if up := opts.UpstreamHttpProtocolOptions; !up.GetAutoSni() || !up.GetAutoSanValidation() {
		t.Errorf("istio: %v", opts)
	}
	if routeOf(t, istio, "a.example.com").GetRoute().GetHostRewriteSpecifier() != nil {
		t.Error("istio: Host is rewritten")
	}
}

// TestDeviationEndpointNamesWithSANs: names to verify that somebody stated stay in force; auto_sni_san_validation would
// replace them.
func TestDeviationEndpointNamesWithSANs(t *testing.T) {
	own, _ := both(t, entry+ruleWith("{tls: {mode: SIMPLE, subjectAltNames: [x.example.net, 'spiffe://a/b', 192.0.2.1]}}"))
	ctx := tlsContext(t, clusterNamed(t, own, aCluster))
	sans := ctx.CommonTlsContext.GetValidationContext().MatchTypedSubjectAltNames
	if !ctx.AutoHostSni || ctx.AutoSniSanValidation || len(sans) != 3 {
		t.Fatalf("%v", ctx)
	}
	for i, want := range []tlsv3.SubjectAltNameMatcher_SanType{tlsv3.SubjectAltNameMatcher_DNS, tlsv3.SubjectAltNameMatcher_URI, tlsv3.SubjectAltNameMatcher_IP_ADDRESS} {
		if sans[i].SanType != want {
			t.Errorf("%v is not a %v", sans[i], want)
		}
	}
}

// TestDeviationEndpointByAddress: an IP address among DNS endpoints answers for the service's name.
func TestDeviationEndpointByAddress(t *testing.T) {
	yaml := strings.Replace(entry, "two.example.net", "192.0.2.7", 1) + ruleWith("{tls: {mode: SIMPLE}}")
	own, istio := both(t, yaml)
	hostname := func(s *xds.Snapshot) (out []string) {
		for _, g := range clusterNamed(t, s, aCluster).LoadAssignment.Endpoints {
			out = append(out, g.LbEndpoints[0].GetEndpoint().Hostname)
		}
		return out
	}
	if got := hostname(own); got[0] != "" || got[1] != "a.example.com" {
		t.Errorf("own: %q", got)
	}
	if got := hostname(istio); got[0] != "" || got[1] != "" {
		t.Errorf("istio: %q", got)
	}
}

func TestDeviationHostRewriteAnnotation(t *testing.T) {
	tls, plain := ruleWith("{tls: {mode: SIMPLE}}"), ruleWith("{loadBalancer: {simple: RANDOM}}")
	annotate := func(yaml, v string) string {
		return strings.Replace(yaml, "metadata: {name: a}", "metadata: {name: a, annotations: {detour.dev/host-rewrite: "+v+"}}", 1)
	}
	for name, tc := range map[string]struct {
		yaml string
		want bool
	}{
		"TLS, nothing said":                    {entry + tls, true},
		"TLS, preserve on the rule":            {entry + annotate(tls, "preserve"), false},
		"TLS, preserve on the entry":           {annotate(entry, "preserve") + tls, false},
		"the rule counts before the entry":     {annotate(entry, "preserve") + annotate(tls, "endpoint"), true},
		"plain, nothing said":                  {entry + plain, false},
		"plain, endpoint on the entry":         {annotate(entry, "endpoint"), true},
		"plain, endpoint on the rule":          {entry + annotate(plain, "endpoint"), true},
		"an unknown word is ignored, in words": {entry + annotate(tls, "sometimes"), true},
	} {
		own, issues := compile(t, tc.yaml, inEast())
		if got := routeOf(t, own, "a.example.com").GetRoute().GetAutoHostRewrite().GetValue(); got != tc.want {
			t.Errorf("%s: auto_host_rewrite %v", name, got)
		}
		if unknown := strings.Contains(tc.yaml, "sometimes"); unknown != (len(issues) == 1) {
			t.Errorf("%s: issues %v", name, issues)
		}
	}
}

func TestDeviationStatedSNI(t *testing.T) {
	own, istio := both(t, entry+ruleWith("{tls: {mode: SIMPLE, sni: s.example.net}}"))
	sans := tlsContext(t, clusterNamed(t, own, aCluster)).CommonTlsContext.GetValidationContext().MatchTypedSubjectAltNames
	if len(sans) != 1 || sans[0].Matcher.GetExact() != "s.example.net" {
		t.Errorf("own verifies %v", sans)
	}
	if got := tlsContext(t, clusterNamed(t, istio, aCluster)).CommonTlsContext.GetCombinedValidationContext().DefaultValidationContext; proto.Size(got) != 0 {
		t.Errorf("istio verifies %v", got)
	}
	if routeOf(t, own, "a.example.com").GetRoute().GetHostRewriteSpecifier() != nil {
		t.Error("Host is rewritten beside a stated sni")
	}
}

// TestUnverifiedName: TLS towards addresses for bytes that carry no Host has no name to verify; that is said.
func TestUnverifiedName(t *testing.T) {
	yaml := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  addresses: [192.0.2.1]
  ports: [{number: 80, name: p, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}]
---
`
	for tls, want := range map[string]int{
		"{tls: {mode: SIMPLE}}": 1, "{tls: {mode: SIMPLE, sni: x}}": 0, "{tls: {mode: SIMPLE, subjectAltNames: [x]}}": 0, "{tls: {mode: DISABLE}}": 0,
	} {
		if _, issues := compile(t, yaml+ruleWith(tls), inEast()); len(issues) != want {
			t.Errorf("%s: %v", tls, issues)
		}
	}
}

func TestDeviationFilesNotSDS(t *testing.T) {
	own, istio := both(t, entry+ruleWith("{tls: {mode: MUTUAL, clientCertificate: /c.pem, privateKey: /k.pem, caCertificates: /ca.pem}}"))
	common := tlsContext(t, clusterNamed(t, own, aCluster)).CommonTlsContext
	if common.TlsCertificates[0].CertificateChain.GetFilename() != "/c.pem" || common.TlsCertificates[0].PrivateKey.GetFilename() != "/k.pem" ||
		common.GetValidationContext().TrustedCa.GetFilename() != "/ca.pem" {
		t.Errorf("own: %v", common)
	}
	common = tlsContext(t, clusterNamed(t, istio, aCluster)).CommonTlsContext
	if common.TlsCertificateSdsSecretConfigs[0].Name != "file-cert:/c.pem~/k.pem" ||
		common.GetCombinedValidationContext().ValidationContextSdsSecretConfig.Name != "file-root:/ca.pem" {
		t.Errorf("istio: %v", common)
	}
}

// TestDeviationTypedDNS: no deprecated field of the cluster is used.
func TestDeviationTypedDNS(t *testing.T) {
	own, istio := both(t, entry)
	c := clusterNamed(t, own, aCluster)
	d := unpack(t, c.GetClusterType().TypedConfig, &dnsclusterv3.DnsCluster{})
	if c.GetClusterType().Name != "envoy.clusters.dns" || d.DnsRefreshRate.GetSeconds() != 60 || !d.RespectDnsTtl || d.AllAddressesInSingleEndpoint {
		t.Errorf("own: %v", c)
	}
	c = clusterNamed(t, istio, aCluster)
	if c.GetType() != clusterv3.Cluster_STRICT_DNS || c.DnsRefreshRate.GetSeconds() != 60 {
		t.Errorf("istio: %v", c)
	}
	ro, ri := routeOf(t, own, "a.example.com").GetRoute(), routeOf(t, istio, "a.example.com").GetRoute()
	if ro.MaxGrpcTimeout != nil || ro.MaxStreamDuration != nil || ri.MaxGrpcTimeout == nil || ri.MaxStreamDuration != nil {
		t.Errorf("own %v, istio %v", ro, ri)
	}
}

func TestDeviationTwoAddresses(t *testing.T) {
	own, istio := both(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  addresses: [192.0.2.1, 192.0.2.2]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}, {address: 198.51.100.2}, {address: 198.51.100.3}]
`)
	for i, want := range []int{3, 6} {
		if got := len([]*xds.Snapshot{own, istio}[i].Endpoints[0].Endpoints[0].LbEndpoints); got != want {
			t.Errorf("%d endpoints, want %d", got, want)
		}
	}
	for i, want := range []string{"192.0.2.1 192.0.2.2", "192.0.2.2"} {
		var got []string
		for _, rc := range []*xds.Snapshot{own, istio}[i].Routes {
			for _, vh := range rc.VirtualHosts {
				for _, d := range vh.Domains {
					if strings.HasPrefix(d, "192.") {
						got = append(got, d)
					}
				}
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("routed addresses %q, want %q", got, want)
		}
	}
}

// TestDeviationRetryOn: codes alone need no comma before their word.
func TestDeviationRetryOn(t *testing.T) {
	own, istio := both(t, entry+`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec: {hosts: [a.example.com], http: [{route: [{destination: {host: a.example.com}}], retries: {attempts: 2, retryOn: "503"}}]}
`)
	for i, want := range []string{"retriable-status-codes", ",retriable-status-codes"} {
		p := routeOf(t, []*xds.Snapshot{own, istio}[i], "a.example.com").GetRoute().RetryPolicy
		if p.RetryOn != want || len(p.RetriableStatusCodes) != 1 {
			t.Errorf("%v, want retry_on %q", p, want)
		}
	}
}

// TestDeviationsOfRareFields shows what a field that few set becomes, for detour and for Istio.
func TestDeviationsOfRareFields(t *testing.T) {
	static := func(more string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a.example.com]\n  resolution: STATIC\n" +
			"  endpoints: [{address: 192.0.2.1, locality: us-east1}, {address: 192.0.2.2, locality: us-west}]\n" + more + "\n---\n"
	}
	dynamic := "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: ['*.example.com']\n  resolution: DYNAMIC_DNS\n" +
		"  location: MESH_INTERNAL\n  ports: [{number: 80, name: http, protocol: HTTP}]\n---\n"
	http := static("  ports: [{number: 80, name: http, protocol: HTTP}]")
	options := func(t *testing.T, s *xds.Snapshot, name string) string {
		a := clusterNamed(t, s, name).TypedExtensionProtocolOptions["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
		if a == nil {
			return ""
		}
		o := unpack(t, a, &httpv3.HttpProtocolOptions{})
		return fmt.Sprint(o.UpstreamHttpProtocolOptions.GetAutoSni(), o.OutlierDetection != nil)
	}
	socket := func(t *testing.T, s *xds.Snapshot) string {
		for _, c := range s.Clusters {
			if c.Name == aCluster {
				return c.TransportSocket.GetName()
			}
		}
		return "no cluster"
	}
	for name, tc := range map[string]struct {
		yaml, mesh string
		show       func(*testing.T, *xds.Snapshot) string
		own, istio string
	}{
		"defaultTrafficPolicy's outlierDetection": {http, "defaultTrafficPolicy: {outlierDetection: {consecutive5xxErrors: 1}}", func(_ *testing.T, s *xds.Snapshot) string {
			return fmt.Sprint(s.Endpoints[0].Endpoints[1].Priority)
		}, "1", "0"},
		"outlierDetectionHttpErrorCodes": {http + ruleWith("{outlierDetection: {outlierDetectionHttpErrorCodes: [500]}}"), "", func(t *testing.T, s *xds.Snapshot) string {
			return options(t, s, aCluster)
		}, "false true", ""},
		"tls on a TCP port": {static("  ports: [{number: 80, name: tcp, protocol: TCP}]\n  addresses: [192.0.2.9]") + ruleWith("{tls: {mode: SIMPLE}}"), "", func(t *testing.T, s *xds.Snapshot) string {
			return options(t, s, aCluster)
		}, "", "true false"},
		"credentialName without a workloadSelector": {http + ruleWith("{tls: {mode: SIMPLE, credentialName: c}}"), "", socket, "no cluster", ""},
		"a dynamic host in the mesh": {dynamic, "", func(t *testing.T, s *xds.Snapshot) string {
			return options(t, s, "outbound|80||*.example.com")
		}, "", "true false"},
		"a host of two resolutions": {
			http + strings.NewReplacer("name: a}", "name: b}", "STATIC", "NONE", "number: 80", "number: 81").Replace(strings.Split(http, "  endpoints")[0]+"  ports: [{number: 81, name: http, protocol: HTTP}]\n---\n"), "",
			func(_ *testing.T, s *xds.Snapshot) string { return fmt.Sprint(len(s.Clusters)) }, "4", "3",
		},
		"a port of two names": {
			http + strings.NewReplacer("name: a}", "name: b}", "name: http", "name: web").Replace(http), "",
			func(_ *testing.T, s *xds.Snapshot) string {
				return fmt.Sprint(len(s.Endpoints[0].Endpoints[0].LbEndpoints))
			}, "2", "1",
		},
		"HTTP/2 to a dynamic host": {strings.Replace(dynamic, "HTTP}", "HTTP2}", 1), "", func(t *testing.T, s *xds.Snapshot) string {
			dfp := unpack(t, clusterNamed(t, s, "outbound|80||*.example.com").GetClusterType().TypedConfig, &dfpv3.ClusterConfig{})
			return fmt.Sprint(dfp.AllowInsecureClusterOptions)
		}, "true", "false"},
		"proxyProtocol to a host in the mesh": {
			static("  location: MESH_INTERNAL\n  ports: [{number: 80, name: http, protocol: HTTP}]") + ruleWith("{proxyProtocol: {}}"), "", socket,
			"envoy.transport_sockets.upstream_proxy_protocol", "",
		},
		"routes that no listener asks for": {static("  ports: [{number: 80, name: any}]\n  addresses: [192.0.2.9]"), "", func(_ *testing.T, s *xds.Snapshot) string {
			var out []string
			for _, r := range s.Routes {
				out = append(out, r.Name)
			}
			return strings.Join(out, " ")
		}, "80 a.example.com:80", "a.example.com:80"},
		"a port without protocol beside an HTTP one": {
			http + strings.NewReplacer("name: a}", "name: b}", "a.example", "b.example").Replace(static("  ports: [{number: 80, name: any}]\n  addresses: [192.0.2.0/24]")), "",
			func(_ *testing.T, s *xds.Snapshot) string { return fmt.Sprint(len(s.Listeners[0].FilterChains)) }, "2", "1",
		},
		"destinationSubnets of an earlier match": {
			static("  ports: [{number: 443, name: tls, protocol: TLS}]") + `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: ['*.example.com']
  tls:
  - match: [{sniHosts: [a.example.com], destinationSubnets: [192.0.2.0/24]}, {sniHosts: [b.example.com]}]
    route: [{destination: {host: a.example.com}}]
`, "", func(_ *testing.T, s *xds.Snapshot) string {
				n := 0
				for _, ch := range s.Listeners[0].FilterChains {
					n += len(ch.FilterChainMatch.PrefixRanges)
				}
				return fmt.Sprint(n)
			}, "1", "2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			mesh, _ := decode.Mesh("mesh.yaml", []byte(tc.mesh))
			g := inEast()
			for _, want := range []string{tc.own, tc.istio} {
				s, _ := compileSet(t, config.NewSet(objects(t, tc.yaml), nil, nil).WithMesh(mesh), g)
				if got := tc.show(t, s); got != want {
					t.Errorf("compat %v: %q, want %q", g.CompatIstio, got, want)
				}
				g.CompatIstio = true
			}
		})
	}
}

// TestEveryDeviationIsShown: each function of deviations.go has a test that shows both outputs.
func TestEveryDeviationIsShown(t *testing.T) {
	shown := map[string]func(*testing.T){
		"ejectAllButTheLast": TestDeviationMaxEjectionPercent, "namesFollowEndpoints": TestDeviationEndpointNames,
		"nameEndpoints": TestDeviationEndpointByAddress, "rewritesHost": TestDeviationEndpointNames,
		"verifyStatedName": TestDeviationStatedSNI, "certificatesByFile": TestDeviationFilesNotSDS,
		"destinationPort": TestDeviationDestinationPort, "namedAddresses": TestDeviationTwoAddresses,
		"asIstio": TestDeviationHeadless, "copiesOf": TestDeviationTwoAddresses, "typedDNSCluster": TestDeviationTypedDNS, "limitByClient": TestDeviationTypedDNS,
		"updateFrequency": TestDeviationUpdateFrequency, "takesAnyAddress": TestDeviationTCPWithoutAddress,
		"blocked": TestDeviationCredentialName, "faultDefault": TestDeviationFault, "appendWord": TestDeviationRetryOn,
		"failsOver": TestDeviationsOfRareFields, "countStatuses": TestDeviationsOfRareFields, "followsRequest": TestDeviationsOfRareFields,
		"withheld": TestDeviationsOfRareFields, "meetsMesh": TestDeviationsOfRareFields, "leavesProxyOut": TestDeviationsOfRareFields,
		"admitPlain": TestDeviationsOfRareFields, "joins": TestDeviationsOfRareFields, "portIn": TestDeviationsOfRareFields, "asked": TestDeviationsOfRareFields, "joinsSniffed": TestDeviationsOfRareFields, "afterSubnets": TestDeviationsOfRareFields,
	}
	helpers := map[string]bool{"literalDomain": true, "dnsJitter": true, "annotated": true, "fileSource": true}
	file, err := parser.ParseFile(token.NewFileSet(), "deviations.go", nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range file.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && !helpers[fn.Name.Name] {
			if shown[fn.Name.Name] == nil {
				t.Errorf("%s: no test shows what it changes", fn.Name.Name)
			}
			delete(shown, fn.Name.Name)
		}
	}
	for name := range shown {
		t.Errorf("%s is gone", name)
	}
}

func TestDeviationTCPWithoutAddress(t *testing.T) {
	yaml := strings.Replace(entry, "protocol: HTTP", "protocol: TCP", 1)
	own, istio := both(t, yaml)
	if len(own.Listeners) != 0 || len(istio.Listeners) != 1 || istio.Listeners[0].Name != "0.0.0.0_80" {
		t.Errorf("own %v, istio %v", own.Listeners, istio.Listeners)
	}
	s, _ := compileSet(t, config.NewSet(objects(t, yaml), vips("a.example.com"), nil), inEast())
	if len(s.Listeners) != 2 || s.Listeners[0].Name != "2001:2::1_80" || s.Listeners[1].Name != "240.240.0.1_80" {
		t.Errorf("with an allocated address: %v", s.Listeners)
	}
}

func TestDeviationUpdateFrequency(t *testing.T) {
	own, istio := both(t, entry+`
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: a}
spec:
  hosts: [a.example.com]
  http: [{route: [{destination: {host: a.example.com}}], retries: {attempts: 2, retryRemoteLocalities: true}}]
`)
	for i, want := range []int32{1, 2} {
		p := routeOf(t, []*xds.Snapshot{own, istio}[i], "a.example.com").GetRoute().RetryPolicy.RetryPriority
		if got := unpack(t, p.GetTypedConfig(), &prioritiesv3.PreviousPrioritiesConfig{}).UpdateFrequency; got != want {
			t.Errorf("update_frequency %d, want %d", got, want)
		}
	}
}

// TestDeviationCredentialName: T14. Istio sends plain text; detour answers 503.
func TestDeviationCredentialName(t *testing.T) {
	own, istio := both(t, entry+ruleWith("{tls: {mode: SIMPLE, credentialName: secret}}"))
	if clusterNamed(t, istio, aCluster).TransportSocket != nil {
		t.Error("istio's output has TLS")
	}
	if got := routeOf(t, own, "a.example.com").GetDirectResponse().GetStatus(); got != 503 {
		t.Errorf("own: status %d", got)
	}
	for _, c := range own.Clusters {
		if c.Name == aCluster {
			t.Error("own: there is a cluster that could carry plain text")
		}
	}
}
