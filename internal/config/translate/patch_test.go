package translate_test

import (
	"testing"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// TestRouterLosesService: a VirtualService that loses a service to a more specific one loses the service's port for the names that
// nobody declares, too, and gets it back.
func TestRouterLosesService(t *testing.T) {
	router := func(name string, hosts ...string) *config.Object {
		return &config.Object{Key: config.Key{Kind: config.VirtualService, Namespace: "default", Name: name}, Spec: &networking.VirtualService{
			Hosts: hosts, Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: "h.example.com"}}}}}}}
	}
	entry := &config.Object{Key: config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: "h"}, Spec: &networking.ServiceEntry{
		Hosts: []string{"h.example.com"}, Resolution: networking.ServiceEntry_DNS, Ports: []*networking.ServicePort{{Number: 8080, Name: "http", Protocol: "HTTP"}}}}
	wide := router("wide", "*.example.com", "undeclared.example.org")
	c := translate.NewCompiler(inEast())
	var front any
	for i, host := range []string{"elsewhere.example.net", "h.example.com", "elsewhere.example.net"} {
		set := config.NewSet([]*config.Object{entry, wide, router("narrow", host)}, nil, nil)
		got, gotIssues := c.Translate(set)
		want, wantIssues := translate.Translate(set, inEast())
		sameOutput(t, got, want, gotIssues, wantIssues)
		if i > 0 && c.Front() != front {
			t.Error("the front was made anew")
		}
		front = c.Front()
	}
}

// TestListenerForEveryPort: what changes of a service shows in the routes of a listener that is for the services of all ports.
func TestListenerForEveryPort(t *testing.T) {
	for name, listener := range map[string]*networking.IstioEgressListener{
		"a generic proxy": {Port: &networking.SidecarPort{Number: 3128, Protocol: "HTTP_PROXY", Name: "proxy"}, Hosts: []string{"*/*"}},
		"a unix socket":   {Port: &networking.SidecarPort{Protocol: "HTTP", Name: "unix"}, Bind: "unix:///run/s", Hosts: []string{"*/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			object := func(k config.Kind, spec proto.Message) *config.Object {
				return &config.Object{Key: config.Key{Kind: k, Namespace: "default", Name: "o"}, Spec: spec}
			}
			c := translate.NewCompiler(inEast())
			sidecar := object(config.Sidecar, &networking.Sidecar{Egress: []*networking.IstioEgressListener{listener}})
			entry := object(config.ServiceEntry, &networking.ServiceEntry{
				Hosts: []string{"h.example.com"}, Resolution: networking.ServiceEntry_DNS, Ports: []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}}})
			var front any
			for i, mode := range []networking.ClientTLSSettings_TLSmode{networking.ClientTLSSettings_DISABLE, networking.ClientTLSSettings_SIMPLE} {
				rule := object(config.DestinationRule, &networking.DestinationRule{Host: "h.example.com", TrafficPolicy: &networking.TrafficPolicy{
					Tls: &networking.ClientTLSSettings{Mode: mode}}}) // decides whether Host is that of the endpoint
				set := config.NewSet([]*config.Object{sidecar, entry, rule}, nil, nil)
				got, gotIssues := c.Translate(set)
				want, wantIssues := translate.Translate(set, inEast())
				sameOutput(t, got, want, gotIssues, wantIssues)
				if i > 0 && c.Front() != front {
					t.Error("the front was made anew")
				}
				front = c.Front()
			}
		})
	}
}

// TestRangesComeAndGo: whether connections to any address of a port are looked at depends on the hosts with a range of addresses, too.
func TestRangesComeAndGo(t *testing.T) {
	entry := func(name string, addresses ...string) *config.Object {
		return &config.Object{Key: config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: name}, Spec: &networking.ServiceEntry{
			Hosts: []string{name + ".example.com"}, Addresses: addresses, Resolution: networking.ServiceEntry_DNS,
			Ports: []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP"}}}}
	}
	one, many := entry("one", "10.1.0.1"), entry("many", "10.2.0.0/16")
	c := translate.NewCompiler(inEast())
	var front any
	for i, objects := range [][]*config.Object{{one}, {one, many}, {one}} {
		set := config.NewSet(objects, nil, nil)
		got, gotIssues := c.Translate(set)
		want, wantIssues := translate.Translate(set, inEast())
		sameOutput(t, got, want, gotIssues, wantIssues)
		if i > 0 && c.Front() != front {
			t.Error("the front was made anew")
		}
		front = c.Front()
	}
}
