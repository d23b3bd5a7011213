package admin

import (
	"fmt"
	"net/http"
	"sort"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

// httpError is an answer that says what was wrong with the request.
type httpError struct {
	status int
	text   string
}

// choose applies ?resource= and ?mask= to the sections of a dump, as Envoy 1.40 was seen to: a mask is applied to the
// sections that have all of its fields, and the others are left out; a path may end at a repeated field, not pass through
// one. With resource, each element of that repeated field becomes an answer of its own, and the mask is applied to the
// elements, through Any as well.
func choose(sections []proto.Message, resource, mask string) ([]proto.Message, *httpError) {
	var paths []string
	for p := range strings.SplitSeq(mask, ",") {
		if p = strings.TrimSpace(p); p != "" {
			paths = append(paths, p)
		}
	}
	if resource != "" {
		return elements(sections, resource, paths)
	}
	if len(paths) == 0 {
		return sections, nil
	}
	var kept []proto.Message
	tree := newPathTree(paths)
	for _, m := range sections {
		if (&fieldmaskpb.FieldMask{Paths: paths}).IsValid(m) {
			tree.trim(m.ProtoReflect())
			kept = append(kept, m)
		}
	}
	if len(kept) == 0 {
		return nil, &httpError{http.StatusBadRequest,
			fmt.Sprintf("FieldMask %s could not be successfully applied to any configs.", quoted(mask))}
	}
	return kept, nil
}

func elements(sections []proto.Message, resource string, paths []string) ([]proto.Message, *httpError) {
	for _, m := range sections {
		r := m.ProtoReflect()
		f := r.Descriptor().Fields().ByName(protoreflect.Name(resource))
		if f == nil {
			continue
		}
		if !f.IsList() || f.Message() == nil {
			return nil, &httpError{http.StatusBadRequest, fmt.Sprintf(
				"%s is not a repeated field. Use ?mask=%s to get only this field", quoted(resource), quoted(resource))}
		}
		list := r.Get(f).List()
		var out []proto.Message
		for i := range list.Len() {
			e := list.Get(i).Message()
			if len(paths) > 0 {
				if bad := newPathTree(paths).trim(e); bad != "" {
					return nil, &httpError{http.StatusBadRequest,
						fmt.Sprintf("FieldMask %s could not be successfully used.", quoted(bad))}
				}
			}
			out = append(out, e.Interface())
		}
		return out, nil
	}
	return nil, &httpError{http.StatusNotFound, quoted(resource) + " not found in config dump"}
}

// pathTree is a set of field paths; a leaf keeps everything below it.
type pathTree map[string]pathTree

func newPathTree(paths []string) pathTree {
	t := pathTree{}
	for _, p := range paths {
		at := t
		for name := range strings.SplitSeq(p, ".") {
			if at[name] == nil {
				at[name] = pathTree{}
			}
			at = at[name]
		}
	}
	return t
}

// trim clears every field that the tree does not name. It gives the name of the first field that m does not have, or that
// can't be entered, "" for none.
func (t pathTree) trim(m protoreflect.Message) (bad string) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		inner, err := a.UnmarshalNew()
		if err != nil {
			return sortedKey(t)
		}
		bad = t.trim(inner.ProtoReflect())
		a.Value = pack(inner).Value
		return bad
	}
	fields := m.Descriptor().Fields()
	for name, below := range t {
		f := fields.ByName(protoreflect.Name(name))
		switch {
		case f == nil:
			bad = name
		case len(below) == 0:
		case f.IsList() || f.IsMap() || f.Message() == nil:
			bad = name
		case m.Has(f):
			if b := below.trim(m.Mutable(f).Message()); b != "" {
				bad = name + "." + b
			}
		}
	}
	m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		if t[string(f.Name())] == nil {
			m.Clear(f)
		}
		return true
	})
	return bad
}

func sortedKey(t pathTree) string {
	all := make([]string, 0, len(t))
	for name := range t {
		all = append(all, name)
	}
	sort.Strings(all)
	if len(all) == 0 {
		return ""
	}
	return all[0]
}

func sortRejected(all []Rejected) {
	sort.SliceStable(all, func(i, j int) bool {
		if all[i].Name != all[j].Name {
			return all[i].Name < all[j].Name
		}
		return all[i].Origin < all[j].Origin
	})
}
