package router

import (
	"log/slog"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/buffer"
	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/codec/http1"
	"detour.dev/detour/internal/dataplane/event"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/proxyerr"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/xds"
)

// waiter is a request that can do nothing but wait for a connection, and end.
type waiter struct {
	Stream
	head   http1.Head
	body   buffer.Window
	info   streaminfo.Info
	router Router
	failed func()
}

func (w *waiter) Request() *http1.Head   { return &w.head }
func (w *waiter) Body() *buffer.Window   { return &w.body }
func (w *waiter) Complete() bool         { return true }
func (w *waiter) Info() *streaminfo.Info { return &w.info }
func (w *waiter) Fail(*proxyerr.Error)   { w.failed() }

// TestQueueLooksInTurn: requests that wait for a connection look for room at times of their own; whoever looks first when
// there is some, those that came before go first.
func TestQueueLooksInTurn(t *testing.T) {
	clusters := cluster.NewManager(cluster.Options{Log: slog.New(slog.DiscardHandler)})
	defer clusters.Close()
	endpoints := func(eps ...*endpointv3.LbEndpoint) {
		c := &clusterv3.Cluster{Name: "a", ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
			CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{MaxConnections: wrapperspb.UInt32(1)}}}}
		a := &endpointv3.ClusterLoadAssignment{ClusterName: "a", Endpoints: []*endpointv3.LocalityLbEndpoints{{LbEndpoints: eps}}}
		if rej := clusters.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}, Endpoints: []*endpointv3.ClusterLoadAssignment{a}}); len(rej) > 0 {
			t.Fatal(rej)
		}
	}
	endpoints(&endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: &corev3.Address{
		Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{Address: "192.0.2.1", PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: 80}}}}}}})
	c := clusters.Get("a")
	if !c.Breaker().Connections.TryAcquire() {
		t.Fatal("no place")
	}
	d := event.NewManual(time.Unix(1_800_000_000, 0))
	pools := &upstream.Pools{D: d, Clusters: clusters, Log: slog.New(slog.DiscardHandler)}
	var order []int
	for i := range 4 {
		w := &waiter{failed: func() { order = append(order, i) }}
		w.router.Start(w, pools, &route.Route{Retry: route.Retry{Mode: route.RetryDefault}}, c, lb.PickInfo{})
		if w.router.phase != queued {
			t.Fatalf("request %d does not wait", i)
		}
		d.Advance(lookAgain * 2 / 3)
	}
	d.Advance(10 * lookAgain)
	endpoints() // where they would connect to, each fails at once instead, and leaves the room to the next
	c.Breaker().Connections.Release()
	if len(order) > 0 {
		t.Errorf("%v did not wait", order)
	}
	for range 20 {
		d.Advance(lookAgain / 20)
	}
	if len(order) == 0 || order[0] != 0 {
		t.Errorf("%v went first", order)
	}
	d.Advance(10 * lookAgain)
	if !slices.Equal(order, []int{0, 1, 2, 3}) {
		t.Errorf("they went in the order %v", order)
	}
}
