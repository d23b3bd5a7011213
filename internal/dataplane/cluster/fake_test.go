package cluster

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/xds"
)

func TestMain(m *testing.M) {
	lb.Debug = true
	goleak.VerifyTestMain(m)
}

// fakeDNS is a Discovery whose answers the test gives.
type fakeDNS struct {
	mu      sync.Mutex
	answers map[string][]netip.Addr
	watches map[*fakeWatch]bool
	asked   map[string]int // Refresh calls
}

type fakeWatch struct {
	d     *fakeDNS
	name  string
	fn    func([]netip.Addr)
	first chan struct{}
	once  sync.Once
}

func newFakeDNS(answers map[string]string) *fakeDNS {
	d := &fakeDNS{answers: map[string][]netip.Addr{}, watches: map[*fakeWatch]bool{}, asked: map[string]int{}}
	for name, a := range answers {
		d.answers[name] = addrs(a)
	}
	return d
}

func addrs(s string) (out []netip.Addr) {
	for _, a := range strings.Fields(s) {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// Watch answers from a goroutine of its own, as the real one does.
func (d *fakeDNS) Watch(name string, _ discovery.Options, fn func([]netip.Addr)) Watch {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := &fakeWatch{d: d, name: name, fn: fn, first: make(chan struct{})}
	d.watches[w] = true
	if a := d.answers[name]; a != nil {
		go w.deliver(a)
	}
	return w
}

func (w *fakeWatch) deliver(a []netip.Addr) {
	w.fn(a)
	w.once.Do(func() { close(w.first) })
}

// set changes a name's addresses and returns when every watch was told.
func (d *fakeDNS) set(name, a string) {
	d.mu.Lock()
	d.answers[name] = addrs(a)
	var told []*fakeWatch
	for w := range d.watches {
		if w.name == name {
			told = append(told, w)
		}
	}
	d.mu.Unlock()
	for _, w := range told {
		w.deliver(addrs(a))
	}
}

func (w *fakeWatch) Refresh() {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.d.asked[w.name]++
}

func (w *fakeWatch) Close() {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	delete(w.d.watches, w)
}

func (w *fakeWatch) First() <-chan struct{} { return w.first }

// logBuffer is a log that a test can read.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// take gives the lines since the last call, without their time.
func (l *logBuffer) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := strings.TrimSuffix(l.b.String(), "\n")
	l.b.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func (l *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
}

// ep is one configured endpoint of a test cluster.
type ep struct {
	host     string
	port     uint32
	region   string
	priority uint32
}

const (
	mydb = "outbound|80||mydb.com"
	east = "dynamodb.us-east-1.amazonaws.com"
	west = "dynamodb.us-west-1.amazonaws.com"
)

// strictDNS makes a cluster as translate does; od may be nil.
func strictDNSCluster(name string, od *clusterv3.OutlierDetection, eps ...ep) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STRICT_DNS},
		LbPolicy:             clusterv3.Cluster_LEAST_REQUEST,
		ConnectTimeout:       durationpb.New(10 * time.Second),
		CommonLbConfig:       &clusterv3.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{}},
		OutlierDetection:     od,
		LoadAssignment:       assignmentOf(name, eps...),
	}
	return c
}

func assignmentOf(name string, eps ...ep) *endpointv3.ClusterLoadAssignment {
	a := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for _, e := range eps {
		a.Endpoints = append(a.Endpoints, &endpointv3.LocalityLbEndpoints{
			Locality: &corev3.Locality{Region: e.region}, Priority: e.priority,
			LoadBalancingWeight: wrapperspb.UInt32(1),
			LbEndpoints: []*endpointv3.LbEndpoint{{
				LoadBalancingWeight: wrapperspb.UInt32(1),
				HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
					Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
						Address: e.host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: e.port}}}},
				}},
			}},
		})
	}
	return a
}

func outlierDetection() *clusterv3.OutlierDetection {
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx: wrapperspb.UInt32(1), EnforcingConsecutive_5Xx: wrapperspb.UInt32(100),
		EnforcingSuccessRate: wrapperspb.UInt32(0), MaxEjectionPercent: wrapperspb.UInt32(99),
		Interval: durationpb.New(15 * time.Second), BaseEjectionTime: durationpb.New(time.Minute),
	}
}

// rig is a manager with its DNS and log.
type rig struct {
	t   *testing.T
	m   *Manager
	dns *fakeDNS
	log *logBuffer
	// down maps "ip:port" to what an attempt there comes to; anything else answers 200.
	down map[string]lb.Outcome
	sent int // attempts of the last request
}

func newRig(t *testing.T, answers map[string]string) *rig {
	r := &rig{t: t, dns: newFakeDNS(answers), log: &logBuffer{}, down: map[string]lb.Outcome{}}
	r.m = NewManager(Options{Log: r.log.logger(), Discovery: r.dns})
	return r
}

func (r *rig) update(clusters ...*clusterv3.Cluster) {
	r.t.Helper()
	if rej := r.m.Update(&xds.Snapshot{Clusters: clusters}); len(rej) > 0 {
		r.t.Fatalf("rejected: %v", rej)
	}
}

// request sends one request as the router does, retrying while there is another endpoint, and says where it was answered.
func (r *rig) request(name string) string {
	r.t.Helper()
	c := r.m.Get(name)
	in := &lb.PickInfo{}
	for r.sent = 1; ; r.sent++ {
		in.Now = time.Now()
		res, err := c.Pick(in)
		if err != nil {
			return err.Error()
		}
		h := res.Endpoint.Host
		o, dead := r.down[h.String()]
		if !dead {
			o = lb.Outcome{Kind: lb.Response, Status: 200}
		}
		o.Now = time.Now()
		res.Done(o)
		if !dead {
			return h.Hostname
		}
		in.Tried = append(in.Tried, h)
	}
}

// requests sends n and gives how often each endpoint answered.
func (r *rig) requests(name string, n int) map[string]int {
	r.t.Helper()
	out := map[string]int{}
	for range n {
		out[r.request(name)]++
	}
	return out
}

// table gives the lines of `pc endpoints` for a cluster.
func (r *rig) table(name string) (out []string) {
	for _, h := range r.m.Get(name).Status().GetHostStatuses() {
		check := "OK"
		if h.GetHealthStatus().GetFailedOutlierCheck() {
			check = "FAILED"
		}
		a := h.GetAddress().GetSocketAddress()
		out = append(out, fmt.Sprintf("%s:%d %s %s", a.GetAddress(), a.GetPortValue(), h.GetHealthStatus().GetEdsHealthStatus(), check))
	}
	return out
}
