package translate_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

// editGroups are node groups that see different things.
func editGroups() []xds.NodeGroup {
	east := &corev3.Locality{Region: "us-east1", Zone: "a"}
	return []xds.NodeGroup{
		{Locality: east, IPv4: true},
		{Locality: east, IPv4: true, IPv6: true, Namespace: "other", Labels: map[string]string{"app": "x"}},
		{IPv4: true, CompatIstio: true, RegistryOnly: true},
	}
}

// sameOutput compares what an incremental run gave with a full one.
func sameOutput(t *testing.T, got, want *xds.Snapshot, gotIssues, wantIssues []config.Issue) {
	t.Helper()
	if got.Version != got.Hash() {
		t.Error("the version is not the hash of the contents")
	}
	if got.Version == want.Version && slices.Equal(gotIssues, wantIssues) {
		return
	}
	if d := cmp.Diff(want, got, protocmp.Transform(), cmp.Comparer(func(a, b xds.Name) bool { return a.Host == b.Host && slices.Equal(a.Addrs, b.Addrs) })); d != "" {
		t.Errorf("the snapshot differs, -full +incremental:\n%s", d)
	}
	if d := cmp.Diff(wantIssues, gotIssues); d != "" {
		t.Errorf("the issues differ, -full +incremental:\n%s", d)
	}
}

// editAndCompare makes edits and compares every group's output after each with a full run's. It ends at the first
// difference and says how it came to it.
func editAndCompare(t *testing.T, d *dice, steps int) (patched int) {
	t.Helper()
	e := &edits{dice: d, plain: d.n(2) == 0}
	groups := editGroups()
	var compilers []*translate.Compiler
	for _, g := range groups {
		compilers = append(compilers, translate.NewCompiler(g))
	}
	var history []string
	for range steps {
		if d.done() {
			return patched
		}
		for range 1 + d.n(2) {
			history = append(history, e.edit())
		}
		set, next := e.set(), e.next()
		for i, g := range groups {
			front := compilers[i].Front()
			got, gotIssues := compilers[i].Translate(next)
			want, wantIssues := translate.Translate(set, g)
			sameOutput(t, got, want, gotIssues, wantIssues)
			if t.Failed() {
				t.Fatalf("group %d after:\n%s", i, strings.Join(history, "\n"))
			}
			if compilers[i].Front() == front {
				patched++
			}
		}
	}
	return patched
}

// TestCompilerEqualsFullRun: whatever is edited, an incremental run gives what a full one gives.
func TestCompilerEqualsFullRun(t *testing.T) {
	seeds, patched := 40, 0
	if testing.Short() {
		seeds = 10
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			patched += editAndCompare(t, &dice{rand: rand.New(rand.NewPCG(seed, 5))}, 60)
		})
	}
	if patched < seeds*60 { // of three groups
		t.Errorf("%d of %d fronts were brought up to date; the others were made anew", patched, 3*seeds*60)
	}
}

// FuzzCompiler has the fuzzer choose the edits.
func FuzzCompiler(f *testing.F) {
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	r := rand.New(rand.NewPCG(1, 2))
	long := make([]byte, 600)
	for i := range long {
		long[i] = byte(r.Uint32())
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, data []byte) {
		editAndCompare(t, &dice{data: data[:min(len(data), 2000)]}, 40)
	})
}

