package translate_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// TestRefusedRule: a host whose DestinationRule is refused answers 503 and says why; connections that carry no requests
// find no cluster; other hosts are served.
func TestRefusedRule(t *testing.T) {
	yaml := `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com, b.example.org]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
`
	for host, blocked := range map[string]bool{"a.example.com": true, "*.example.com": true, "A.Example.Com": true, "c.example.com": false, "*.org.example": false} {
		refused := []config.Refusal{{
			Key:   config.Key{Kind: config.DestinationRule, Namespace: "default", Name: "bad"},
			Hosts: []string{host},
			Issue: config.Issue{Code: "DTR0306", Message: "tls.mode: wrong", Origin: config.Origin{File: "rules.yaml", Line: 7}},
		}}
		s, _ := compileSet(t, config.NewSet(objects(t, yaml), nil, refused), inEast())
		r := routeOf(t, s, "a.example.com").GetDirectResponse()
		if blocked {
			if body := r.GetBody().GetInlineString(); r.GetStatus() != 503 || !strings.Contains(body, "default/bad") || !strings.Contains(body, "rules.yaml:7") {
				t.Errorf("%s: %v", host, r)
			}
		} else if r != nil {
			t.Errorf("%s: %v", host, r)
		}
		for _, c := range s.Clusters {
			if strings.HasSuffix(c.Name, "||a.example.com") == blocked && strings.Contains(c.Name, "a.example.com") {
				t.Errorf("%s: cluster %s is there", host, c.Name)
			}
		}
		if routeOf(t, s, "b.example.org").GetRoute() == nil {
			t.Errorf("%s: b.example.org is not served", host)
		}
	}
}

