package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dns"
	"detour.dev/detour/internal/xds"
)

func edsCluster(name string, change func(*clusterv3.Cluster)) *clusterv3.Cluster {
	c := strictDNSCluster(name, outlierDetection())
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS}
	c.LoadAssignment = nil
	if change != nil {
		change(c)
	}
	return c
}

// A refused cluster or assignment keeps its last good version, alone; one that is new is left out.
func TestLastGoodStays(t *testing.T) {
	m := NewManager(Options{})
	defer m.Close()
	good := assignmentOf("a", ep{"10.0.0.1", 80, "", 0})
	snap := func(c *clusterv3.Cluster, a *endpointv3.ClusterLoadAssignment) *xds.Snapshot {
		return &xds.Snapshot{Clusters: []*clusterv3.Cluster{c, edsCluster("b", nil)}, Endpoints: []*endpointv3.ClusterLoadAssignment{
			a, assignmentOf("b", ep{"10.0.0.2", 80, "", 0})}}
	}
	if rej := m.Update(snap(edsCluster("a", nil), good)); len(rej) != 0 {
		t.Fatal(rej)
	}
	a := m.Get("a")
	for _, tc := range []struct {
		name, typ, reason string
		c                 func(*clusterv3.Cluster)
		a                 *endpointv3.ClusterLoadAssignment
	}{
		{"algorithm", "Cluster", "lb_policy: LOAD_BALANCING_POLICY_CONFIG", func(c *clusterv3.Cluster) { c.LbPolicy = clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG }, good},
		{"type", "Cluster", "cluster_type: envoy.clusters.redis", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{Name: "envoy.clusters.redis"}}
		}, good},
		{"no resolver", "Cluster", "needs a resolver", func(c *clusterv3.Cluster) {
			c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS}
		}, good},
		{"outlier detection", "Cluster", "outlier_detection.interval", func(c *clusterv3.Cluster) { c.OutlierDetection.Interval = &durationpb.Duration{} }, good},
		{"a name where EDS must have an address", "ClusterLoadAssignment", `"example.com" is not an IP`, nil, assignmentOf("a", ep{"example.com", 80, "", 0})},
		{"port", "ClusterLoadAssignment", "70000 is not a port", nil, assignmentOf("a", ep{"10.0.0.1", 70000, "", 0})},
		{"priority", "ClusterLoadAssignment", "priority: 200", nil, assignmentOf("a", ep{"10.0.0.1", 80, "", 200})},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rej := m.Update(snap(edsCluster("a", tc.c), tc.a))
			if len(rej) != 1 || rej[0].Name != "a" || !strings.HasSuffix(rej[0].TypeURL, "."+tc.typ) || !strings.Contains(rej[0].Reason, tc.reason) {
				t.Errorf("rejected %v", rej)
			}
			if m.Get("a") != a || m.Get("b") == nil {
				t.Error("the last good version is gone, or the neighbour with it")
			}
		})
	}
	m.Update(&xds.Snapshot{})
	if m.Get("a") != nil || len(m.Clusters()) != 0 {
		t.Error("a removed cluster is still there")
	}
	if rej := m.Update(snap(edsCluster("a", func(c *clusterv3.Cluster) { c.LbPolicy = clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG }), good)); len(rej) != 1 || m.Get("a") != nil {
		t.Errorf("a bad new cluster: %v, %v", rej, m.Get("a"))
	}
}

