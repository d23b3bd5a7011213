package admin

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeState shows what a real Envoy 1.40 showed (testdata/envoy).
type fakeState struct {
	snapshot  *xds.Snapshot
	clusters  *adminv3.Clusters
	listeners *adminv3.Listeners
	endpoints []*endpointv3.ClusterLoadAssignment
	rejected  []Rejected
	hosts     []Host
	state     adminv3.ServerInfo_State
	drained   int
	quit      int
}

type assigned struct {
	e *endpointv3.ClusterLoadAssignment
}

func (a assigned) EndpointsName() string                        { return a.e.GetClusterName() }
func (a assigned) EndpointsVersion() any                        { return a.e }
func (a assigned) Endpoints() *endpointv3.ClusterLoadAssignment { return a.e }

var applied = time.Date(2026, 11, 22, 17, 43, 37, 599e6, time.UTC)

func (f *fakeState) Snapshot() (*xds.Snapshot, time.Time) { return f.snapshot, applied }
func (f *fakeState) Clusters() *adminv3.Clusters          { return f.clusters }
func (f *fakeState) Listeners() *adminv3.Listeners        { return f.listeners }
func (f *fakeState) Endpoints() (out []Assigned) {
	for _, e := range f.endpoints {
		out = append(out, assigned{e})
	}
	return out
}
func (f *fakeState) Hosts() []Host                         { return f.hosts }
func (f *fakeState) Rejected() []Rejected                  { return f.rejected }
func (f *fakeState) ServerState() adminv3.ServerInfo_State { return f.state }
func (f *fakeState) Drain()                                { f.drained++ }
func (f *fakeState) Quit()                                 { f.quit++ }

func golden(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "envoy", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, b []byte, m proto.Message) {
	t.Helper()
	if err := protojson.Unmarshal(b, m); err != nil {
		t.Fatal(err)
	}
}

// envoyState builds a state from the golden files of a real Envoy.
func envoyState(t testing.TB) *fakeState {
	t.Helper()
	f := &fakeState{
		snapshot:  &xds.Snapshot{Version: "1"},
		clusters:  &adminv3.Clusters{},
		listeners: &adminv3.Listeners{},
	}
	decode(t, golden(t, "clusters.json"), f.clusters)
	decode(t, golden(t, "listeners.json"), f.listeners)
	d := &adminv3.ConfigDump{}
	decode(t, golden(t, "config_dump_eds.json"), d)
	for _, a := range d.Configs {
		m, err := a.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		switch m := m.(type) {
		case *adminv3.ClustersConfigDump:
			for _, c := range m.DynamicActiveClusters {
				x := &clusterv3.Cluster{}
				unpack(t, c.Cluster.UnmarshalTo(x))
				f.snapshot.Clusters = append(f.snapshot.Clusters, x)
			}
		case *adminv3.EndpointsConfigDump:
			for _, c := range m.DynamicEndpointConfigs {
				x := &endpointv3.ClusterLoadAssignment{}
				unpack(t, c.EndpointConfig.UnmarshalTo(x))
				f.endpoints = append(f.endpoints, x)
			}
		case *adminv3.ListenersConfigDump:
			for _, c := range m.DynamicListeners {
				if c.ActiveState == nil {
					continue
				}
				x := &listenerv3.Listener{}
				unpack(t, c.ActiveState.Listener.UnmarshalTo(x))
				f.snapshot.Listeners = append(f.snapshot.Listeners, x)
			}
		case *adminv3.RoutesConfigDump:
			for _, c := range m.DynamicRouteConfigs {
				x := &routev3.RouteConfiguration{}
				unpack(t, c.RouteConfig.UnmarshalTo(x))
				f.snapshot.Routes = append(f.snapshot.Routes, x)
			}
		}
	}
	return f
}

func unpack(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func handler(s State) *Handler {
	return NewHandler(s, Options{Version: "v0.1.0", Args: []string{"detour", "run", "--", "curl", "-H", "Authorization: secret"}, Stats: stats.NewRegistry()})
}

// ask sends one request to a handler.
func ask(h http.Handler, method, target string, edit ...func(*http.Request)) (status int, body string) {
	r := httptest.NewRequest(method, target, nil)
	r.Host = "127.0.0.1:15000"
	for _, e := range edit {
		e(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	b, _ := io.ReadAll(w.Result().Body)
	return w.Code, string(b)
}

func parse(t testing.TB, s string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("%v in %.200s", err, s)
	}
	return v
}

func mustContain(t *testing.T, body string, words ...string) {
	t.Helper()
	for _, w := range words {
		if !strings.Contains(body, w) {
			t.Errorf("%q is not in:\n%s", w, body)
		}
	}
}
