package cluster

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"
	commondfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/dynamic_forward_proxy/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/xds"
)

// withZone runs a test in a bubble, with a manager whose names the real discovery looks up in a zone.
func withZone(t *testing.T, names map[string]string, fn func(r *rig, z *zone)) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{addrs: map[string][]netip.Addr{}}
		for name, a := range names {
			z.set(name, a)
		}
		d := discovery.NewStrictDNS(z, discovery.StrictDNSOptions{Log: slog.New(slog.DiscardHandler)})
		defer d.Close()
		r := &rig{t: t, log: &logBuffer{}, down: map[string]lb.Outcome{}}
		r.m = NewManager(Options{Log: r.log.logger(), Discovery: DNS(d)})
		defer r.m.Close()
		fn(r, z)
	})
}

func logicalCluster(change func(*clusterv3.Cluster)) *clusterv3.Cluster {
	c := strictDNSCluster("a", nil, ep{east, 80, "", 0})
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_LOGICAL_DNS}
	//lint:ignore SA1019 istiod and --compat istio send it
	c.RespectDnsTtl = true
	if change != nil {
		change(c)
	}
	return c
}

// A LOGICAL_DNS name is one host. New connections go to the address that the server names first; what cannot be reached is
// passed over, for this request and for the next.
func TestLogicalDNS(t *testing.T) {
	withZone(t, map[string]string{east: "10.1.0.2 10.1.0.1 10.1.0.3"}, func(r *rig, z *zone) {
		r.update(logicalCluster(nil))
		synctest.Wait()
		set := r.m.Get("a").Hosts()
		if n := len(set.Endpoints()); n != 1 {
			t.Fatalf("%d endpoints", n)
		}
		host := set.Endpoints()[0].Host
		at := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := host.Target().String(); got != want {
				t.Errorf("new connections go to %s, want %s", got, want)
			}
		}
		at("10.1.0.2:80")
		r.down["10.1.0.2:80"] = lb.Outcome{Kind: lb.ConnectFailed}
		if got := r.request("a"); got != east || r.sent != 2 {
			t.Errorf("%s after %d attempts", got, r.sent)
		}
		at("10.1.0.3:80") // sorted, from the first on
		r.down["10.1.0.3:80"] = lb.Outcome{Kind: lb.ConnectFailed}
		r.down["10.1.0.1:80"] = lb.Outcome{Kind: lb.ConnectTimeout}
		if got := r.request("a"); got != lb.ErrAllTried.Error() || r.sent != 4 {
			t.Errorf("%s after %d attempts; each address once", got, r.sent)
		}
		clear(r.down)
		z.set(east, "10.1.0.1 10.1.0.2 10.1.0.3") // the server rotates
		time.Sleep(6 * time.Second)
		at("10.1.0.1:80")
		z.set(east, "10.9.0.9")
		time.Sleep(6 * time.Second)
		at("10.9.0.9:80")
		if got := r.table("a"); !slices.Equal(got, []string{"10.9.0.9:80 HEALTHY OK"}) {
			t.Errorf("shown as %v", got)
		}
		if now := r.m.Get("a").Hosts().Endpoints()[0].Host; now != host || host.Removed() {
			t.Error("the host did not outlive its addresses")
		}
	})
}

func TestLogicalDNSHasOneEndpoint(t *testing.T) {
	withZone(t, nil, func(r *rig, _ *zone) {
		two := logicalCluster(func(c *clusterv3.Cluster) {
			c.LoadAssignment = assignmentOf("a", ep{east, 80, "", 0}, ep{west, 80, "", 0})
		})
		if rej := r.m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{two}}); len(rej) != 1 {
			t.Errorf("rejected %v", rej)
		}
	})
}