// Hosts, their health, and the version of the cluster live on as far as nothing about them changed.
func TestReloadAdopts(t *testing.T) {
	m := NewManager(Options{})
	defer m.Close()
	var removed []string
	m.OnRemove(func(h *lb.Host) { removed = append(removed, h.String()) })
	update := func(timeout time.Duration, eps ...ep) *Cluster {
		c := edsCluster("a", func(c *clusterv3.Cluster) { c.ConnectTimeout = durationpb.New(timeout) })
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", eps...)}})
		return m.Get("a")
	}
	one, two, three := ep{"10.0.0.1", 80, "", 0}, ep{"10.0.0.2", 80, "", 1}, ep{"10.0.0.3", 80, "", 1}
	first := update(time.Second, one, two)
	res, err := first.Pick(&lb.PickInfo{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	h := res.Endpoint.Host

	if same := update(time.Second, one, two, three); same != first || len(same.Hosts().Endpoints()) != 3 {
		t.Error("new endpoints alone made a new version, or are missing")
	}
	next := update(2*time.Second, one, three)
	if next == first || next.Config().ConnectTimeout != 2*time.Second || first.Config().ConnectTimeout != time.Second {
		t.Error("another timeout did not make a new version")
	}
	if next.Hosts().Endpoints()[0].Host != h || h.Stats.RqActive.Value() != 1 {
		t.Error("the host was not adopted with what is in flight")
	}
	if fmt.Sprint(removed) != "[10.0.0.2:80]" {
		t.Errorf("removed %v", removed)
	}
	// The request in flight ends on the old version; its failure ejects on the new.
	res.Done(lb.Outcome{Now: time.Now(), Kind: lb.Reset})
	if h.Stats.RqActive.Value() != 0 || !h.Ejected() {
		t.Error("an attempt of the old version was lost")
	}
	for range 20 {
		for _, c := range []*Cluster{first, next} {
			r, err := c.Pick(&lb.PickInfo{Now: time.Now()})
			if err != nil || r.Endpoint.Host == h {
				t.Fatalf("picked %v, %v", r.Endpoint, err)
			}
			r.Done(lb.Outcome{})
		}
	}
	if n := next.Stats().OutlierDetection.EjectionsActive.Value(); n != 1 {
		t.Errorf("ejections_active %d", n)
	}
	back := update(2*time.Second, two, three)
	if back.Stats().OutlierDetection.EjectionsActive.Value() != 0 {
		t.Error("an ejected host that left still counts as ejected")
	}
	if again := update(2*time.Second, one, three); again.Hosts().Endpoints()[0].Host != h || !h.Ejected() || h.Removed() {
		t.Error("an ejected host that came back was well again for it")
	}
	noOD := edsCluster("a", func(c *clusterv3.Cluster) { c.OutlierDetection = nil })
	m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{noOD}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", one, three)}})
	if h.Ejected() {
		t.Error("still ejected without outlierDetection")
	}
}

// E5: an ejection outlives the rotation of a name's addresses.
func TestEjectionOutlivesRotation(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.down["10.1.0.1:80"] = refused
		r.want(1, west)
		r.dns.set(east, "10.1.0.7")
		r.want(5, west)
		r.wantTable("10.1.0.7:80 HEALTHY FAILED", "10.2.0.1:80 HEALTHY OK")
		time.Sleep(75 * time.Second)
		synctest.Wait()
		r.want(5, east)

		// Of two addresses one is ejected: a third is given its chance.
		r.dns.set(east, "10.1.0.7 10.1.0.8")
		r.down["10.1.0.7:80"] = refused
		r.requests(mydb, 30)
		r.dns.set(east, "10.1.0.7 10.1.0.8 10.1.0.9")
		r.wantTable("10.1.0.7:80 HEALTHY FAILED", "10.1.0.8:80 HEALTHY OK", "10.1.0.9:80 HEALTHY OK", "10.2.0.1:80 HEALTHY OK")
	})
}

// An ejection is not inherited where that would leave nobody.
func TestRotationNeverEjectsTheLast(t *testing.T) {
	inBubble(t, func(r *rig) {
		od := outlierDetection()
		od.MaxEjectionPercent = wrapperspb.UInt32(100)
		r.update(strictDNSCluster(mydb, od, ep{east, 80, "us-east1", 0}))
		synctest.Wait()
		r.down["10.1.0.1:80"] = lb.Outcome{Kind: lb.Response, Status: 503}
		r.request(mydb)
		r.wantTable("10.1.0.1:80 HEALTHY FAILED")
		r.dns.set(east, "10.1.0.2 10.1.0.3")
		r.want(3, east)
		r.wantTable("10.1.0.2:80 HEALTHY OK", "10.1.0.3:80 HEALTHY OK")
	})
}

