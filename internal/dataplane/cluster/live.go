package cluster

import (
	"math"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/dataplane/lb"
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

	mu      sync.Mutex // guards all below, and the health of the hosts
	current *Cluster
	targets []target
	watches map[string]*watch // by DNS name
	hosts   map[hostKey]*lb.Host
	orig    map[netip.AddrPort]*origHost
}

// target is one configured endpoint: an address, a unix socket, or a DNS name that stands for any number of addresses.
type target struct {
	name           string // DNS name; empty for an address
	port           uint16
	addr           netip.Addr
	path           string
	hostname       string // what the Host gets
	key            string // "name:port" as configured
	locality       *corev3.Locality
	localityWeight uint32
	priority       uint32
	weight         uint32
	status         corev3.HealthStatus
	metadata       *corev3.Metadata
}

type hostKey struct {
	addr     netip.AddrPort
	path     string
	name     string
	hostname string
}

type watch struct {
	Watch
	addrs []netip.Addr
}

func newLive(m *Manager, name string) *live {
	l := &live{
		name: name, m: m, stats: m.opt.Stats.Cluster(name), retry: newRetryBudget(), hedge: newHedgeBudget(),
		watches: map[string]*watch{}, hosts: map[hostKey]*lb.Host{}, orig: map[netip.AddrPort]*origHost{},
	}
	l.breaker.Requests.gauge = &l.stats.CircuitBreakers.RqOpen
	l.breaker.Connections.gauge = &l.stats.CircuitBreakers.CxOpen
	l.breaker.Pending.gauge = &l.stats.CircuitBreakers.RqPendingOpen
	l.breaker.Retries.gauge = &l.stats.CircuitBreakers.RqRetryOpen
	return l
}

// apply puts a version in force and gives the Cluster to serve: the current one if only endpoints changed.
func (l *live) apply(cfg *Config, targets []target) *Cluster {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil || l.current.cfg != cfg {
		l.current = &Cluster{cfg: cfg, live: l}
	}
	l.breaker.Connections.max.Store(cfg.Limits.MaxConnections)
	l.breaker.Pending.max.Store(cfg.Limits.MaxPending)
	l.breaker.Requests.max.Store(cfg.Limits.MaxRequests)
	l.breaker.Retries.max.Store(cfg.Limits.MaxRetries)
	l.targets = targets
	l.rewatch(cfg)
	l.rebuild()
	return l.current
}

// rewatch starts watches for new names and ends those of names that are gone. l.mu is held.
func (l *live) rewatch(cfg *Config) {
	wanted := map[string]bool{}
	for i := range l.targets {
		name := l.targets[i].name
		if name == "" {
			continue
		}
		wanted[name] = true
		if l.watches[name] != nil {
			continue
		}
		w := &watch{}
		l.watches[name] = w
		w.Watch = l.m.opt.Discovery.Watch(name, cfg.dns, func(addrs []netip.Addr) { l.resolved(name, w, addrs) })
	}
	for name, w := range l.watches {
		if !wanted[name] {
			delete(l.watches, name)
			w.Close()
		}
	}
}

func (l *live) resolved(name string, w *watch, addrs []netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.watches[name] != w {
		return
	}
	w.addrs = addrs
	l.rebuild()
}

// rebuild makes the host set anew from targets and addresses. l.mu is held.
func (l *live) rebuild() {
	hosts := make(map[hostKey]*lb.Host, len(l.hosts))
	var eps []*lb.Endpoint
	for i := range l.targets {
		t := &l.targets[i]
		addrs := []netip.Addr{t.addr}
		if t.name != "" {
			addrs = l.watches[t.name].addrs
		}
		for _, a := range addrs {
			key := hostKey{path: t.path, name: t.key, hostname: t.hostname}
			if t.path == "" {
				key.addr = netip.AddrPortFrom(a, t.port)
			}
			if hosts[key] != nil {
				continue
			}
			h := l.hosts[key]
			if h == nil {
				h = &lb.Host{Address: key.addr, Path: key.path, Hostname: key.hostname, Name: key.name, Cluster: l.name}
			}
			hosts[key] = h
			eps = append(eps, &lb.Endpoint{Host: h, Locality: t.locality, LocalityWeight: t.localityWeight,
				Priority: t.priority, Weight: t.weight, Status: t.status, Metadata: t.metadata})
		}
	}
	l.hosts = hosts
	l.current.set.Store(lb.NewHostSet(&l.current.cfg.policy, eps))
}

func (l *live) report(e *lb.Endpoint, o *lb.Outcome) {}

func (l *live) connected(e *lb.Endpoint, now time.Time, final bool) {}

// nearest gives the watches of the lowest priority number.
func (l *live) nearest() (out []*watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lowest := uint32(math.MaxUint32)
	for i := range l.targets {
		lowest = min(lowest, l.targets[i].priority)
	}
	for i := range l.targets {
		if t := &l.targets[i]; t.priority == lowest && t.name != "" {
			out = append(out, l.watches[t.name])
		}
	}
	return out
}

// refresh asks for another look-up of the host's name.
func (l *live) refresh(h *lb.Host) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.targets {
		if t := &l.targets[i]; t.name != "" && t.key == h.Name {
			l.watches[t.name].Refresh()
			return
		}
	}
}

func (l *live) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, w := range l.watches {
		delete(l.watches, name)
		w.Close()
	}
}
