package cluster

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/outlier"
	"detour.dev/detour/internal/stats"
)

// live is what all versions of one cluster share.
type live struct {
	name    string
	m       *Manager
	stats   *stats.Cluster
	breaker Breaker
	retry   *Budget
	hedge   *Budget
	// detector is nil without outlierDetection. Workers load it; it is replaced under mu.
	detector atomic.Pointer[outlier.Detector]

	mu      sync.Mutex // guards all below, and the health of the hosts
	current *Cluster
	policy  *lb.Policy
	targets []target // nil where the last version had no DNS name: they were all used when it came into force
	// assigned is what targets were made of.
	assigned *endpointv3.ClusterLoadAssignment
	watches  map[string]*watch // by DNS name
	hosts    []*lb.Host
	// parked are ejected hosts that left the cluster, until their ejection ends: an address that comes back, or a name
	// whose address changes, must not be well again for it (E5).
	parked map[hostKey]*lb.Host
	orig   map[netip.AddrPort]*origHost
	// origSwept is when orig was last swept.
	origSwept time.Time

	dynamicState

	finishing  bool // finish runs
	closed     bool
	sweepFrom  time.Time // sweeps are at whole intervals from here
	sweepEvery time.Duration
	timer      *time.Timer // nil: no sweep is due
	overflowed time.Time   // when the overflow line was last logged
}

// maxParked bounds the remembered hosts of one cluster; beyond it any are forgotten.
const maxParked = 1024

// target is one configured endpoint: an address, a unix socket, or a DNS name that stands for any number of addresses.
type target struct {
	name           string // DNS name; empty for an address
	port           uint16
	addr           netip.Addr
	path           string
	hostname       string // what the Host gets
	key            string // "name:port" as configured
	logical        bool   // one host for all addresses (LOGICAL_DNS)
	locality       *corev3.Locality
	localityWeight uint32
	priority       uint32
	weight         uint32
	status         corev3.HealthStatus
	metadata       *corev3.Metadata
}

// hostKey is what makes two hosts of a cluster the same. Two names with one address are two hosts, as in Envoy.
type hostKey struct {
	addr     netip.AddrPort
	path     string
	name     string
	hostname string
}

type watch struct {
	opt discovery.Options
	Watch
	addrs []netip.Addr
}

func newLive(m *Manager, name string) *live {
	l := &live{
		name: name, m: m, stats: m.opt.Stats.Cluster(name), retry: newRetryBudget(), hedge: newHedgeBudget(),
	}
	l.breaker.Requests.gauge = &l.stats.CircuitBreakers.RqOpen
	l.breaker.Connections.gauge = &l.stats.CircuitBreakers.CxOpen
	l.breaker.Pending.gauge = &l.stats.CircuitBreakers.RqPendingOpen
	l.breaker.Retries.gauge = &l.stats.CircuitBreakers.RqRetryOpen
	return l
}

// same tells whether a version and its assignment are in force already.
func (l *live) same(cfg *Config, a *endpointv3.ClusterLoadAssignment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current != nil && l.current.cfg == cfg && (l.assigned == a || proto.Equal(l.assigned, a))
}

// apply puts a version in force and gives the Cluster to serve: the current one if only endpoints changed. warm was called.
func (l *live) apply(cfg *Config, a *assignment) *Cluster {
	l.mu.Lock()
	if l.current == nil || l.current.cfg != cfg {
		l.current = &Cluster{cfg: cfg, live: l}
	}
	l.breaker.Connections.max.Store(cfg.Limits.MaxConnections)
	l.breaker.Pending.max.Store(cfg.Limits.MaxPending)
	l.breaker.Requests.max.Store(cfg.Limits.MaxRequests)
	l.limitRetries(cfg.Limits)
	l.policy, l.targets, l.assigned = a.policy(cfg), a.targets, a.proto
	l.detect(cfg)
	l.unwatch()
	var removed []*lb.Host
	if cfg.Type != DynamicDNS {
		removed = l.endDynamic()
	}
	removed = append(removed, l.rebuild()...)
	if len(l.watches) == 0 {
		l.targets = nil
	}
	l.arm(time.Now())
	c := l.current
	l.mu.Unlock()
	c.set.Load().Finish()
	l.m.removed(removed)
	return c
}

