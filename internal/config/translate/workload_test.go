package translate_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// TestWorkloadSelector: WorkloadEntries of the same namespace whose labels fit are endpoints, with their own ports.
func TestWorkloadSelector(t *testing.T) {
	workload := func(ns, name, address, app string, ports map[string]uint32) *config.Object {
		return &config.Object{
			Key:  config.Key{Kind: config.WorkloadEntry, Namespace: ns, Name: name},
			Spec: &networking.WorkloadEntry{Address: address, Labels: map[string]string{"app": app}, Ports: ports},
		}
	}
	set := config.NewSet([]*config.Object{
		{Key: config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: "a"}, Spec: &networking.ServiceEntry{
			Hosts: []string{"a.example.com"}, Resolution: networking.ServiceEntry_STATIC,
			Ports:            []*networking.ServicePort{{Number: 80, Name: "http", Protocol: "HTTP", TargetPort: 8080}},
			WorkloadSelector: &networking.WorkloadSelector{Labels: map[string]string{"app": "db"}},
		}},
		workload("default", "one", "192.0.2.1", "db", nil),
		workload("default", "two", "192.0.2.2", "db", map[string]uint32{"http": 9999}),
		workload("default", "named", "db.example.net", "db", nil),
		workload("default", "other", "192.0.2.3", "web", nil),
		workload("elsewhere", "four", "192.0.2.4", "db", nil),
	}, nil, nil)
	s, _ := compileSet(t, set, inEast())
	got := map[string]uint32{}
	for _, e := range s.Endpoints[0].Endpoints[0].LbEndpoints {
		a := e.GetEndpoint().Address.GetSocketAddress()
		got[a.Address] = a.GetPortValue()
	}
	if d := cmp.Diff(map[string]uint32{"192.0.2.1": 8080, "192.0.2.2": 9999}, got); d != "" {
		t.Error(d)
	}
}

// TestWorkloadLabels: metadata.labels of a WorkloadEntry count as its own do, and before them, for selectors and subsets.
func TestWorkloadLabels(t *testing.T) {
	s, _ := compile(t, `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: a}
spec:
  hosts: [a.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  workloadSelector: {labels: {app: db}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: one, labels: {app: db, version: v2}}
spec: {address: 192.0.2.1}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: two, labels: {version: v1}}
spec: {address: 192.0.2.2, labels: {app: db, version: v2}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: a}
spec: {host: a.example.com, subsets: [{name: v2, labels: {version: v2}}]}
`, inEast())
	got := map[string][]string{}
	for _, a := range s.Endpoints {
		for _, group := range a.Endpoints {
			for _, e := range group.LbEndpoints {
				got[a.ClusterName] = append(got[a.ClusterName], e.GetEndpoint().Address.GetSocketAddress().Address)
			}
		}
	}
	want := map[string][]string{"outbound|80||a.example.com": {"192.0.2.1", "192.0.2.2"}, "outbound|80|v2|a.example.com": {"192.0.2.1"}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
