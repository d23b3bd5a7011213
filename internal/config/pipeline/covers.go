package pipeline

import (
	"google.golang.org/protobuf/reflect/protoreflect"

	"detour.dev/detour/internal/config"
)

// covers tells whether the new version of an object takes nothing away from the old one: every field and list element
// that was there is there, be it with another value.
func covers(n, old *config.Object) bool {
	return hasKeys(n.Labels, old.Labels) && hasKeys(n.Annotations, old.Annotations) &&
		coversMessage(n.Spec.ProtoReflect(), old.Spec.ProtoReflect())
}

func hasKeys(n, old map[string]string) bool {
	for k := range old {
		if _, ok := n[k]; !ok {
			return false
		}
	}
	return true
}

func coversMessage(n, old protoreflect.Message) bool {
	ok := true
	old.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case !n.Has(fd):
			ok = false
		case fd.IsMap():
			ok = coversMap(n.Get(fd).Map(), v.Map(), fd.MapValue())
		case fd.IsList():
			ok = coversList(n.Get(fd).List(), v.List(), fd)
		case fd.Message() != nil:
			ok = coversMessage(n.Get(fd).Message(), v.Message())
		}
		return ok
	})
	return ok
}

func coversMap(n, old protoreflect.Map, value protoreflect.FieldDescriptor) bool {
	ok := true
	old.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		switch {
		case !n.Has(k):
			ok = false
		case value.Message() != nil:
			ok = coversMessage(n.Get(k).Message(), v.Message())
		}
		return ok
	})
	return ok
}

// coversList finds for each old element one of its own that stands for it: an equal one among scalars; among messages
// one with the same identity that takes nothing away.
func coversList(n, old protoreflect.List, fd protoreflect.FieldDescriptor) bool {
	used := make([]bool, n.Len())
	stands := func(i int, o protoreflect.Value) bool {
		if i >= n.Len() || used[i] {
			return false
		}
		if fd.Message() == nil {
			return n.Get(i).Equal(o)
		}
		return sameIdentity(n.Get(i).Message(), o.Message()) && coversMessage(n.Get(i).Message(), o.Message())
	}
	for i := range old.Len() {
		o := old.Get(i)
		found := i
		if !stands(i, o) {
			for found = 0; found < n.Len() && !stands(found, o); found++ {
			}
		}
		if found >= n.Len() {
			return false
		}
		used[found] = true
	}
	return true
}

// identities are the fields by which people tell list elements apart: an endpoint's address, a port's name.
var identities = []protoreflect.Name{"address", "name", "host"}

func sameIdentity(a, b protoreflect.Message) bool {
	for _, name := range identities {
		if fd := a.Descriptor().Fields().ByName(name); fd != nil && fd.Kind() == protoreflect.StringKind && a.Get(fd).String() != b.Get(fd).String() {
			return false
		}
	}
	return true
}
