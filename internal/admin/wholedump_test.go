package admin

import (
	"net/http/httptest"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"detour.dev/detour/internal/xds"
)

// TestWholeDump: remembered texts make the same dump as writing all of it, however often and whatever changed.
func TestWholeDump(t *testing.T) {
	host := func(name string) *routev3.VirtualHost {
		return &routev3.VirtualHost{Name: name, Domains: []string{name}}
	}
	a, b := host("a"), host("b \"} \n")
	c := &clusterv3.Cluster{Name: "outbound|80||a"}
	snapshots := []*xds.Snapshot{
		{},
		{Version: "1", Clusters: []*clusterv3.Cluster{c}},
		{Version: "2", Clusters: []*clusterv3.Cluster{c, {Name: "two", AltStatName: "x"}},
			Listeners: []*listenerv3.Listener{{Name: "0.0.0.0_80"}, {Name: "l\"2"}},
			Routes:    []*routev3.RouteConfiguration{{Name: "80", VirtualHosts: []*routev3.VirtualHost{a, b}}, {Name: "81"}}},
		{Version: "3", Clusters: []*clusterv3.Cluster{c},
			Routes: []*routev3.RouteConfiguration{{Name: "80", VirtualHosts: []*routev3.VirtualHost{a, host("c")}, IgnorePortInHostMatching: true}}},
	}
	h := &Handler{opt: Options{Node: &corev3.Node{Id: "x"}}}
	for round := range 2 {
		for _, s := range snapshots {
			d := &dump{snapshot: s, applied: stamp(time.Unix(1, 0))}
			got, want := httptest.NewRecorder(), httptest.NewRecorder()
			if err := h.wholeDump(got, d); err != nil {
				t.Fatal(err)
			}
			writeSections(want, h.sections(d))
			if got.Body.String() != want.Body.String() {
				t.Errorf("round %d, version %s:\n%s\nwant\n%s", round, s.Version, got.Body, want.Body)
			}
		}
	}
}