// Nor does a change of the endpoints leave ejected ones alone.
func TestRemovalSparesOne(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.down["10.1.0.1:80"] = refused
		r.want(5, west)
		delete(r.down, "10.1.0.1:80")
		r.update(strictDNSCluster(mydb, outlierDetection(), ep{east, 80, "us-east1", 0}))
		r.want(5, east)
		r.wantTable("10.1.0.1:80 HEALTHY OK")
	})
}

// Two names with one address are two hosts; the same address twice in one name is one.
func TestSameAddress(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.dns.set(west, "10.1.0.1 10.1.0.1")
		r.step2(80)
		r.wantTable("10.1.0.1:80 HEALTHY OK", "10.1.0.1:80 HEALTHY OK")
		eps := r.m.Get(mydb).Hosts().Endpoints()
		if eps[0].Hostname != east || eps[1].Hostname != west || eps[0].Host == eps[1].Host {
			t.Errorf("hosts %+v %+v", eps[0].Host, eps[1].Host)
		}
	})
}

func TestWaitFirst(t *testing.T) {
	inBubble(t, func(r *rig) {
		delete(r.dns.answers, west) // the far one does not resolve
		r.step2(80)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		r.m.WaitFirst(ctx)
		if d := time.Since(begin); d != restFor {
			t.Errorf("waited %v although the nearest name is there, want %v for the other", d, restFor)
		}
		r.update(strictDNSCluster(mydb, nil, ep{west, 80, "us-west", 1}))
		r.m.WaitFirst(ctx)
		if d := time.Since(begin); d != 2*time.Second {
			t.Errorf("waited %v for a name without an answer, want 2s", d)
		}
		if got := r.request(mydb); got != lb.ErrNoHosts.Error() {
			t.Errorf("a cluster without any address: %s", got)
		}
	})
}

// A failure to connect asks DNS again; a new address list ends the watch of names that left.
func TestRefreshAndUnwatch(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		r.down["10.1.0.1:80"] = refused
		r.request(mydb)
		if r.dns.asked[east] != 1 || r.dns.asked[west] != 0 {
			t.Errorf("looked up again: %v", r.dns.asked)
		}
		r.m.Refresh(r.m.Get(mydb).Hosts().Endpoints()[1].Host)
		if r.dns.asked[west] != 1 {
			t.Errorf("Refresh did not ask: %v", r.dns.asked)
		}
		r.update(strictDNSCluster(mydb, outlierDetection(), ep{west, 80, "us-west", 0}))
		if n := len(r.dns.watches); n != 1 {
			t.Errorf("%d watches, want 1", n)
		}
		r.update()
		if n := len(r.dns.watches); n != 0 {
			t.Errorf("%d watches after the cluster left", n)
		}
	})
}

func TestOnEject(t *testing.T) {
	inBubble(t, func(r *rig) {
		var got []string
		r.m.OnEject(func(h *lb.Host) {
			if !h.Ejected() {
				t.Error("told of an ejection before it was there")
			}
			got = append(got, h.String())
		})
		r.step2(80)
		r.down["10.1.0.1:80"] = refused
		r.want(5, west)
		if fmt.Sprint(got) != "[10.1.0.1:80]" {
			t.Errorf("ejected %v", got)
		}
	})
}

