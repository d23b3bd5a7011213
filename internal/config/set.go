package config

import (
	"slices"
	"strings"
)

// Set is the whole configuration at one moment: immutable, sorted, indexed. Make one with NewSet.
type Set struct {
	objects map[Kind][]*Object // sorted: creation time where there is one, then namespace and name
	byKey   map[Key]*Object
	vips    map[string]VIPs
	refused []Refusal
	mesh    *Mesh
}

// Refusal records an object that is not served: it was bad and has no last good version. A refused DestinationRule
// makes its host answer 503, never plain text where TLS was asked for (DESIGN.md rule 4).
type Refusal struct {
	Key   Key
	Hosts []string // the service hosts it was about, where they could be read; lower case
	Issue Issue
}

// NewSet makes a Set. It takes ownership of its arguments. Objects with the same key must not occur twice.
// vips maps a lower-case service host to its allocated addresses. In VirtualServices and DestinationRules the short name
// of a Kubernetes Service of their namespace is completed: NAME becomes NAME.NAMESPACE.svc.cluster.local.
func NewSet(objects []*Object, vips map[string]VIPs, refused []Refusal) *Set {
	return newSet(objects, vips, refused, nil)
}

// newSet is NewSet; is tells which short names are completed, nil: those of Services in the Set.
func newSet(objects []*Object, vips map[string]VIPs, refused []Refusal, is func(name, namespace string) bool) *Set {
	s := &Set{objects: map[Kind][]*Object{}, byKey: make(map[Key]*Object, len(objects)), vips: vips}
	for _, o := range objects {
		s.objects[o.Kind] = append(s.objects[o.Kind], o)
		s.byKey[o.Key] = o
	}
	if is == nil {
		is = s.service
	}
	for _, k := range []Kind{DestinationRule, VirtualService} {
		for i, o := range s.objects[k] {
			o = completer{o.Namespace, is}.object(o)
			s.objects[k][i], s.byKey[o.Key] = o, o
		}
	}
	for _, r := range refused {
		if r.Key.Kind == DestinationRule || r.Key.Kind == VirtualService {
			r.Hosts = completer{r.Key.Namespace, is}.hosts(r.Hosts)
		}
		s.refused = append(s.refused, r)
	}
	for _, list := range s.objects {
		slices.SortFunc(list, compareAge)
	}
	return s
}

// compareAge is Istio's order of equal objects: creation time where there is one, else namespace and name
// (SEMANTICS §5).
func compareAge(a, b *Object) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// WithMesh gives the same Set with mesh-wide settings; nil means Istio's defaults.
func (s *Set) WithMesh(m *Mesh) *Set {
	out := *s
	out.mesh = m
	return &out
}

// Mesh gives the mesh-wide settings; nil means Istio's defaults.
func (s *Set) Mesh() *Mesh { return s.mesh }

// All gives the objects of a kind, oldest first. The caller must not change the slice.
func (s *Set) All(k Kind) []*Object { return s.objects[k] }

// Get gives the object with that key, or nil.
func (s *Set) Get(k Key) *Object { return s.byKey[k] }

// Len is the number of objects.
func (s *Set) Len() int { return len(s.byKey) }

// VIPs gives the addresses allocated to a service host; ok is false where none were.
func (s *Set) VIPs(host string) (v VIPs, ok bool) {
	v, ok = s.vips[strings.ToLower(host)]
	return v, ok
}

// Refused gives the objects that are not served at all, sorted by key.
func (s *Set) Refused() []Refusal { return s.refused }
