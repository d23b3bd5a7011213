package translate_test

import (
	"fmt"
	"slices"
	"testing"

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

// BenchmarkCompiler compiles one change among many: what it costs must grow by a walk over pointers only.
func BenchmarkCompiler(b *testing.B) {
	edits := map[string]func(o *config.Object){
		"endpoint": func(o *config.Object) {
			if s, ok := o.Spec.(*networking.ServiceEntry); ok {
				s.Endpoints[0].Weight++
			}
		},
		"policy": func(o *config.Object) {
			if r, ok := o.Spec.(*networking.DestinationRule); ok {
				r.TrafficPolicy.OutlierDetection.Interval.Seconds++
			}
		},
		"export": func(o *config.Object) {
			if s, ok := o.Spec.(*networking.ServiceEntry); ok {
				s.ExportTo = append(s.ExportTo, "*")[:1]
			}
		},
	}
	for _, n := range []int{1000, 5000, 20000} {
		for _, name := range []string{"endpoint", "policy", "export"} {
			set := many(n, 1)
			kind := config.ServiceEntry
			if name == "policy" {
				kind = config.DestinationRule
			}
			c := translate.NewCompiler(inEast())
			c.Translate(set)
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					objects := append(slices.Clone(set.All(config.ServiceEntry)), set.All(config.DestinationRule)...)
					o := *set.All(kind)[i*7%n]
					o.Spec = proto.Clone(o.Spec)
					edits[name](&o)
					if name == "export" && i%2 == 1 {
						o.Spec.(*networking.ServiceEntry).ExportTo = nil
					}
					objects[slices.IndexFunc(objects, func(x *config.Object) bool { return x.Key == o.Key })] = &o
					set = config.NewSet(objects, nil, nil)
					b.StartTimer()
					c.Translate(set)
				}
			})
		}
	}
}
