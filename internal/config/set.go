package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"

	"detour.dev/detour/internal/xds"
)

// Set is the whole configuration at one moment: immutable, sorted, indexed. Make one with NewSet.
type Set struct {
	given   []*Object          // as NewSet got them
	objects map[Kind][]*Object // sorted: creation time where there is one, then namespace and name
	index   *index
	vips    map[string]VIPs
	refused []Refusal
	mesh    *Mesh
}

// index finds objects by key. It is made when somebody first asks, which most changes of a configuration never do.
type index struct {
	once  sync.Once
	byKey map[Key]*Object
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
	s := &Set{given: objects, objects: map[Kind][]*Object{}, index: &index{}, vips: vips}
	for _, o := range objects {
		s.objects[o.Kind] = append(s.objects[o.Kind], o)
	}
	for _, list := range s.objects {
		slices.SortFunc(list, CompareAge)
	}
	if is == nil {
		is = s.services()
	}
	for _, k := range []Kind{DestinationRule, VirtualService} {
		for i, o := range s.objects[k] {
			s.objects[k][i] = completer{o.Namespace, is}.object(o)
		}
	}
	s.refuse(refused, is)
	return s
}

func (s *Set) refuse(refused []Refusal, is func(name, namespace string) bool) {
	for _, r := range refused {
		if r.Key.Kind == DestinationRule || r.Key.Kind == VirtualService {
			r.Hosts = completer{r.Key.Namespace, is}.hosts(r.Hosts)
		}
		s.refused = append(s.refused, r)
	}
}

// With gives what NewSet gives of these arguments. It takes from s what is the same, so that after a few changes it costs
// little more than a walk over pointers. s must come from NewSet or With, not from InCluster.
func (s *Set) With(objects []*Object, vips map[string]VIPs, refused []Refusal) *Set {
	gone, come, ok := xds.Difference(s.given, objects)
	ofService := func(o *Object) bool { return o.Kind == Service }
	if !ok || slices.ContainsFunc(gone, ofService) || slices.ContainsFunc(come, ofService) { // a Service completes names
		return NewSet(objects, vips, refused)
	}
	out := &Set{given: objects, objects: maps.Clone(s.objects), index: &index{}, vips: vips}
	is := s.services()
	own := map[Kind]bool{}
	list := func(k Kind) []*Object {
		if !own[k] {
			own[k] = true
			out.objects[k] = append(make([]*Object, 0, len(out.objects[k])+len(come)), out.objects[k]...)
		}
		return out.objects[k]
	}
	for _, o := range gone {
		l := list(o.Kind)
		if i, found := slices.BinarySearchFunc(l, o, CompareAge); found {
			out.objects[o.Kind] = slices.Delete(l, i, i+1)
		}
	}
	for _, o := range come {
		l := list(o.Kind)
		i, _ := slices.BinarySearchFunc(l, o, CompareAge)
		if o.Kind == DestinationRule || o.Kind == VirtualService {
			o = completer{o.Namespace, is}.object(o)
		}
		out.objects[o.Kind] = slices.Insert(l, i, o)
	}
	out.refuse(refused, is)
	return out
}

// CompareAge is Istio's order of equal objects: creation time where there is one, else namespace and name
// (SEMANTICS §5).
func CompareAge(a, b *Object) int {
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
func (s *Set) Get(k Key) *Object {
	s.index.once.Do(func() {
		s.index.byKey = make(map[Key]*Object, s.Len())
		for _, list := range s.objects {
			for _, o := range list {
				s.index.byKey[o.Key] = o
			}
		}
	})
	return s.index.byKey[k]
}

// Len is the number of objects.
func (s *Set) Len() int { return len(s.given) }

// VIPs gives the addresses allocated to a service host; ok is false where none were.
func (s *Set) VIPs(host string) (v VIPs, ok bool) {
	v, ok = s.vips[strings.ToLower(host)]
	return v, ok
}

// SameVIPs tells whether two Sets were made with one and the same map of allocated addresses.
func (s *Set) SameVIPs(o *Set) bool {
	return reflect.ValueOf(s.vips).UnsafePointer() == reflect.ValueOf(o.vips).UnsafePointer()
}

// Refused gives the objects that are not served at all, sorted by key.
func (s *Set) Refused() []Refusal { return s.refused }
