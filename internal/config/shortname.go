package config

import (
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
	var objects []*Object
	for _, list := range s.objects {
		objects = append(objects, list...)
	}
	return newSet(objects, s.vips, s.refused, func(string, string) bool { return true }).WithMesh(s.mesh)
}

// service tells whether the Set has a Kubernetes Service.
func (s *Set) service(name, namespace string) bool {
	return s.byKey[Key{Kind: Service, Namespace: namespace, Name: name}] != nil
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
		destinations(spec, func(d *networking.Destination) { found = found || c.short(d.Host) })
		if !found {
			return o
		}
		vs := proto.CloneOf(spec)
		vs.Hosts = c.hosts(vs.Hosts)
		destinations(vs, func(d *networking.Destination) { d.Host = c.host(d.Host) })
		out.Spec = vs
	default:
		return o
	}
	return &out
}

// destinations calls f for every destination of a VirtualService.
func destinations(vs *networking.VirtualService, f func(*networking.Destination)) {
	call := func(d *networking.Destination) {
		if d != nil {
			f(d)
		}
	}
	for _, r := range vs.Http {
		for _, d := range r.Route {
			call(d.Destination)
		}
		call(r.Mirror)
		for _, m := range r.Mirrors {
			call(m.Destination)
		}
	}
	for _, r := range vs.Tcp {
		for _, d := range r.Route {
			call(d.Destination)
		}
	}
	for _, r := range vs.Tls {
		for _, d := range r.Route {
			call(d.Destination)
		}
	}
}
