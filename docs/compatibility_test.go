package docs_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	meshconfig "istio.io/api/mesh/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/validate"
)

var updatePages = flag.Bool("update", false, "write the generated pages")

// proofs are the configurations that tests hold against Istio's compiler and against a real Envoy. The name of a proof
// is that of its test's case.
var proofs = []struct{ column, glob string }{
	{"istio", root + "/testdata/conformance/cases/*/config.yaml"},
	{"istio", root + "/internal/config/translate/testdata/golden/*.yaml"},
	{"envoy", root + "/test/feature/testdata/parity/*.yaml"},
}

// fieldKey names a field of a message, or one value of an enum field.
type fieldKey struct {
	message protoreflect.FullName
	field   protoreflect.Name
	value   protoreflect.Name // empty: the field itself
}

// shown tells which cases set a field, by column.
type shown map[fieldKey]map[string][]string

func (s shown) add(k fieldKey, column, name string) {
	if s[k] == nil {
		s[k] = map[string][]string{}
	}
	if !slices.Contains(s[k][column], name) {
		s[k][column] = append(s[k][column], name)
	}
}

// read notes every field that is set in m or below it.
func (s shown) read(m protoreflect.Message, column, name string) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		k := fieldKey{message: m.Descriptor().FullName(), field: fd.Name()}
		s.add(k, column, name)
		each(fd, v, func(v protoreflect.Value) {
			switch {
			case fd.Enum() != nil && !fd.IsMap():
				if ev := fd.Enum().Values().ByNumber(v.Enum()); ev != nil {
					k.value = ev.Name()
					s.add(k, column, name)
				}
			case isAPI(fd) || fd.IsMap():
				s.read(v.Message(), column, name)
			}
		})
		return true
	})
}

// each calls f for a field's value, for each element of a list, and for each message in a map.
func each(fd protoreflect.FieldDescriptor, v protoreflect.Value, f func(protoreflect.Value)) {
	switch {
	case fd.IsMap():
		if fd.MapValue().Message() == nil {
			return
		}
		for _, v := range v.Map().Range {
			f(v)
		}
	case fd.IsList():
		for i := range v.List().Len() {
			f(v.List().Get(i))
		}
	default:
		f(v)
	}
}

// isAPI tells whether a field holds a message of Istio's own.
func isAPI(fd protoreflect.FieldDescriptor) bool {
	md := fd.Message()
	if fd.IsMap() {
		md = fd.MapValue().Message()
	}
	return md != nil && strings.HasPrefix(string(md.FullName()), "istio.")
}

func readProofs(t *testing.T) shown {
	t.Helper()
	s := shown{}
	for _, p := range proofs {
		files, err := filepath.Glob(p.glob)
		if err != nil || len(files) == 0 {
			t.Errorf("no file is like %s: %v", p.glob, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(filepath.Base(f), ".yaml")
			if name == "config" {
				name = filepath.Base(filepath.Dir(f))
			}
			objects, _ := decode.File(f, b)
			for _, o := range objects {
				if o.Spec != nil {
					s.read(o.Spec.ProtoReflect(), p.column, name)
				}
			}
		}
	}
	return s
}

// meshProofs are the MeshConfigs of such configurations.
var meshProofs = []struct{ column, glob string }{
	{"istio", root + "/testdata/conformance/cases/*/mesh.yaml"},
	{"envoy", root + "/test/feature/testdata/parity/mesh/*.yaml"},
}

func (s shown) readMesh(t *testing.T) {
	t.Helper()
	for _, p := range meshProofs {
		files, _ := filepath.Glob(p.glob)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			m, issues := decode.Mesh(f, b)
			if m == nil {
				t.Fatal(issues)
			}
			name := strings.TrimSuffix(filepath.Base(f), ".yaml")
			if p.column == "istio" {
				name = filepath.Base(filepath.Dir(f))
			}
			s.read(m.Spec.ProtoReflect(), p.column, name)
		}
	}
}

// mesh writes MeshConfig's fields that are served, and names the others.
func (w *table) mesh() {
	md := (&meshconfig.MeshConfig{}).ProtoReflect().Descriptor()
	fmt.Fprintf(&w.out, "\n## MeshConfig (`--mesh-config`)\n\n| field | state | held against Istio's compiler | held against Envoy 1.40 |\n|---|---|---|---|\n")
	var others []string
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		if _, issues := decode.Mesh("mesh", []byte(fd.JSONName()+": null\n")); len(issues) > 0 {
			others = append(others, "`"+fd.JSONName()+"`")
			continue
		}
		cells, state := w.shown[fieldKey{message: md.FullName(), field: fd.Name()}], "served"
		if e, ok := exceptions["MeshConfig."+fd.JSONName()]; ok {
			state += ", but for " + e.state + ": " + e.why
		}
		fmt.Fprintf(&w.out, "| `%s` | %s | %s | %s |\n", fd.JSONName(), state, cases(cells["istio"]), cases(cells["envoy"]))
	}
	slices.Sort(others)
	fmt.Fprintf(&w.out, "\nIgnored, in one note that names them: %s.\n", strings.Join(others, ", "))
}

// kinds are the objects whose fields the table lists.
var kinds = []struct {
	kind config.Kind
	spec proto.Message
}{
	{config.ServiceEntry, &networking.ServiceEntry{}},
	{config.WorkloadEntry, &networking.WorkloadEntry{}},
	{config.DestinationRule, &networking.DestinationRule{}},
	{config.VirtualService, &networking.VirtualService{}},
	{config.Sidecar, &networking.Sidecar{}},
}

