package translate_test

import (
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"github.com/google/go-cmp/cmp"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// shop is a Kubernetes Service and what is said of it by its short name.
const shop = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web, namespace: shop}
spec:
  hosts: [web]
  http: [{route: [{destination: {host: web, subset: v1}}], mirror: {host: Web}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web, namespace: shop}
spec: {host: web, subsets: [{name: v1}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: plain, namespace: shop}
spec: {hosts: [plain], resolution: STATIC, addresses: [10.96.0.11], endpoints: [{address: 192.0.2.1}], ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: plain, namespace: shop}
spec: {hosts: [plain], http: [{route: [{destination: {host: plain}}], name: routed}]}
`

// clusterOf gives the cluster of the first route of a virtual host, and the route's name.
func clusterOf(s *xds.Snapshot, host string) (cluster, route string) {
	for _, rc := range s.Routes {
		for _, vh := range rc.VirtualHosts {
			if vh.Name == host {
				return vh.Routes[0].GetRoute().GetCluster(), vh.Routes[0].Name
			}
		}
	}
	return "", ""
}

// TestShortNames: web in namespace shop is the Service web.shop; a ServiceEntry's host without a dot stays what it is, but
// not for istiod, which completes every short name.
func TestShortNames(t *testing.T) {
	g := inEast()
	g.Namespace = "shop"
	s, _ := compile(t, shop, g)
	const full = "web.shop.svc.cluster.local"
	if got, _ := clusterOf(s, full+":80"); got != "outbound|80|v1|"+full {
		t.Errorf("web is routed to %q", got)
	}
	if got, name := clusterOf(s, "plain:80"); got != "outbound|80||plain" || name != "routed" {
		t.Errorf("plain is routed to %q by %q", got, name)
	}
	if got, _ := clusterOf(s, "web:80"); got != "" {
		t.Errorf("web is a host of its own, to %q", got)
	}
	if d := cmp.Diff([]string{"80 plain", "80 " + full, "80 " + full}, reached(s)); d != "" {
		t.Error(d)
	}
	g.CompatIstio = true
	s, _ = compile(t, shop, g)
	if got, _ := clusterOf(s, full+":80"); got != "outbound|80|v1|"+full {
		t.Errorf("istiod: web is routed to %q", got)
	}
	if _, name := clusterOf(s, "plain:80"); name == "routed" {
		t.Error("istiod routes plain by plain.shop's VirtualService")
	}
}

// TestRefusedShortName: a refused DestinationRule blocks the host that its short name means.
func TestRefusedShortName(t *testing.T) {
	g := inEast()
	g.Namespace = "shop"
	refused := []config.Refusal{{Key: config.Key{Kind: config.DestinationRule, Namespace: "shop", Name: "bad"}, Hosts: []string{"web"}}}
	s, _ := compileSet(t, config.NewSet(objects(t, shop), nil, refused), g)
	if got, _ := clusterOf(s, "web.shop.svc.cluster.local:80"); got != "" {
		t.Errorf("a request goes to %q", got)
	}
}

// TestShortNamesResolve: a Service's short names have its address, as in a cluster, unless a host has that name itself.
func TestShortNamesResolve(t *testing.T) {
	names := func(ns, yaml string) map[string]string {
		g := inEast()
		g.Namespace = ns
		s, _ := compile(t, yaml, g)
		out := map[string]string{}
		for _, n := range s.Names {
			if out[n.Host] != "" {
				t.Errorf("%s stands there twice", n.Host)
			}
			out[n.Host] = n.Addrs[0].String()
		}
		return out
	}
	const ip = "10.96.0.10"
	elsewhere := map[string]string{"web.shop.svc.cluster.local": ip, "web.shop.svc": ip, "web.shop": ip, "plain": "10.96.0.11"}
	if d := cmp.Diff(elsewhere, names("default", shop)); d != "" {
		t.Error(d)
	}
	elsewhere["web"] = ip
	if d := cmp.Diff(elsewhere, names("shop", shop)); d != "" {
		t.Error(d)
	}
	elsewhere["web"] = "10.96.0.12"
	if d := cmp.Diff(elsewhere, names("shop", shop+`---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web}
spec: {hosts: [web], resolution: STATIC, addresses: [10.96.0.12], endpoints: [{address: 192.0.2.1}], ports: [{number: 81, name: http, protocol: HTTP}]}
`)); d != "" {
		t.Error(d)
	}
}

// TestDeviationHeadless: to istiod the endpoints of a headless Service are picked by the application, and of two addresses the
// caller's family counts. detour gives the Service an address and balances, and knows both addresses.
func TestDeviationHeadless(t *testing.T) {
	const headless = `
apiVersion: v1
kind: Service
metadata: {name: db, namespace: default}
spec: {clusterIP: None, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: two, namespace: default}
spec: {clusterIP: 10.96.0.3, clusterIPs: [10.96.0.3, "fd00::3"], ports: [{name: tcp, port: 9001}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-1, namespace: default, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
endpoints: [{addresses: [10.244.0.1]}, {addresses: [10.244.0.2]}, {addresses: [10.244.0.3], conditions: {ready: false}}]
ports: [{name: tcp, port: 9000}]
`
	const host = "db.default.svc.cluster.local"
	shown := func(istio bool) (names []string, kind clusterv3.Cluster_DiscoveryType) {
		g := inEast()
		g.CompatIstio, g.IPv4, g.IPv6 = istio, true, !istio
		s, _ := compileSet(t, config.NewSet(objects(t, headless), vips(host), nil), g)
		for _, l := range s.Listeners {
			names = append(names, l.Name)
		}
		return names, clusterNamed(t, s, "outbound|9000||"+host).GetType()
	}
	names, kind := shown(false)
	if d := cmp.Diff([]string{"10.96.0.3_9001", "2001:2::1_9000", "240.240.0.1_9000", "fd00::3_9001"}, names); d != "" || kind != clusterv3.Cluster_EDS {
		t.Error(kind, d)
	}
	names, kind = shown(true)
	if d := cmp.Diff([]string{"10.244.0.1_9000", "10.244.0.2_9000", "10.96.0.3_9001"}, names); d != "" || kind != clusterv3.Cluster_ORIGINAL_DST {
		t.Error(kind, d)
	}
}
