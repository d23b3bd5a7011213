package cluster

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/xds"
)

// Workers pick and fail, DNS rotates, configuration changes: nothing is lost, and the race detector is content.
func TestConcurrency(t *testing.T) {
	d := newFakeDNS(map[string]string{east: "10.1.0.1 10.1.0.2", west: "10.2.0.1"})
	m := NewManager(Options{Log: (&logBuffer{}).logger(), Discovery: d})
	var ejections atomic.Int64
	m.OnEject(func(*lb.Host) { ejections.Add(1) })
	update := func(timeout int) {
		od := outlierDetection()
		od.Interval, od.BaseEjectionTime = durationpb.New(time.Millisecond), durationpb.New(time.Millisecond)
		od.MaxEjectionTime = durationpb.New(2 * time.Millisecond)
		c := strictDNSCluster(mydb, od, ep{east, 80, "us-east1", 0}, ep{west, 80, "us-west", 1})
		c.ConnectTimeout = durationpb.New(time.Duration(timeout) * time.Second)
		m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{c}})
	}
	update(1)
	m.WaitFirst(context.Background())
	var wg sync.WaitGroup
	for w := range 3 {
		wg.Go(func() { work(t, m, w) })
	}
	wg.Go(func() {
		for i := range 100 {
			d.set(east, fmt.Sprintf("10.1.0.%d 10.1.0.%d", i%5+1, i%7+10))
			update(i%3 + 1)
			m.Get(mydb).Status()
			m.Get(mydb).Endpoints()
		}
	})
	wg.Wait()
	c := m.Get(mydb)
	if n := c.Breaker().Requests.Active(); n != 0 {
		t.Errorf("%d requests active at the end", n)
	}
	for _, e := range c.Hosts().Endpoints() {
		if n := e.Stats.RqActive.Value(); n != 0 {
			t.Errorf("%v: %d active at the end", e, n)
		}
	}
	if ejections.Load() == 0 {
		t.Error("nothing was ever ejected: the test shows nothing")
	}
	m.Close()
}

// work sends requests that end in every way there is.
func work(t *testing.T, m *Manager, worker int) {
	kinds := []lb.OutcomeKind{lb.Response, lb.ConnectFailed, lb.Timeout, lb.Cancelled, lb.Success}
	for i := range 1000 {
		c := m.Get(mydb)
		in := &lb.PickInfo{Now: time.Now()}
		for range 3 {
			res, err := c.Pick(in)
			if err != nil {
				if len(in.Tried) == 0 {
					t.Errorf("a first attempt found nobody: %v", err)
					return
				}
				break
			}
			in.Tried = append(in.Tried, res.Endpoint.Host)
			res.Endpoint.SetSuspect(i%7 == 0)
			res.Connected(in.Now, false)
			res.Done(lb.Outcome{Now: in.Now, Kind: kinds[(i+worker)%len(kinds)], Status: 200 + 303*(i%2)})
		}
		c.AnotherWell(in.Tried[0], true)
	}
}

// Pick and Done of a served request allocate nothing.
func TestPickAllocatesNothing(t *testing.T) {
	m, c := benchCluster(20)
	defer m.Close()
	in := &lb.PickInfo{Now: time.Now()}
	if n := testing.AllocsPerRun(1000, func() { serve(c, in) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func serve(c *Cluster, in *lb.PickInfo) {
	res, err := c.Pick(in)
	if err != nil {
		panic(err)
	}
	res.Done(lb.Outcome{Now: in.Now, Kind: lb.Response, Status: 200})
}

func benchCluster(n int) (*Manager, *Cluster) {
	m := NewManager(Options{})
	var eps []ep
	for i := range n {
		eps = append(eps, ep{fmt.Sprintf("10.0.0.%d", i+1), 80, "r", uint32(2 * i / n)})
	}
	m.Update(&xds.Snapshot{Clusters: []*clusterv3.Cluster{edsCluster("a", nil)},
		Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", eps...)}})
	return m, m.Get("a")
}

func BenchmarkPickAndDone(b *testing.B) {
	for _, n := range []int{2, 20} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m, c := benchCluster(n)
			defer m.Close()
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				in := &lb.PickInfo{Now: time.Now()}
				for pb.Next() {
					serve(c, in)
				}
			})
		})
	}
}

// BenchmarkDone is an attempt's whole bookkeeping: picked, answered, counted. An error is one below the threshold.
func BenchmarkDone(b *testing.B) {
	for _, status := range []int{200, 500} {
		b.Run(fmt.Sprint(status), func(b *testing.B) {
			m := NewManager(Options{})
			defer m.Close()
			m.Update(&xds.Snapshot{
				Clusters: []*clusterv3.Cluster{edsCluster("a", func(c *clusterv3.Cluster) {
					c.OutlierDetection.Consecutive_5Xx = wrapperspb.UInt32(math.MaxUint32)
				})},
				Endpoints: []*endpointv3.ClusterLoadAssignment{assignmentOf("a", ep{"10.0.0.1", 80, "r", 0}, ep{"10.0.0.2", 80, "r", 1})}})
			c, in, n := m.Get("a"), &lb.PickInfo{Now: time.Now()}, uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				res, err := c.Pick(in)
				if err != nil {
					b.Fatal(err)
				}
				res.Done(lb.Outcome{Now: in.Now, Kind: lb.Response, Status: status})
				n++
			}
			st := &c.Hosts().Endpoints()[0].Stats
			if st.RqSuccess.Value()+st.RqError.Value() != n || st.RqActive.Value() != 0 {
				b.Errorf("%d + %d counted, want %d", st.RqSuccess.Value(), st.RqError.Value(), n)
			}
		})
	}
}

// The whole of 5,000 clusters is compiled and swapped; an update that changes nothing keeps every version.
func BenchmarkUpdate5000(b *testing.B) {
	m := NewManager(Options{})
	defer m.Close()
	s := &xds.Snapshot{}
	for i := range 5000 {
		name := fmt.Sprintf("outbound|80||host%04d.example", i)
		s.Clusters = append(s.Clusters, edsCluster(name, nil))
		s.Endpoints = append(s.Endpoints, assignmentOf(name, ep{"10.0.0.1", 80, "a", 0}, ep{"10.0.0.2", 80, "b", 1},
			ep{"10.0.0.3", 80, "a", 0}, ep{"10.0.0.4", 80, "b", 1}))
	}
	m.Update(s)
	other := proto.CloneOf(s.Clusters[0])
	b.ReportAllocs()
	for b.Loop() {
		s.Clusters[0], other = other, s.Clusters[0]
		if rej := m.Update(s); len(rej) > 0 {
			b.Fatal(rej)
		}
	}
}