// table writes one section for each message, in the order in which the kinds reach them.
type table struct {
	t       *testing.T
	out     strings.Builder
	shown   shown
	seen    map[protoreflect.FullName]bool
	pending []pending
}

type pending struct {
	kind config.Kind
	md   protoreflect.MessageDescriptor
	// refused names the field that this message is the value of, where that field is refused whatever it says.
	refused string
}

func (w *table) message(p pending) {
	if w.seen[p.md.FullName()] {
		return
	}
	w.seen[p.md.FullName()] = true
	fmt.Fprintf(&w.out, "\n## %s\n\n| field | state | held against Istio's compiler | held against Envoy 1.40 |\n|---|---|---|---|\n",
		strings.TrimPrefix(string(p.md.FullName()), "istio.networking.v1alpha3."))
	for i := range p.md.Fields().Len() {
		fd := p.md.Fields().Get(i)
		k := fieldKey{message: p.md.FullName(), field: fd.Name()}
		w.row(p, k, fd.JSONName(), "")
		if fd.Enum() != nil {
			for j := range fd.Enum().Values().Len() {
				k.value = fd.Enum().Values().Get(j).Name()
				w.row(p, k, fd.JSONName(), string(k.value))
			}
		}
		if e := exceptions[string(p.md.Name())+"."+fd.JSONName()]; isAPI(fd) && e.state != ignored {
			md := fd.Message()
			if fd.IsMap() {
				md = fd.MapValue().Message()
			}
			next := pending{kind: p.kind, md: md, refused: p.refused}
			if refusal(p.kind, fd.JSONName(), "") != "" {
				next.refused = fd.JSONName()
			}
			w.pending = append(w.pending, next)
		}
	}
}

// row writes a field, or a value of an enum field.
func (w *table) row(p pending, k fieldKey, json, value string) {
	state, why := "served", ""
	if e, ok := exceptions[string(k.message.Name())+"."+strings.TrimSuffix(json+"="+value, "=")]; ok {
		state, why = e.state, e.why
	} else if r := refusal(p.kind, json, value); r != "" {
		state, why = "refused", r
	} else if p.refused != "" {
		state, why = "refused", "as `"+p.refused+"`"
	} else if value == "" && !w.isEnum(p.md, json) {
		if values, r := refusedWords(p.kind, json); r != "" {
			state, why = "served, but for "+values, r
		}
	}
	cells := w.shown[k]
	if state == "served" && value == "" && why == "" && len(cells) == 0 {
		w.t.Errorf("%s.%s is called served and no test sets it", k.message, json)
	}
	label := "`" + json + "`"
	if value != "" {
		label = "&nbsp;&nbsp;`" + value + "`"
	}
	if why != "" {
		state += ": " + why
	}
	fmt.Fprintf(&w.out, "| %s | %s | %s | %s |\n", label, state, cases(cells["istio"]), cases(cells["envoy"]))
}

// cases names at most three.
func cases(names []string) string {
	slices.Sort(names)
	if len(names) > 3 {
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", len(names)-3)
	}
	return strings.Join(names, ", ")
}

// refusal gives why validate refuses a field, or a value of one, on the embedded engine.
func refusal(kind config.Kind, json, value string) string {
	for _, r := range validate.Refusals {
		parts := strings.Split(r.Field, ".")
		if r.Kind != kind || parts[len(parts)-1] != json {
			continue
		}
		if len(r.Values) == 0 && value == "" || slices.Contains(r.Values, value) {
			return r.Why
		}
	}
	return ""
}

func (w *table) isEnum(md protoreflect.MessageDescriptor, json string) bool {
	return md.Fields().ByJSONName(json).Enum() != nil
}

// refusedWords gives the words that validate refuses in a field that takes any text, and why.
func refusedWords(kind config.Kind, json string) (words, why string) {
	for _, r := range validate.Refusals {
		if r.Kind == kind && len(r.Values) > 0 && strings.HasSuffix(r.Field, "."+json) {
			return strings.Join(r.Values, ", "), r.Why
		}
	}
	return "", ""
}

// TestCompatibility holds docs/compatibility.md against the API's descriptors, the refusals and the tests' configurations.
func TestCompatibility(t *testing.T) {
	w := &table{t: t, shown: readProofs(t), seen: map[protoreflect.FullName]bool{}}
	w.out.WriteString(compatibilityHead)
	for _, k := range kinds {
		w.pending = append(w.pending, pending{kind: k.kind, md: k.spec.ProtoReflect().Descriptor()})
		for len(w.pending) > 0 {
			p := w.pending[0]
			w.pending = w.pending[1:]
			w.message(p)
		}
	}
	w.shown.readMesh(t)
	w.mesh()
	for name := range maps.Keys(exceptions) {
		message, _, _ := strings.Cut(name, ".")
		if message != "MeshConfig" && !slices.ContainsFunc(slices.Collect(maps.Keys(w.seen)), func(n protoreflect.FullName) bool { return string(n.Name()) == message }) {
			t.Errorf("the exception %q is about no message of the API", name)
		}
	}
	const page = "compatibility.md"
	if *updatePages {
		if err := os.WriteFile(page, []byte(w.out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(page); err != nil || string(b) != w.out.String() {
		t.Errorf("%s is not what the tests give (%v): go test ./docs -run Compatibility -update", page, err)
	}
}