func dynamicCluster(t *testing.T, cache *commondfpv3.DnsCacheConfig) *clusterv3.Cluster {
	cache.Name = "c"
	typed, err := anypb.New(&dfpv3.ClusterConfig{ClusterImplementationSpecifier: &dfpv3.ClusterConfig_DnsCacheConfig{DnsCacheConfig: cache}})
	if err != nil {
		t.Fatal(err)
	}
	return &clusterv3.Cluster{Name: "a", LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED, ClusterDiscoveryType: &clusterv3.Cluster_ClusterType{
		ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.clusters.dynamic_forward_proxy", TypedConfig: typed}}}
}

// resolve waits for a name in a bubble.
func (r *rig) resolve(key string) error {
	done := make(chan error, 1)
	r.m.Get("a").Resolve(key, func(err error) { done <- err })
	return <-done
}

// A dynamic forward proxy makes hosts of the names it is asked for, no more than max_hosts, and forgets them after host_ttl.
func TestDynamicForwardProxy(t *testing.T) {
	withZone(t, map[string]string{"a.example.com": "10.0.0.2 10.0.0.1", "b.example.com": "10.0.0.3"}, func(r *rig, z *zone) {
		r.update(dynamicCluster(t, &commondfpv3.DnsCacheConfig{MaxHosts: wrapperspb.UInt32(3), HostTtl: durationpb.New(time.Minute)}))
		c := r.m.Get("a")
		key := c.DynamicKey("A.example.com.", 0)
		if key != "a.example.com:80" {
			t.Errorf("key %s", key)
		}
		in := &lb.PickInfo{Now: time.Now(), Name: key}
		if _, err := c.Pick(in); !errors.Is(err, lb.ErrNoHosts) {
			t.Errorf("picked before it was looked up: %v", err)
		}
		if err := r.resolve(key); err != nil {
			t.Fatal(err)
		}
		res, err := c.Pick(in)
		if err != nil || res.Endpoint.Target() != netip.MustParseAddrPort("10.0.0.2:80") || res.Endpoint.Hostname != "a.example.com" {
			t.Fatalf("%v, %v", res.Endpoint, err)
		}
		res.Done(lb.Outcome{Now: time.Now(), Kind: lb.ConnectFailed})
		in.Tried = append(in.Tried, res.Endpoint.Host)
		if res, err = c.Pick(in); err != nil || res.Endpoint.Target().Addr().String() != "10.0.0.1" {
			t.Fatalf("%v, %v", res.Endpoint, err)
		}
		for _, tc := range []struct {
			key  string
			want error
		}{{"nowhere.example.com:80", lb.ErrNoHosts}, {"nowhere.example.com:80", lb.ErrNoHosts}, {"10.0.0.9:8080", nil},
			{"b.example.com:80", lb.ErrOverflow}, {"no port", lb.ErrNoHosts}, {":80", lb.ErrNoHosts}, {"x:0", lb.ErrNoHosts}, {"x:70000", lb.ErrNoHosts}} {
			if err := r.resolve(tc.key); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", tc.key, err, tc.want)
			}
		}
		if got := r.table("a"); !slices.Equal(got, []string{"10.0.0.9:8080 HEALTHY OK", "10.0.0.1:80 HEALTHY OK"}) {
			t.Errorf("hosts %v", got)
		}
		time.Sleep(2*time.Minute + time.Second) // the one with a request stays
		if got := r.table("a"); !slices.Equal(got, []string{"10.0.0.1:80 HEALTHY OK"}) {
			t.Errorf("after host_ttl: %v", got)
		}
		res.Done(lb.Outcome{Now: time.Now(), Kind: lb.Response, Status: 200})
		if err := r.resolve("b.example.com:80"); err != nil {
			t.Errorf("there is room again: %v", err)
		}
	})
}

func TestDynamicKey(t *testing.T) {
	withZone(t, nil, func(r *rig, _ *zone) {
		r.update(dynamicCluster(t, &commondfpv3.DnsCacheConfig{}))
		for _, tc := range []struct {
			authority string
			port      uint16
			want      string
		}{{"Host", 0, "host:80"}, {"host:8080", 0, "host:8080"}, {"host", 443, "host:443"}, {"[::1]", 0, "[::1]:80"}, {"[::1]:9", 0, "[::1]:9"}, {"::1", 0, "[::1]:80"}} {
			if got := r.m.Get("a").DynamicKey(tc.authority, tc.port); got != tc.want {
				t.Errorf("%s: %s, want %s", tc.authority, got, tc.want)
			}
		}
	})
}

// TestDynamicPending: no more requests wait for a first look-up than dns_cache_circuit_breaker allows; names that are known take
// no place.
func TestDynamicPending(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.update(dynamicCluster(t, &commondfpv3.DnsCacheConfig{DnsCacheCircuitBreaker: &commondfpv3.DnsCacheCircuitBreakers{MaxPendingRequests: wrapperspb.UInt32(2)}}))
		c := r.m.Get("a")
		ended := make(chan error, 4)
		for _, name := range []string{"x.test:80", "x.test:80", "x.test:80", "y.test:80"} { // nobody answers for them
			c.Resolve(name, func(err error) { ended <- err })
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, ErrPendingOverflow) {
				t.Errorf("one too many: %v", err)
			}
		}
		if err := r.resolve("10.0.0.1:80"); !errors.Is(err, ErrPendingOverflow) {
			t.Errorf("one that is not known yet: %v", err)
		}
		st := c.Stats()
		if st.UpstreamRqPendActive.Value() != 2 || st.UpstreamRqPendTotal.Value() != 2 || st.UpstreamRqPendOver.Value() != 3 {
			t.Errorf("%d wait, of %d, and %d may not", st.UpstreamRqPendActive.Value(), st.UpstreamRqPendTotal.Value(), st.UpstreamRqPendOver.Value())
		}
		for range 2 {
			if err := <-ended; !errors.Is(err, lb.ErrNoHosts) { // after dns_query_timeout
				t.Error(err)
			}
		}
		if err := r.resolve("10.0.0.1:80"); err != nil || st.UpstreamRqPendActive.Value() != 0 {
			t.Errorf("%v, while %d wait", err, st.UpstreamRqPendActive.Value())
		}
	})
}

