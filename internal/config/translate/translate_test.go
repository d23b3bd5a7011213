package translate_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"math/rand"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/translate"
	"detour.dev/detour/internal/xds"
)

var update = flag.Bool("update", false, "write golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// inEast is the caller most tests compile for.
func inEast() xds.NodeGroup {
	return xds.NodeGroup{Locality: &corev3.Locality{Region: "us-east1"}, IPv4: true}
}

// objects decodes YAML that must be free of errors, but for what the engine does not serve yet.
func objects(t testing.TB, yaml string) []*config.Object {
	t.Helper()
	objs, issues := decode.File("test.yaml", []byte(yaml))
	for _, i := range issues {
		if i.Severity == config.Error && i.Code != config.CodeUnsupported {
			t.Fatalf("decode: %v", i)
		}
	}
	return objs
}

// compile translates YAML and checks every resource with Envoy's own validation.
func compile(t testing.TB, yaml string, g xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
	t.Helper()
	return compileSet(t, config.NewSet(objects(t, yaml), nil, nil), g)
}

func compileSet(t testing.TB, set *config.Set, g xds.NodeGroup) (*xds.Snapshot, []config.Issue) {
	t.Helper()
	s, issues := translate.Translate(set, g)
	if err := validate(s); err != nil {
		t.Fatalf("Envoy would refuse this: %v", err)
	}
	if s.Version != s.Hash() || s.Version == "" {
		t.Errorf("version %q is not the hash %q", s.Version, s.Hash())
	}
	return s, issues
}

func resources(s *xds.Snapshot) map[string][]proto.Message {
	out := map[string][]proto.Message{"clusters": {}, "endpoints": {}, "listeners": {}, "routes": {}}
	for _, m := range s.Clusters {
		out["clusters"] = append(out["clusters"], m)
	}
	for _, m := range s.Endpoints {
		out["endpoints"] = append(out["endpoints"], m)
	}
	for _, m := range s.Listeners {
		out["listeners"] = append(out["listeners"], m)
	}
	for _, m := range s.Routes {
		out["routes"] = append(out["routes"], m)
	}
	return out
}

// validate runs ValidateAll on every resource and on every message packed in one.
func validate(s *xds.Snapshot) error {
	for _, list := range resources(s) {
		for _, m := range list {
			if err := validateMessage(m); err != nil {
				return err
			}
		}
	}
	return nil
}

func validateMessage(m proto.Message) error {
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			return err
		}
	}
	var err error
	m.ProtoReflect().Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		err = validateField(fd, v)
		return err == nil
	})
	return err
}

func validateField(fd protoreflect.FieldDescriptor, v protoreflect.Value) error {
	if fd.IsMap() {
		var err error
		if fd.MapValue().Message() != nil {
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				err = validateInner(v.Message())
				return err == nil
			})
		}
		return err
	}
	if fd.Message() == nil {
		return nil
	}
	if fd.IsList() {
		for i := range v.List().Len() {
			if err := validateInner(v.List().Get(i).Message()); err != nil {
				return err
			}
		}
		return nil
	}
	return validateInner(v.Message())
}

func validateInner(m protoreflect.Message) error {
	a, ok := m.Interface().(*anypb.Any)
	if !ok {
		return validateMessage(m.Interface())
	}
	inner, err := a.UnmarshalNew()
	if err != nil {
		return err
	}
	return validateMessage(inner)
}

// render writes a snapshot as `detour translate` does, with the names beside it.
func render(t testing.TB, s *xds.Snapshot) []byte {
	t.Helper()
	out := map[string]any{}
	for k, list := range resources(s) {
		raw := []json.RawMessage{}
		for _, m := range list {
			j, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			raw = append(raw, j)
		}
		out[k] = raw
	}
	names := map[string][]string{}
	for _, n := range s.Names {
		for _, a := range n.Addrs {
			names[n.Host] = append(names[n.Host], a.String())
		}
	}
	out["names"] = names
	raw, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", " "); err != nil {
		t.Fatal(err)
	}
	return append(b.Bytes(), '\n')
}

// vips stands for what the pipeline allocates.
func vips(hosts ...string) map[string]config.VIPs {
	out := map[string]config.VIPs{}
	for i, h := range hosts {
		out[h] = config.VIPs{
			V4: netip.AddrFrom4([4]byte{240, 240, 0, byte(i + 1)}),
			V6: netip.MustParseAddr("2001:2::" + string(rune('1'+i))),
		}
	}
	return out
}

// TestGolden compiles every YAML file of testdata/golden for a caller in us-east1 with both address families and allocated
// addresses for a.example.com, b.example.com and mydb.com.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			g := inEast()
			g.IPv6 = true
			set := config.NewSet(objects(t, string(in)), vips("a.example.com", "b.example.com", "mydb.com"), nil)
			s, issues := compileSet(t, set, g)
			got := render(t, s)
			for _, i := range issues {
				got = append(got, i.String()+"\n"...)
			}
			golden := strings.TrimSuffix(f, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), string(got)); d != "" {
				t.Errorf("-want +got (go test -update writes it anew):\n%s", d)
			}
		})
	}
}

// TestConformanceValidates compiles every conformance case in both modes: Envoy's own validation must accept all of them,
// and nothing may depend on the order in which objects were read.
func TestConformanceValidates(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/conformance/cases/*/config.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(filepath.Dir(f)), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, compat := range []bool{false, true} {
				g := inEast()
				g.CompatIstio = compat
				s, _ := compile(t, string(in), g)
				objs := objects(t, string(in))
				rand.New(rand.NewSource(1)).Shuffle(len(objs), func(i, j int) { objs[i], objs[j] = objs[j], objs[i] })
				again, _ := compileSet(t, config.NewSet(objs, nil, nil), g)
				if s.Version != again.Version {
					t.Errorf("compat %v: versions %s and %s for one configuration", compat, s.Version, again.Version)
				}
				sorted(t, s)
			}
		})
	}
}

// sorted checks that resources stand in order of their names and none twice.
func sorted(t *testing.T, s *xds.Snapshot) {
	t.Helper()
	var names []string
	for _, c := range s.Clusters {
		names = append(names, "c "+c.Name)
	}
	for _, e := range s.Endpoints {
		names = append(names, "e "+e.ClusterName)
	}
	for _, l := range s.Listeners {
		names = append(names, "l "+l.Name)
	}
	for _, r := range s.Routes {
		names = append(names, "r "+r.Name)
	}
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("names are not sorted, or occur twice: %q", names)
	}
}
