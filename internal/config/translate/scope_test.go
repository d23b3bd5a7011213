package translate_test

//lint:file-ignore SA1019 istiod emits fields that Envoy calls deprecated

import (
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsclusterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	"github.com/google/go-cmp/cmp"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/xds"
)

// threeNamespaces: a.example.com and b.example.com in other, c.example.com in default, a.example.com in default too.
const threeNamespaces = `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a, namespace: other}
spec: {hosts: [a.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}, {number: 81, name: tls, protocol: TLS}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: b, namespace: other}
spec: {hosts: [b.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: c}
spec: {hosts: [c.example.com], resolution: DNS, ports: [{number: 80, name: http, protocol: HTTP}]}
---
`

func sidecar(ns, name, spec string) string {
	return "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec: " + spec + "\n---\n"
}

// reached lists the declared clusters of a snapshot as PORT HOST.
func reached(s *xds.Snapshot) []string {
	var out []string
	for _, c := range s.Clusters {
		if p := strings.Split(c.Name, "|"); len(p) == 4 {
			out = append(out, p[1]+" "+p[3])
		}
	}
	slices.Sort(out)
	return out
}

// TestSidecarHosts: which hosts each form of NAMESPACE/HOST imports.
func TestSidecarHosts(t *testing.T) {
	all := []string{"80 a.example.com", "80 b.example.com", "80 c.example.com", "81 a.example.com"}
	for hosts, want := range map[string][]string{
		`["*/*"]`:                          all,
		`["./*"]`:                          {"80 c.example.com"},
		`["other/*"]`:                      {"80 a.example.com", "80 b.example.com", "81 a.example.com"},
		`["other/b.example.com"]`:          {"80 b.example.com"},
		`["*/*.example.com"]`:              all,
		`["*/*.example.org"]`:              nil,
		`["~/*"]`:                          nil,
		`["*/*", "~/b.example.com"]`:       {"80 a.example.com", "80 c.example.com", "81 a.example.com"},
		`["*/*", "~other/*"]`:              {"80 c.example.com"},
		`["other/*", "~default/*", "./*"]`: {"80 a.example.com", "80 b.example.com", "81 a.example.com"},
	} {
		s, _ := compile(t, threeNamespaces+sidecar("default", "x", "{egress: [{hosts: "+hosts+"}]}"), inEast())
		if d := cmp.Diff(want, reached(s)); d != "" {
			t.Errorf("%s: %s", hosts, d)
		}
	}
}

// TestSidecarChoice: the one that selects the caller, then its namespace's, then the root namespace's.
func TestSidecarChoice(t *testing.T) {
	only := func(host string) string { return "egress: [{hosts: [\"*/" + host + "\"]}]" }
	root := sidecar("istio-system", "x", "{"+only("a.example.com")+"}")
	general := sidecar("default", "x", "{"+only("b.example.com")+"}")
	selects := sidecar("default", "picky", "{workloadSelector: {labels: {app: web}}, "+only("c.example.com")+"}")
	foreign := sidecar("other", "x", "{"+only("none.example.com")+"}")
	for name, tc := range map[string]struct {
		yaml   string
		labels map[string]string
		want   string
	}{
		"selected":          {root + general + selects, map[string]string{"app": "web"}, "80 c.example.com"},
		"not selected":      {root + general + selects, nil, "80 b.example.com"},
		"root":              {root + selects, nil, "80 a.example.com"},
		"another namespace": {foreign, nil, "80 a.example.com"},
	} {
		g := inEast()
		g.Labels = tc.labels
		s, _ := compile(t, threeNamespaces+tc.yaml, g)
		if got := reached(s); len(got) == 0 || got[0] != tc.want {
			t.Errorf("%s: %v, want %s", name, got, tc.want)
		}
	}
}