// TestCompilerCompilesWhatDepends counts the units that are compiled again after one change.
func TestCompilerCompilesWhatDepends(t *testing.T) {
	objects := many(200, 1).All(config.ServiceEntry)
	objects = append(slices.Clone(objects), many(200, 1).All(config.DestinationRule)...)
	router := &config.Object{Key: config.Key{Kind: config.VirtualService, Namespace: "default", Name: "r"}, Spec: &networking.VirtualService{
		Hosts: []string{"h1.example.com"}, Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: "h2.example.com"}}}}}}}
	objects = append(objects, router)
	replace := func(name string, k config.Kind, change func(proto.Message)) func() {
		return func() {
			i := slices.IndexFunc(objects, func(o *config.Object) bool { return o.Kind == k && o.Name == name })
			o := *objects[i]
			o.Spec = proto.Clone(o.Spec)
			change(o.Spec)
			objects[i] = &o
		}
	}
	cases := []struct {
		name string
		do   func()
		want int
	}{
		{"nothing", func() {}, 0},
		{"an endpoint", replace("o7", config.ServiceEntry, func(m proto.Message) { m.(*networking.ServiceEntry).Endpoints[0].Weight = 7 }), 1},
		{"a policy: clusters, routes", replace("o7", config.DestinationRule, func(m proto.Message) {
			m.(*networking.DestinationRule).TrafficPolicy.OutlierDetection.Interval = durationpb.New(7e9)
		}), 2},
		{"a policy of a service that another is routed to: clusters, its routes, the other's, the router's", replace("o2", config.DestinationRule, func(m proto.Message) {
			m.(*networking.DestinationRule).TrafficPolicy.OutlierDetection.Interval = durationpb.New(7e9)
		}), 4},
		{"a service goes", func() { objects = objects[1:] }, 0},
		{"the first on a port comes: clusters, routes, listeners", func() {
			o := *objects[0]
			o.Name = "new"
			o.Spec = proto.Clone(o.Spec)
			s := o.Spec.(*networking.ServiceEntry)
			s.Hosts, s.Ports[0].Number = []string{"new.example.com"}, 88
			objects = append(objects, &o)
		}, 3},
		{"a service comes: clusters, routes", func() {
			o := *objects[0]
			o.Name = "more"
			o.Spec = proto.Clone(o.Spec)
			o.Spec.(*networking.ServiceEntry).Hosts = []string{"more.example.com"}
			objects = append(objects, &o)
		}, 2},
		{"a port more: clusters, routes on both, listeners", replace("o9", config.ServiceEntry, func(m proto.Message) {
			s := m.(*networking.ServiceEntry)
			s.Ports = append(s.Ports, &networking.ServicePort{Number: 81, Name: "more", Protocol: "HTTP"})
		}), 4},
		{"a route: the service's, the router's", replace("r", config.VirtualService, func(m proto.Message) {
			m.(*networking.VirtualService).Http[0].Timeout = durationpb.New(1e9)
		}), 2},
	}
	c := translate.NewCompiler(inEast())
	c.Translate(config.NewSet(slices.Clone(objects), nil, nil))
	for _, tc := range cases {
		before := c.Compiled()
		tc.do()
		set := config.NewSet(slices.Clone(objects), nil, nil)
		got, gotIssues := c.Translate(set)
		if n := c.Compiled() - before; n != tc.want {
			t.Errorf("%s: %d units compiled, want %d", tc.name, n, tc.want)
		}
		want, wantIssues := translate.Translate(set, inEast())
		sameOutput(t, got, want, gotIssues, wantIssues)
	}
}

// TestCompilerKeepsPointers: resources that are as they were are the same messages, so that whoever applies them need not
// look inside.
func TestCompilerKeepsPointers(t *testing.T) {
	set := many(50, 1)
	c := translate.NewCompiler(inEast())
	before, _ := c.Translate(set)
	var objects []*config.Object
	for _, k := range []config.Kind{config.ServiceEntry, config.DestinationRule} {
		objects = append(objects, set.All(k)...)
	}
	o := *objects[3]
	o.Spec = proto.Clone(o.Spec)
	o.Spec.(*networking.ServiceEntry).Endpoints[0].Weight = 9
	objects[3] = &o
	after, _ := c.Translate(config.NewSet(objects, nil, nil))
	others := 0
	for i := range after.Clusters {
		if after.Clusters[i] != before.Clusters[i] {
			others++
		}
	}
	if others != 1 {
		t.Errorf("%d clusters are other messages", others)
	}
	if !slices.Equal(after.Routes, before.Routes) || !slices.Equal(after.Listeners, before.Listeners) {
		t.Error("an endpoint changed routes or listeners")
	}
}
