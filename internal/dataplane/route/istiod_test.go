package route

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// TestServesIstiod: every route that istiod makes of the conformance cases is served.
func TestServesIstiod(t *testing.T) {
	files, err := filepath.Glob("../../../testdata/conformance/cases/*/expected.json")
	if err != nil || len(files) < 30 {
		t.Fatalf("%d cases, %v", len(files), err)
	}
	routes := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var all struct{ Routes map[string]json.RawMessage }
		if err := json.Unmarshal(b, &all); err != nil {
			t.Fatal(err)
		}
		for _, text := range all.Routes {
			rc := &routev3.RouteConfiguration{}
			if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(text, rc); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			tb, refused := Compile(rc, true)
			for _, err := range refused {
				t.Errorf("%s: %s: %v", file, tb.Name, err)
			}
			for _, vh := range rc.VirtualHosts {
				routes += len(vh.Routes)
			}
		}
	}
	if routes < 100 {
		t.Errorf("only %d routes", routes)
	}
}
