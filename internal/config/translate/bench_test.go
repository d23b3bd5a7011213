package translate_test

import (
	"fmt"
	"testing"

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