// TestRuleLookup: own namespace, then the service's, then the root; exact before wildcard; same-host rules merge.
func TestRuleLookup(t *testing.T) {
	rule := func(ns, name, host, spec string) string {
		return "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {namespace: " + ns + ", name: " + name + "}\nspec:\n  host: '" + host + "'\n  " + spec + "\n---\n"
	}
	lb := func(s string) string { return "trafficPolicy: {loadBalancer: {simple: " + s + "}}" }
	se := strings.Replace(entry, "metadata: {name: a}", "metadata: {namespace: svc, name: a}", 1)
	for name, tc := range map[string]struct{ rules, want string }{
		"none":                                {"", "LEAST_REQUEST"},
		"own before service's":                {rule("svc", "x", "a.example.com", lb("RANDOM")) + rule("default", "x", "a.example.com", lb("ROUND_ROBIN")), "ROUND_ROBIN"},
		"own wildcard before service's":       {rule("svc", "x", "a.example.com", lb("RANDOM")) + rule("default", "x", "*.com", lb("ROUND_ROBIN")), "ROUND_ROBIN"},
		"service's before root":               {rule("istio-system", "x", "a.example.com", lb("ROUND_ROBIN")) + rule("svc", "x", "a.example.com", lb("RANDOM")), "RANDOM"},
		"root":                                {rule("istio-system", "x", "*", lb("RANDOM")), "RANDOM"},
		"another namespace's does not count":  {rule("other", "x", "a.example.com", lb("RANDOM")), "LEAST_REQUEST"},
		"not exported":                        {rule("svc", "x", "a.example.com", "exportTo: ['.']\n  "+lb("RANDOM")), "LEAST_REQUEST"},
		"own counts though not exported":      {rule("default", "x", "a.example.com", "exportTo: ['.']\n  "+lb("RANDOM")), "RANDOM"},
		"exact before wildcard":               {rule("default", "a", "*.example.com", lb("RANDOM")) + rule("default", "b", "a.example.com", lb("ROUND_ROBIN")), "ROUND_ROBIN"},
		"longer wildcard before shorter":      {rule("default", "a", "*.com", lb("RANDOM")) + rule("default", "b", "*.example.com", lb("ROUND_ROBIN")), "ROUND_ROBIN"},
		"the first policy of two":             {rule("default", "a", "a.example.com", lb("RANDOM")) + rule("default", "b", "a.example.com", lb("ROUND_ROBIN")), "RANDOM"},
		"the policy may come from the second": {rule("default", "a", "a.example.com", "subsets: [{name: s, labels: {v: one}}]") + rule("default", "b", "a.example.com", lb("RANDOM")), "RANDOM"},
	} {
		s, _ := compile(t, se+tc.rules, inEast())
		if got := clusterNamed(t, s, aCluster).LbPolicy.String(); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// TestNames: stated and allocated addresses, none for hosts that have none, and none of ranges or wildcards.
func TestNames(t *testing.T) {
	set := config.NewSet(objects(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: allocated}
spec:
  hosts: [b.example.com, A.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: DNS
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: stated}
spec:
  hosts: [stated.example.com]
  addresses: [192.0.2.1, 198.51.100.0/24]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.1}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: none}
spec:
  hosts: [none.example.com, "*.wild.example.com"]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: NONE
`), vips("a.example.com", "b.example.com"), nil)
	s, _ := compileSet(t, set, inEast())
	var got []string
	for _, n := range s.Names {
		for _, a := range n.Addrs {
			got = append(got, n.Host+" "+a.String())
		}
	}
	want := []string{"a.example.com 240.240.0.1", "a.example.com 2001:2::1", "b.example.com 240.240.0.2", "b.example.com 2001:2::2", "stated.example.com 192.0.2.1"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	g := inEast()
	g.CompatIstio = true
	if s, _ := compileSet(t, set, g); len(s.Names) != 1 {
		t.Errorf("istio: %v", s.Names)
	}
}

// TestPeek: a listener is marked where a host without addresses of its own uses the port, and only there.
func TestPeek(t *testing.T) {
	yaml := func(resolution string) string {
		return `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: ` + resolution
	}
	marked := func(s *xds.Snapshot) (out []bool) {
		for _, l := range s.Listeners {
			out = append(out, l.GetMetadata().GetFilterMetadata()[xds.MetadataKey].GetFields()[xds.MetaPeek].GetBoolValue())
		}
		return out
	}
	s, _ := compileSet(t, config.NewSet(objects(t, yaml("DNS")), vips("a.example.com"), nil), inEast())
	if d := cmp.Diff([]bool{false, false}, marked(s)); d != "" {
		t.Error(d)
	}
	s, _ = compile(t, yaml("NONE"), inEast())
	if d := cmp.Diff([]bool{true, true}, marked(s)); d != "" {
		t.Error(d)
	}
	s, _ = compile(t, yaml("DNS")+"\n  addresses: [192.0.2.0/24]", inEast()) // the TLS port's chain names the range
	if d := cmp.Diff([]bool{false, true}, marked(s)); d != "" {
		t.Error(d)
	}
}

// TestFamilies: which addresses of a name are asked for.
func TestFamilies(t *testing.T) {
	for want, g := range map[string]xds.NodeGroup{
		"V4_ONLY": {IPv4: true}, "V6_ONLY": {IPv6: true}, "ALL": {IPv4: true, IPv6: true},
	} {
		s, _ := compile(t, entry, g)
		if !strings.Contains(string(render(t, s)), `"dns_lookup_family": "`+want+`"`) {
			t.Errorf("%+v does not give %s", g, want)
		}
	}
}

// TestMerge: two ServiceEntries of one namespace are one service with the ports and endpoints of both.
func TestMerge(t *testing.T) {
	se := func(name, ns string, port, addr string) string {
		return "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: " + name + ", namespace: " + ns + "}\nspec:\n  hosts: [a.example.com]\n  ports: [{number: " + port + ", name: http, protocol: HTTP}]\n  resolution: STATIC\n  endpoints: [{address: " + addr + "}]\n---\n"
	}
	s, _ := compile(t, se("a", "svc", "80", "192.0.2.1")+se("b", "svc", "81", "192.0.2.2")+se("c", "svc", "80", "192.0.2.3")+se("d", "zzz", "82", "192.0.2.4"), inEast())
	got := map[string][]string{}
	for _, e := range s.Endpoints {
		for _, g := range e.Endpoints {
			for _, ep := range g.LbEndpoints {
				got[e.ClusterName] = append(got[e.ClusterName], netip.MustParseAddr(ep.GetEndpoint().Address.GetSocketAddress().Address).String())
			}
		}
	}
	want := map[string][]string{"outbound|80||a.example.com": {"192.0.2.1", "192.0.2.3"}, "outbound|81||a.example.com": {"192.0.2.2"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestAliases: a host that a VirtualService routes and nobody declares is routed on the ports of the VirtualService's other
// hosts, else on port 80; a listener must be there.
func TestAliases(t *testing.T) {
	vs := func(hosts string) string {
		return "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec:\n  hosts: " + hosts + "\n  http: [{route: [{destination: {host: a.example.com}}]}]\n---\n"
	}
	se8080 := strings.Replace(entry, "number: 80,", "number: 8080,", 1)
	for name, tc := range map[string]struct {
		yaml string
		want []string
	}{
		"alone, port 80":                 {entry + vs("[alias.example.org]"), []string{"80 a.example.com:80", "80 alias.example.org:80", "80 allow_any"}},
		"alone, no listener on port 80":  {se8080 + vs("[alias.example.org]"), []string{"8080 a.example.com:8080", "8080 allow_any"}},
		"beside a declared host":         {se8080 + vs("[alias.example.org, a.example.com]"), []string{"8080 a.example.com:8080", "8080 alias.example.org:8080", "8080 allow_any"}},
		"a wildcard over a declared one": {entry + vs("['*.example.com']"), []string{"80 a.example.com:80", "80 allow_any"}},
	} {
		s, _ := compile(t, tc.yaml, inEast())
		var got []string
		for _, rc := range s.Routes {
			for _, vh := range rc.VirtualHosts {
				got = append(got, rc.Name+" "+vh.Name)
			}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}