// TestSidecarListener: a listener with a port has the hosts of that port alone; bind and captureMode give it a socket; the
// policy for what nobody declares follows.
func TestSidecarListener(t *testing.T) {
	s, _ := compile(t, threeNamespaces+sidecar("default", "x", `{outboundTrafficPolicy: {mode: REGISTRY_ONLY}, egress: [
  {port: {number: 80, protocol: HTTP, name: h}, bind: 127.0.0.1, captureMode: NONE, hosts: ["other/b.example.com"]}, {hosts: ["other/a.example.com"]}]}`), inEast())
	if !s.RegistryOnly {
		t.Error("the Sidecar's REGISTRY_ONLY does not reach the snapshot")
	}
	var got []string
	for _, l := range s.Listeners {
		got = append(got, l.Name)
		if bound := l.GetBindToPort() == nil; bound != (l.Name == "127.0.0.1_80") {
			t.Errorf("%s: bound %v", l.Name, bound)
		}
	}
	if d := cmp.Diff([]string{"0.0.0.0_80", "0.0.0.0_81", "127.0.0.1_80"}, got); d != "" {
		t.Error(d)
	}
	got = nil
	for _, vh := range s.Routes[0].VirtualHosts {
		got = append(got, vh.Name)
	}
	if d := cmp.Diff([]string{"b.example.com:80", "block_all"}, got); d != "" {
		t.Error(d)
	}
}

