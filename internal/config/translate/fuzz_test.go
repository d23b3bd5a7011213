package translate_test

import (
	"os"
	"path/filepath"
	"testing"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/config/decode"
	"detour.dev/detour/internal/config/translate"
	judge "detour.dev/detour/internal/config/validate"
)

// meshSeed sets every part of MeshConfig that decides about outbound traffic.
const meshSeed = `
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
localityLbSetting:
  failover: [{from: us-east1, to: us-west}]
  failoverPriority: [topology.istio.io/network, app]
defaultHttpRetryPolicy: {attempts: 3, perTryTimeout: 2s, retryOn: "5xx,503", backoff: 30ms, retryRemoteLocalities: true, retryIgnorePreviousHosts: false}
connectTimeout: 3s
dnsRefreshRate: 5s
tcpKeepalive: {probes: 3, time: 10s, interval: 1s}
defaultTrafficPolicy:
  connectionPool: {tcp: {maxConnections: 10}, http: {http1MaxPendingRequests: 1, idleTimeout: 5s}}
  outlierDetection: {consecutive5xxErrors: 2, interval: 1s}
h2UpgradePolicy: UPGRADE
protocolDetectionTimeout: 100ms
rootNamespace: root
defaultServiceExportTo: ["*"]
defaultVirtualServiceExportTo: ["."]
defaultDestinationRuleExportTo: [".", other]
`

// FuzzTranslate: whatever is accepted, objects and MeshConfig, passes Envoy's own validation, and two runs say the same.
func FuzzTranslate(f *testing.F) {
	for _, pattern := range []string{"testdata/golden/*.yaml", "testdata/seeds/*.yaml", "../../../testdata/conformance/cases/*/config.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			f.Fatalf("%s: %v", pattern, err)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			mesh, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "mesh.yaml"))
			f.Add(b, mesh)
			if filepath.Base(filepath.Dir(name)) == "seeds" {
				f.Add(b, []byte(meshSeed))
			}
		}
	}
	f.Fuzz(func(t *testing.T, in, mesh []byte) {
		objs, _ := decode.File("fuzz.yaml", in)
		set := acceptable(objs)
		if m, _ := decode.Mesh("mesh.yaml", mesh); m != nil {
			set = set.WithMesh(m)
		}
		for _, compat := range []bool{false, true} {
			g := inEast()
			g.CompatIstio, g.IPv6, g.Labels = compat, !compat, map[string]string{"app": "a"}
			s, _ := translate.Translate(set, g)
			if err := validate(s); err != nil {
				t.Errorf("Envoy would refuse this: %v", err)
			}
			if again, _ := translate.Translate(set, g); again.Version != s.Version {
				t.Error("two runs differ")
			}
		}
	})
}

// TestSeedsAreServed: what the seeds say reaches translation. A seed that is refused would search nothing.
func TestSeedsAreServed(t *testing.T) {
	if m, issues := decode.Mesh("mesh.yaml", []byte(meshSeed)); m == nil || len(issues) > 0 {
		t.Errorf("meshSeed: %v", issues)
	}
	files, err := filepath.Glob("testdata/seeds/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal("no seeds", err)
	}
	kinds := map[config.Kind]bool{}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		objs := objects(t, string(b))
		for _, o := range objs {
			kinds[o.Kind] = true
			if v := judge.Object(o); v.Rejected || v.Ignored {
				t.Errorf("%s: %s is not served: %v", name, o.Key, v.Issues)
			}
		}
	}
	for _, k := range []config.Kind{config.ServiceEntry, config.DestinationRule, config.VirtualService, config.WorkloadEntry, config.Sidecar, config.Service, config.EndpointSlice, config.Node} {
		if !kinds[k] {
			t.Errorf("no seed has a %s", k)
		}
	}
}

// acceptable makes a set of the objects that may be served: what validation refuses never reaches translation, but by
// `translate --compat istio`, which need not survive Envoy.
func acceptable(objs []*config.Object) *config.Set {
	seen := map[config.Key]bool{}
	var keep []*config.Object
	for _, o := range objs {
		if v := judge.Object(o); !seen[o.Key] && !v.Rejected && !v.Ignored {
			seen[o.Key] = true
			keep = append(keep, o)
		}
	}
	return config.NewSet(keep, nil, nil)
}