func TestDNSOptions(t *testing.T) {
	for _, tc := range []struct {
		name   string
		c      func(*clusterv3.Cluster)
		family dns.Family
		rate   time.Duration
		ttl    bool
	}{
		{"istiod's", func(c *clusterv3.Cluster) {
			//lint:ignore SA1019 as istiod sends it
			c.DnsRefreshRate, c.RespectDnsTtl, c.DnsLookupFamily = durationpb.New(time.Minute), true, clusterv3.Cluster_V4_ONLY
		}, dns.V4, time.Minute, true},
		{"deprecated, v6", func(c *clusterv3.Cluster) { c.DnsLookupFamily = clusterv3.Cluster_V6_ONLY }, dns.V6, 5 * time.Second, false},
		{"typed", func(c *clusterv3.Cluster) {
			any, err := anypb.New(&dnsv3.DnsCluster{DnsRefreshRate: durationpb.New(time.Minute), RespectDnsTtl: true,
				DnsLookupFamily: 5}) // ALL
			if err != nil {
				t.Fatal(err)
			}
			c.ClusterDiscoveryType = &clusterv3.Cluster_ClusterType{ClusterType: &clusterv3.Cluster_CustomClusterType{
				Name: "envoy.cluster.dns", TypedConfig: any}}
		}, dns.All, time.Minute, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := strictDNSCluster("a", nil)
			tc.c(c)
			cfg, err := compile(c, &Options{})
			if err != nil {
				t.Fatal(err)
			}
			if cfg.Type != StrictDNS || cfg.dns.Family != tc.family || cfg.dns.RefreshRate != tc.rate || cfg.dns.RespectTTL != tc.ttl {
				t.Errorf("%+v", cfg.dns)
			}
		})
	}
}

func TestCircuitBreaker(t *testing.T) {
	m := NewManager(Options{})
	defer m.Close()
	set := func(n uint32) {
		c := edsCluster("a", func(c *clusterv3.Cluster) {
			c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{
				{Priority: corev3.RoutingPriority_HIGH, MaxRequests: wrapperspb.UInt32(1)}, {MaxRequests: wrapperspb.UInt32(n)}}}
		})
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", ep{"10.0.0.1", 80, "", 0})}})
	}
	set(2)
	pick := func() (lb.Result, error) { return m.Get("a").Pick(&lb.PickInfo{Now: time.Now()}) }
	one, _ := pick()
	two, _ := pick()
	open := &m.Get("a").Stats().CircuitBreakers.RqOpen
	if _, err := pick(); !errors.Is(err, lb.ErrOverflow) || open.Value() != 1 {
		t.Errorf("a third request: %v, rq_open %d", err, open.Value())
	}
	m.collect()
	if st := &m.Get("a").Stats().CircuitBreakers; st.RemainingRq.Value() != 0 || st.RemainingCx.Value() != 1024 || st.RemainingRetries.Value() != 3 {
		t.Errorf("%d requests, %d connections, %d retries remain", st.RemainingRq.Value(), st.RemainingCx.Value(), st.RemainingRetries.Value())
	}
	set(3) // what is in flight counts on
	three, err := pick()
	if err != nil {
		t.Error(err)
	}
	for _, r := range []*lb.Result{&one, &two, &three} {
		r.Done(lb.Outcome{})
	}
	if b := m.Get("a").Breaker(); b.Requests.Active() != 0 || open.Value() != 0 {
		t.Errorf("%d active, rq_open %d after all ended", b.Requests.Active(), open.Value())
	}
	if l := m.Get("a").Config().Limits; l.MaxConnections != 1024 || l.MaxRetries != 3 {
		t.Errorf("limits %+v", l)
	}
	set(math.MaxUint32)
	if _, err := pick(); err != nil {
		t.Error(err)
	}
}

