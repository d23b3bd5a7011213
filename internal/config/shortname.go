package config

import (
	"iter"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	networking "istio.io/api/networking/v1alpha3"
)

// A host without a dot in a VirtualService or DestinationRule is a Kubernetes Service of the object's namespace. istiod
// completes every such name (pkg/config: ResolveShortnameToFQDN); outside a cluster a ServiceEntry may declare one as it
// stands, so only what names a Service of the Set is completed.

// InCluster gives the Set as istiod has it: every short name completed, whether or not such a Service is known.
func (s *Set) InCluster() *Set {
	return newSet(s.given, s.vips, s.refused, func(string, string) bool { return true }).WithMesh(s.mesh)
}

// services gives a function that tells whether the Set has a Kubernetes Service.
func (s *Set) services() func(name, namespace string) bool {
	known := make(map[Key]bool, len(s.objects[Service]))
	for _, o := range s.objects[Service] {
		known[o.Key] = true
	}
	return func(name, namespace string) bool { return known[Key{Kind: Service, Namespace: namespace, Name: name}] }
}

// completer completes the short names in objects of one namespace.
type completer struct {
	namespace string
	is        func(name, namespace string) bool // whether a short name is a Service's
}

func (c completer) short(host string) bool {
	return host != "" && !strings.ContainsAny(host, ".*") && c.is(strings.ToLower(host), c.namespace)
}

func (c completer) host(host string) string {
	if !c.short(host) {
		return host
	}
	return strings.ToLower(host) + "." + c.namespace + "." + ClusterDomain
}

func (c completer) hosts(list []string) []string {
	if !slices.ContainsFunc(list, c.short) {
		return list
	}
	out := make([]string, len(list))
	for i, h := range list {
		out[i] = c.host(h)
	}
	return out
}

// object gives the object with its short names completed; the object itself where it has none.
func (c completer) object(o *Object) *Object {
	out := *o
	switch spec := o.Spec.(type) {
	case *networking.DestinationRule:
		if !c.short(spec.Host) {
			return o
		}
		dr := proto.CloneOf(spec)
		dr.Host = c.host(dr.Host)
		out.Spec = dr
	case *networking.VirtualService:
		found := slices.ContainsFunc(spec.Hosts, c.short)
		for _, d := range Destinations(spec) {
			found = found || c.short(d.Host)
		}
		if !found {
			return o
		}
		vs := proto.CloneOf(spec)
		vs.Hosts = c.hosts(vs.Hosts)
		for _, d := range Destinations(vs) {
			d.Host = c.host(d.Host)
		}
		out.Spec = vs
	default:
		return o
	}
	return &out
}

// Destinations goes over all destinations of a VirtualService, mirrors too, each with the rule it stands in where that is
// one for HTTP, else nil.
func Destinations(vs *networking.VirtualService) iter.Seq2[*networking.HTTPRoute, *networking.Destination] {
	return func(yield func(*networking.HTTPRoute, *networking.Destination) bool) {
		for _, r := range vs.Http {
			ds := []*networking.Destination{r.Mirror}
			for _, d := range r.Route {
				ds = append(ds, d.Destination)
			}
			for _, m := range r.Mirrors {
				ds = append(ds, m.Destination)
			}
			for _, d := range ds {
				if d != nil && !yield(r, d) {
					return
				}
			}
		}
		var relays []*networking.RouteDestination
		for _, r := range vs.Tcp {
			relays = append(relays, r.Route...)
		}
		for _, r := range vs.Tls {
			relays = append(relays, r.Route...)
		}
		for _, d := range relays {
			if d.Destination != nil && !yield(nil, d.Destination) {
				return
			}
		}
	}
}