// detect starts, reconfigures or ends outlier detection. l.mu is held.
func (l *live) detect(cfg *Config) {
	d := l.detector.Load()
	switch {
	case cfg.outlier == nil && d != nil:
		d.Release()
		clear(l.parked)
		l.detector.Store(nil)
	case cfg.outlier != nil && d == nil:
		l.detector.Store(outlier.New(cfg.outlier, &l.stats.OutlierDetection, l.m.opt.CompatEnvoy))
	case cfg.outlier != nil:
		d.Configure(cfg.outlier)
	}
	if cfg.outlier != nil && cfg.outlier.Interval != l.sweepEvery {
		l.sweepFrom, l.sweepEvery = time.Now(), cfg.outlier.Interval
		l.disarm()
	}
}

// report judges an endpoint. Without a failure it takes no lock.
func (l *live) report(e *lb.Endpoint, o lb.Outcome) {
	if o.Kind == lb.Cancelled {
		return
	}
	if o.Kind == lb.OurFault {
		l.stats.Detour.LocalFault.Inc()
		l.m.fault(o.Now, l.name, e.Host, o.Reason())
		return
	}
	if o.Failed() {
		e.SetLastError(o.Reason(), o.Now)
		if o.Kind == lb.ConnectFailed || o.Kind == lb.ConnectTimeout {
			if o.Addr.IsValid() {
				e.MoveOnFrom(o.Addr)
			} else {
				e.MoveOn()
			}
			l.refresh(e.Host)
		}
	}
	d := l.detector.Load()
	if d == nil {
		return
	}
	if t := d.Count(e.Host, &o); t != 0 {
		l.judge(d, e, o, t)
	}
}

func (l *live) judge(d *outlier.Detector, e *lb.Endpoint, o lb.Outcome, t outlier.Trigger) {
	l.mu.Lock()
	if l.detector.Load() != d || l.closed {
		l.mu.Unlock()
		return
	}
	events := d.Judge(e.Host, &o, t)
	if changed(events) {
		l.refill()
		l.arm(o.Now)
	}
	lines := l.describe(events, &o)
	l.mu.Unlock()
	l.tell(events, lines)
}

func changed(events []outlier.Event) bool {
	return slices.ContainsFunc(events, func(e outlier.Event) bool {
		return e.Kind == outlier.Ejected || e.Kind == outlier.Returned
	})
}

func (l *live) connected(e *lb.Endpoint, final bool) {
	e.SetSuspect(false)
	if d := l.detector.Load(); d != nil {
		d.Succeeded(e.Host, final)
	}
}

// arm sets the timer for the next sweep, if one would find anything. Sweeps keep to whole intervals from sweepFrom, as
// Envoy's timer does. l.mu is held.
func (l *live) arm(now time.Time) {
	d := l.detector.Load()
	if d == nil || l.timer != nil || l.closed || !d.Busy() && len(l.parked) == 0 {
		return
	}
	passed := max(now.Sub(l.sweepFrom), 0)
	wait := l.sweepEvery - passed%l.sweepEvery
	l.timer = time.AfterFunc(wait, func() { l.sweep(time.Now()) })
}

// disarm stops the timer. l.mu is held.
func (l *live) disarm() {
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
}

// sweep is the interval timer's function.
func (l *live) sweep(now time.Time) {
	l.mu.Lock()
	d := l.detector.Load()
	l.disarm()
	if d == nil || l.closed {
		l.mu.Unlock()
		return
	}
	for key, h := range l.parked {
		if h.EjectedLeft(now) == 0 {
			delete(l.parked, key)
		}
	}
	events := d.Sweep(now)
	if len(events) > 0 {
		l.refill()
	}
	l.arm(now)
	lines := l.describe(events, nil)
	l.mu.Unlock()
	l.tell(events, lines)
}

func (l *live) close() {
	l.mu.Lock()
	l.closed = true
	l.disarm()
	for name, w := range l.watches {
		delete(l.watches, name)
		w.Close()
	}
	removed := l.endDynamic()
	for _, h := range l.hosts {
		h.SetRemoved(true)
		removed = append(removed, h)
	}
	l.mu.Unlock()
	l.m.removed(removed)
}