func TestOriginalDst(t *testing.T) {
	m := NewManager(Options{})
	defer m.Close()
	c := &clusterv3.Cluster{Name: "PassthroughCluster", LbPolicy: clusterv3.Cluster_CLUSTER_PROVIDED,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}}
	if rej := m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}}); len(rej) != 0 {
		t.Fatal(rej)
	}
	p, at := m.Get("PassthroughCluster"), time.Unix(1_800_000_000, 0)
	pick := func(addr string) (lb.Result, error) {
		return p.Pick(&lb.PickInfo{Now: at, OriginalDst: netip.MustParseAddrPort(addr)})
	}
	a, err := pick("192.0.2.1:99")
	if err != nil || a.Endpoint.String() != "192.0.2.1:99" {
		t.Fatalf("%v %v", a, err)
	}
	b, _ := pick("192.0.2.1:99")
	if a.Endpoint.Host != b.Endpoint.Host || a.Endpoint.Stats.RqActive.Value() != 2 {
		t.Error("one address, two hosts")
	}
	if _, err := p.Pick(&lb.PickInfo{Now: at}); !errors.Is(err, lb.ErrNoOriginalDst) {
		t.Errorf("without an address: %v", err)
	}
	b.Done(lb.Outcome{})
	for i := range 2 * maxOriginalDst { // an application that scans
		r, err := pick(fmt.Sprintf("10.%d.%d.%d:80", i>>16, i>>8&255, i&255))
		if err != nil {
			t.Fatal(err)
		}
		r.Done(lb.Outcome{Now: at, Kind: lb.ConnectFailed})
	}
	if n := len(p.Status().HostStatuses); n != maxOriginalDst {
		t.Errorf("%d addresses remembered, want %d", n, maxOriginalDst)
	}
	at = at.Add(6 * time.Second)
	if r, err := pick("192.0.2.2:99"); err != nil {
		t.Error(err)
	} else {
		r.Done(lb.Outcome{})
	}
	if n := len(p.Status().HostStatuses); n != 2 { // the one in use and the new one
		t.Errorf("%d addresses after the clean-up", n)
	}
}

func TestBudgets(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	b := newRetryBudget()
	for range 3 {
		if !b.TryAcquire(at) {
			t.Fatal("three at once are always allowed")
		}
	}
	if b.TryAcquire(at) {
		t.Error("a fourth without any request")
	}
	for range 100 {
		b.Count(at)
	}
	n := 3
	for b.TryAcquire(at) {
		n++
	}
	if n != 20 {
		t.Errorf("%d retries for 100 requests, want 20", n)
	}
	for range n {
		b.Release()
	}
	if b.InFlight() != 0 || !b.TryAcquire(at) {
		t.Error("none in flight, and none allowed")
	}
	b.Release()
	at = at.Add((windowSeconds - 1) * time.Second)
	if got := b.base.sum(at); got != 100 {
		t.Errorf("%d requests in the last 10 s, want 100", got)
	}
	at = at.Add(time.Second)
	if got := b.base.sum(at) + b.spent.sum(at); got != 0 {
		t.Errorf("%d requests and retries in the last 10 s, want none", got)
	}

	h := newHedgeBudget()
	for i := range 10 {
		if !h.TryAcquire(at) {
			t.Fatalf("hedge %d of 10 refused", i)
		}
		h.Release()
	}
	if h.TryAcquire(at) {
		t.Error("an eleventh hedge without dials")
	}
	for range 110 {
		h.Count(at)
	}
	if !h.TryAcquire(at) || h.TryAcquire(at) {
		t.Error("110 dials allow 11 hedges")
	}
}

// Pick counts first attempts into the retry budget, and only those.
func TestPickCountsRequests(t *testing.T) {
	m, c := benchCluster(2)
	defer m.Close()
	in := &lb.PickInfo{Now: time.Unix(1_800_000_000, 0)}
	for range 10 {
		serve(c, in)
	}
	in.Tried = []*lb.Host{c.Hosts().Endpoints()[0].Host}
	serve(c, in)
	if n := c.Retry().base.sum(in.Now); n != 10 {
		t.Errorf("%d requests counted, want 10", n)
	}
}

