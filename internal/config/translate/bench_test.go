package translate_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/translate"
)

// many makes n ServiceEntries with four endpoints and a DestinationRule each, each on a port of its own modulo ports.
func many(n, ports int) *config.Set {
	var objs []*config.Object
	for i := range n {
		host := fmt.Sprintf("h%d.example.com", i)
		se := &networking.ServiceEntry{
			Hosts: []string{host}, Resolution: networking.ServiceEntry_DNS,
			Ports: []*networking.ServicePort{{Number: uint32(1000 + i%ports), Name: "http", Protocol: "HTTP"}},
		}
		for j := range 4 {
			se.Endpoints = append(se.Endpoints, &networking.WorkloadEntry{
				Address: fmt.Sprintf("e%d.h%d.example.net", j, i), Locality: fmt.Sprintf("r%d/z%d", j/2, j),
			})
		}
		dr := &networking.DestinationRule{Host: host, TrafficPolicy: &networking.TrafficPolicy{
			OutlierDetection: &networking.OutlierDetection{Interval: durationpb.New(15e9)},
		}}
		name := fmt.Sprintf("o%d", i)
		objs = append(objs,
			&config.Object{Key: config.Key{Kind: config.ServiceEntry, Namespace: "default", Name: name}, Spec: se},
			&config.Object{Key: config.Key{Kind: config.DestinationRule, Namespace: "default", Name: name}, Spec: dr})
	}
	return config.NewSet(objs, nil, nil)
}

// BenchmarkTranslate compiles sets of growing size; time must grow in proportion.
func BenchmarkTranslate(b *testing.B) {
	for _, n := range []int{1000, 5000} {
		for _, ports := range []int{1, 1000} {
			set := many(n, ports)
			b.Run(fmt.Sprintf("%dx%d", n, ports), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					translate.Translate(set, inEast())
				}
			})
		}
	}
}

// BenchmarkCompiler compiles one change among many: what it costs must not grow but by copies of pointers.
func BenchmarkCompiler(b *testing.B) {
	for _, n := range []int{1000, 5000, 20000} {
		for _, edit := range []struct {
			name string
			of   config.Kind
			do   func(o *config.Object, i int) // nil: an object comes, and goes the next time
		}{
			{"endpoint", config.ServiceEntry, func(o *config.Object, i int) { serviceEntry(o).Endpoints[0].Weight = uint32(1 + i%90) }},
			{"policy", config.DestinationRule, func(o *config.Object, i int) {
				o.Spec.(*networking.DestinationRule).TrafficPolicy.OutlierDetection.Interval = durationpb.New(time.Duration(10+i%90) * time.Second)
			}},
			{"route", config.VirtualService, func(o *config.Object, i int) {
				o.Spec.(*networking.VirtualService).Http[0].Timeout = durationpb.New(time.Duration(10+i%90) * time.Second)
			}},
			{"export", config.ServiceEntry, func(o *config.Object, i int) { serviceEntry(o).ExportTo = []string{[]string{"*", "."}[i%2]} }},
			{"ports", config.ServiceEntry, func(o *config.Object, i int) { serviceEntry(o).Ports[0].Name = fmt.Sprintf("http-%d", i) }},
			{"service", config.ServiceEntry, nil},
			{"rule", config.DestinationRule, nil},
			{"router", config.VirtualService, nil},
		} {
			b.Run(fmt.Sprintf("%s/%d", edit.name, n), func(b *testing.B) {
				set := routed(many(n, 1), n/10)
				c := translate.NewCompiler(inEast())
				c.Translate(set)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					set = changed(set, edit.of, i, edit.do)
					b.StartTimer()
					c.Translate(set)
				}
			})
		}
	}
}

func serviceEntry(o *config.Object) *networking.ServiceEntry {
	return o.Spec.(*networking.ServiceEntry)
}

// routed gives a Set with VirtualServices for its first n hosts.
func routed(set *config.Set, n int) *config.Set {
	objects := slices.Concat(set.All(config.ServiceEntry), set.All(config.DestinationRule))
	for _, o := range set.All(config.ServiceEntry)[:n] {
		host := serviceEntry(o).Hosts[0]
		objects = append(objects, &config.Object{Key: config.Key{Kind: config.VirtualService, Namespace: "default", Name: o.Name},
			Spec: &networking.VirtualService{Hosts: []string{host}, Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: &networking.Destination{Host: host}}}}}}})
	}
	return config.NewSet(objects, nil, nil)
}

// changed gives a Set in which one object is another, or has come or gone.
func changed(set *config.Set, kind config.Kind, i int, change func(*config.Object, int)) *config.Set {
	objects := slices.Concat(set.All(config.ServiceEntry), set.All(config.DestinationRule), set.All(config.VirtualService))
	old := set.All(kind)[i*7%len(set.All(kind))]
	if change == nil {
		old = set.All(kind)[len(set.All(kind))/2]
	}
	at := slices.Index(objects, old)
	o := *old
	o.Spec = proto.Clone(o.Spec)
	switch {
	case change != nil:
		change(&o, i)
		objects[at] = &o
	case i%2 == 0:
		o.Name += "-new"
		switch s := o.Spec.(type) {
		case *networking.ServiceEntry:
			s.Hosts = []string{"new." + s.Hosts[0]}
		case *networking.DestinationRule:
			s.Host = "h1.example.com"
		case *networking.VirtualService:
			s.Hosts = []string{fmt.Sprintf("h%d.example.com", len(set.All(config.ServiceEntry))-1)}
		}
		objects = slices.Insert(objects, at+1, &o)
	default:
		objects = slices.DeleteFunc(objects, func(o *config.Object) bool { return strings.HasSuffix(o.Name, "-new") })
	}
	return set.With(objects, nil, nil)
}