// TestDynamicOutlier: names of a dynamic forward proxy are ejected like other hosts. Nobody else serves them, so that requests go
// there all the same; an Envoy's find no healthy upstream.
func TestDynamicOutlier(t *testing.T) {
	for _, compat := range []bool{false, true} {
		m := NewManager(Options{Log: slog.New(slog.DiscardHandler), Discovery: newFakeDNS(nil), CompatEnvoy: compat})
		proxy := dynamicCluster(t, &commondfpv3.DnsCacheConfig{})
		proxy.OutlierDetection = outlierDetection()
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{proxy}})
		c := m.Get("a")
		for _, key := range []string{"10.0.0.1:80", "10.0.0.2:80"} {
			c.Resolve(key, func(err error) {
				if err != nil {
					t.Error(err)
				}
			})
		}
		pick := func(key string) (lb.Result, error) { return c.Pick(&lb.PickInfo{Now: time.Now(), Name: key}) }
		res, err := pick("10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		res.Done(lb.Outcome{Now: time.Now(), Kind: lb.Response, Status: 503})
		if n := c.Stats().OutlierDetection.EjectionsActive.Value(); n != 1 {
			t.Errorf("%d ejected", n)
		}
		res, err = pick("10.0.0.1:80")
		if compat && !errors.Is(err, lb.ErrNoHealthyHost) || !compat && (err != nil || !res.LastResort) {
			t.Errorf("compat %v: %v, last resort %v", compat, err, res.LastResort)
		}
		if err == nil {
			res.Done(lb.Outcome{Now: time.Now(), Kind: lb.Response, Status: 200})
		}
		if other, err := pick("10.0.0.2:80"); err != nil || other.LastResort {
			t.Error("the other name is concerned too:", err)
		} else {
			other.Done(lb.Outcome{})
		}
		plain := edsCluster("a", nil)
		if rej := m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{plain}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", ep{"10.0.0.3", 80, "", 0})}}); len(rej) > 0 {
			t.Fatal(rej)
		}
		if n := c.Stats().OutlierDetection.EjectionsActive.Value(); n != 0 {
			t.Errorf("%d ejected of names that are gone", n)
		}
		m.Close()
	}
}