// A live change to names that DNS has not answered for yet does not leave a gap: the old state serves until it has.
func TestNewNamesAreAwaited(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.step2(80)
		const other = "dynamodb.eu-west-1.amazonaws.com"
		next := strictDNSCluster(mydb, outlierDetection(), ep{other, 80, "eu", 0})
		changed := make(chan time.Duration)
		go func() {
			begin := time.Now()
			r.update(next)
			changed <- time.Since(begin)
		}()
		time.Sleep(80 * time.Millisecond)
		r.want(5, east)
		r.dns.set(other, "10.3.0.1")
		if d := <-changed; d != 80*time.Millisecond {
			t.Errorf("the change took %v", d)
		}
		r.want(5, other)

		begin := time.Now() // a name that never answers
		r.update(strictDNSCluster(mydb, outlierDetection(), ep{other, 80, "eu", 0}, ep{"no.example", 80, "eu", 0}))
		if d := time.Since(begin); d != warmFor {
			t.Errorf("waited %v, want %v", d, warmFor)
		}
		r.want(5, other)
		if c := r.m.Get(mydb); func() bool { r.update(c.Config().Proto); return r.m.Get(mydb) != c }() {
			t.Error("an update without a change made a new version")
		}
	})
}

// TestLargeRing: a new ring of 32,768 hashes is there before the configuration serves; after an ejection it is made while
// requests go on, and then is the one that the endpoints left give.
func TestLargeRing(t *testing.T) {
	start := func(change func(*clusterv3.Cluster), eps ...ep) *Manager {
		m := NewManager(Options{Log: slog.New(slog.DiscardHandler)})
		t.Cleanup(m.Close)
		c := edsCluster("a", func(c *clusterv3.Cluster) {
			c.LbPolicy = clusterv3.Cluster_RING_HASH
			c.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(1 << 15)}}
			change(c)
		})
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", eps...)}})
		if !m.Get("a").Hosts().Complete() {
			t.Error("it serves without its ring")
		}
		return m
	}
	hosts := []ep{{"10.0.0.1", 80, "", 0}, {"10.0.0.2", 80, "", 0}, {"10.0.0.3", 80, "", 0}, {"10.0.0.4", 80, "", 0}}
	m := start(func(c *clusterv3.Cluster) { c.OutlierDetection = outlierDetection() }, hosts...)
	want := start(func(*clusterv3.Cluster) {}, hosts[1:]...)
	for m.Get("a").Hosts().Healthy() == len(hosts) {
		in := &lb.PickInfo{Now: time.Now()}
		res, err := m.Get("a").Pick(in)
		if err != nil {
			t.Fatal(err)
		}
		status := 200
		if res.Endpoint.Address.Addr().String() == "10.0.0.1" {
			status = 503
		}
		res.Done(lb.Outcome{Now: time.Now(), Kind: lb.Response, Status: status})
	}
	m.Get("a").live.waits.Wait()
	if !m.Get("a").Hosts().Complete() {
		t.Fatal("nobody makes the ring")
	}
	for hash := range uint64(1000) {
		in := lb.PickInfo{Now: time.Now(), Hash: hash << 54, HasHash: true}
		if a, b := pickAddress(t, m, new(in)), pickAddress(t, want, new(in)); a != b {
			t.Fatalf("hash %d: %s, want %s", hash, a, b)
		}
	}
}

// TestEndpointsVersion: each host set has a version of its own, and who remembers one does not keep the set.
func TestEndpointsVersion(t *testing.T) {
	m := NewManager(Options{Log: slog.New(slog.DiscardHandler)})
	defer m.Close()
	assign := func(port uint32) {
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{edsCluster("a", nil)}, Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", ep{"10.0.0.1", port, "", 0})}})
	}
	assign(80)
	before, set := m.Get("a").EndpointsVersion(), weak.Make(m.Get("a").Hosts())
	if m.Get("a").EndpointsVersion() != before {
		t.Error("it differs, and nothing changed")
	}
	assign(81)
	if m.Get("a").EndpointsVersion() == before {
		t.Error("it is the same after a change")
	}
	runtime.GC()
	if set.Value() != nil {
		t.Error("the version keeps the set before")
	}
	runtime.KeepAlive(before)
}
