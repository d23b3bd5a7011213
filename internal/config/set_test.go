package config

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// thing makes an object; some hosts are short names of Services.
func thing(r *rand.Rand) *Object {
	o := &Object{Key: Key{Kind: []Kind{ServiceEntry, DestinationRule, VirtualService, Service}[r.IntN(4)], Namespace: []string{"a", "b"}[r.IntN(2)], Name: fmt.Sprintf("o%d", r.IntN(30))}}
	if r.IntN(4) == 0 {
		o.Created = time.Unix(int64(r.IntN(3)), 0)
	}
	host := fmt.Sprintf("o%d", r.IntN(30))
	switch o.Kind {
	case DestinationRule:
		o.Spec = &networking.DestinationRule{Host: host}
	case VirtualService:
		d := &networking.Destination{Host: host}
		o.Spec = &networking.VirtualService{Hosts: []string{host + ".example.com"}, Http: []*networking.HTTPRoute{{Mirror: d}}}
	default:
		o.Spec = &networking.ServiceEntry{Hosts: []string{host}}
	}
	return o
}

// TestWith: whatever came, went or moved, With gives what NewSet gives, and keeps the objects that it completed.
func TestWith(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var objects []*Object
	set := NewSet(nil, nil, nil)
	for step := range 600 {
		for range 1 + r.IntN(2) {
			o := thing(r)
			if o.Kind == Service && r.IntN(8) > 0 {
				continue
			}
			at := slices.IndexFunc(objects, func(x *Object) bool { return x.Key == o.Key })
			switch {
			case at < 0:
				objects = slices.Insert(objects, r.IntN(len(objects)+1), o)
			case r.IntN(2) == 0:
				objects = slices.Delete(objects, at, at+1)
			default:
				objects[at] = o
			}
		}
		if r.IntN(20) == 0 {
			r.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		}
		refused := []Refusal{{Key: Key{Kind: DestinationRule, Namespace: "a", Name: "bad"}, Hosts: []string{fmt.Sprintf("o%d", r.IntN(3))}}}
		want := NewSet(slices.Clone(objects), nil, refused)
		set = set.With(slices.Clone(objects), nil, refused)
		if got := set.Refused()[0].Hosts; set.Len() != want.Len() || !slices.Equal(got, want.Refused()[0].Hosts) {
			t.Fatalf("step %d: %d objects, refused %v; want %d, %v", step, set.Len(), got, want.Len(), want.Refused()[0].Hosts)
		}
		for _, k := range []Kind{ServiceEntry, DestinationRule, VirtualService, Service} {
			for i, o := range want.All(k) {
				got := set.All(k)
				if len(got) != len(want.All(k)) || got[i].Key != o.Key || !proto.Equal(got[i].Spec, o.Spec) || set.Get(o.Key) != got[i] {
					t.Fatalf("step %d: %s: %v, want %v", step, k, got, want.All(k))
				}
			}
		}
	}
}

// TestWithKeeps: what a Set completed is not completed again.
func TestWithKeeps(t *testing.T) {
	key := Key{Kind: DestinationRule, Namespace: "a", Name: "r"}
	objects := []*Object{{Key: Key{Kind: Service, Namespace: "a", Name: "s"}, Spec: &networking.ServiceEntry{}}, {Key: key, Spec: &networking.DestinationRule{Host: "s"}}}
	set := NewSet(slices.Clone(objects), nil, nil)
	next := set.With(append(objects, thing(rand.New(rand.NewPCG(3, 4)))), nil, nil)
	if o := next.Get(key); o != set.Get(key) || o.Spec.(*networking.DestinationRule).Host != "s.a.svc.cluster.local" {
		t.Errorf("%v", o.Spec)
	}
}

// TestDestinations: all of them, in their order, each with its rule.
func TestDestinations(t *testing.T) {
	d := func(h string) *networking.Destination { return &networking.Destination{Host: h} }
	vs := &networking.VirtualService{
		Http: []*networking.HTTPRoute{{Route: []*networking.HTTPRouteDestination{{Destination: d("b")}, {}}, Mirror: d("a"), Mirrors: []*networking.HTTPMirrorPolicy{{Destination: d("c")}}}},
		Tcp:  []*networking.TCPRoute{{Route: []*networking.RouteDestination{{Destination: d("d")}}}},
		Tls:  []*networking.TLSRoute{{Route: []*networking.RouteDestination{{Destination: d("e")}}}},
	}
	got := ""
	for r, d := range Destinations(vs) {
		if (r != nil) != (d.Host < "d") {
			t.Errorf("%s stands in %v", d.Host, r)
		}
		got += d.Host
	}
	if got != "abcde" {
		t.Errorf("%s", got)
	}
	for range Destinations(vs) {
		break
	}
}