// TestRuleMergeScopes: rules are merged when they are for the same namespaces and workloads only; one that selects the
// caller stands before the others and alone.
func TestRuleMergeScopes(t *testing.T) {
	rule := func(name, spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: " + name + "}\nspec: {host: a.example.com, " + spec + "}\n---\n"
	}
	random := "trafficPolicy: {loadBalancer: {simple: RANDOM}}"
	subset := "subsets: [{name: s, labels: {v: one}}]"
	selects := "workloadSelector: {matchLabels: {app: web}}, trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}"
	for name, tc := range map[string]struct {
		rules  string
		labels map[string]string
		want   string
	}{
		"same exportTo":      {rule("a", "exportTo: ['.'], "+random) + rule("b", "exportTo: ['.'], "+subset), nil, "RANDOM with subset"},
		"different exportTo": {rule("a", "exportTo: ['.'], "+random) + rule("b", "exportTo: ['*'], "+subset), nil, "LEAST_REQUEST with subset"},
		"selected":           {rule("a", random+", "+subset) + rule("b", selects), map[string]string{"app": "web"}, "ROUND_ROBIN"},
		"not selected":       {rule("a", random+", "+subset) + rule("b", selects), nil, "RANDOM with subset"},
		"nobody selected":    {rule("b", selects), nil, "LEAST_REQUEST"},
	} {
		g := inEast()
		g.Labels = tc.labels
		yaml := strings.Replace(entry, "locality: us-east1}", "locality: us-east1, labels: {v: one}}", 1)
		s, _ := compile(t, yaml+tc.rules, g)
		got := clusterNamed(t, s, aCluster).LbPolicy.String()
		if slices.ContainsFunc(s.Clusters, func(c *clusterv3.Cluster) bool { return c.Name == "outbound|80|s|a.example.com" }) {
			got += " with subset"
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestMesh: every mesh-wide setting reaches the snapshot, and what a rule says counts before it.
func TestMesh(t *testing.T) {
	mesh, issues := decode.Mesh("mesh.yaml", []byte(`
apiVersion: v1
kind: ConfigMap
metadata: {name: istio}
data:
  mesh: |
    outboundTrafficPolicy: {mode: REGISTRY_ONLY}
    localityLbSetting: {distribute: [{from: us-east1, to: {us-west: 100}}]}
    defaultHttpRetryPolicy: {attempts: 7}
    connectTimeout: 3s
    dnsRefreshRate: 9s
    tcpKeepalive: {time: 11s}
    h2UpgradePolicy: UPGRADE
    defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 5}}, outlierDetection: {consecutive5xxErrors: 3}}
    accessLogFile: /dev/stdout
`))
	if mesh == nil || len(issues) != 1 || issues[0].Severity != config.Note || !strings.Contains(issues[0].Message, "accessLogFile") {
		t.Fatalf("%v", issues)
	}
	g := inEast()
	g.CompatIstio = true
	s, _ := compileSet(t, config.NewSet(objects(t, entry), nil, nil).WithMesh(mesh), g)
	c := clusterNamed(t, s, aCluster)
	if c.ConnectTimeout.Seconds != 3 || c.DnsRefreshRate.Seconds != 9 || c.UpstreamConnectionOptions.TcpKeepalive.KeepaliveTime.Value != 11 ||
		c.CircuitBreakers.Thresholds[0].MaxConnections.Value != 5 || c.OutlierDetection.Consecutive_5Xx.Value != 3 ||
		len(c.LoadAssignment.Endpoints[0].LbEndpoints) != 0 || len(c.TypedExtensionProtocolOptions) != 1 {
		t.Errorf("cluster: %v", c)
	}
	if r := routeOf(t, s, "a.example.com").GetRoute(); r.RetryPolicy.NumRetries.Value != 7 {
		t.Errorf("route: %v", r)
	}
	if !s.RegistryOnly {
		t.Error("REGISTRY_ONLY does not reach the snapshot")
	}
	s, _ = compileSet(t, config.NewSet(objects(t, entry+ruleWith("{connectionPool: {tcp: {connectTimeout: 1s}}, portLevelSettings: [{port: {number: 81}}]}")), nil, nil).WithMesh(mesh), g)
	c = clusterNamed(t, s, aCluster)
	if c.ConnectTimeout.Seconds != 1 || c.CircuitBreakers.Thresholds[0].MaxConnections.Value == 5 || c.OutlierDetection == nil {
		t.Errorf("with a rule: %v", c)
	}
}

// TestDeviationDestinationPort: a destination without port.
func TestDeviationDestinationPort(t *testing.T) {
	own, istio := both(t, entry+`
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: z}
spec: {hosts: [z.example.com], resolution: DNS, ports: [{number: 8080, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v}
spec: {hosts: [a.example.com], http: [{route: [{destination: {host: z.example.com}}]}]}
`)
	for i, want := range []string{"outbound|8080||z.example.com", "outbound|80||z.example.com"} {
		if got := routeOf(t, []*xds.Snapshot{own, istio}[i], "a.example.com").GetRoute().GetCluster(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// TestDeviationFault: T13.
func TestDeviationFault(t *testing.T) {
	yaml := entry + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: [a.example.com], http: [{fault: {abort: {httpStatus: 500}, delay: {fixedDelay: 1s}}, route: [{destination: {host: a.example.com}}]}]}\n"
	own, istio := both(t, yaml)
	for i, want := range []string{"100", ""} {
		s := string(render(t, []*xds.Snapshot{own, istio}[i]))
		if got := strings.Contains(s, `"numerator": 100`); got != (want != "") {
			t.Errorf("%d: fires %v", i, got)
		}
	}
}

// TestConnectStrategy: racing the addresses of a name makes its cluster a logical one that asks for both families.
func TestConnectStrategy(t *testing.T) {
	yaml := strings.Replace(entry, "metadata: {name: a}", "metadata: {name: a, annotations: {istio.io/connect-strategy: RACE_FIRST_TCP_CONNECT}}", 1)
	one := strings.Replace(yaml, ", {address: two.example.net, locality: us-west}", "", 1)
	for name, tc := range map[string]struct {
		yaml string
		want bool
	}{"one name": {one, true}, "two names": {yaml, false}, "no annotation": {entry, false}} {
		own, istio := both(t, tc.yaml)
		d := unpack(t, clusterNamed(t, own, aCluster).GetClusterType().TypedConfig, &dnsclusterv3.DnsCluster{})
		if d.AllAddressesInSingleEndpoint != tc.want || (d.DnsLookupFamily == dnsv3.DnsLookupFamily_ALL) != tc.want {
			t.Errorf("%s: own %v", name, d)
		}
		c := clusterNamed(t, istio, aCluster)
		if raced := name != "no annotation"; (c.GetType() == clusterv3.Cluster_LOGICAL_DNS) != raced || (c.DnsLookupFamily == clusterv3.Cluster_ALL) != raced {
			t.Errorf("%s: istio %v", name, c)
		}
	}
}
