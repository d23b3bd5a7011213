package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	dfpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dynamic_forward_proxy/v3"

	"detour.dev/detour/internal/dataplane/lb"
)

// dynamicConfig is a dynamic forward proxy's DNS cache (DnsCacheConfig), with Envoy's defaults.
type dynamicConfig struct {
	maxHosts int           // default 1024
	ttl      time.Duration // of a host that nobody asks for; default 5 min
	query    time.Duration // dns_query_timeout, default 5 s
	pending  int           // dns_cache_circuit_breaker.max_pending_requests, default 1024
}

// ErrPendingOverflow: as many requests wait for their name's first look-up as may (an lb.ErrOverflow).
var ErrPendingOverflow = fmt.Errorf("%w: too many requests wait for a look-up", lb.ErrOverflow)

func (cfg *Config) compileDynamic(c *clusterv3.Cluster) error {
	var d dfpv3.ClusterConfig
	if err := c.GetClusterType().GetTypedConfig().UnmarshalTo(&d); err != nil {
		return err
	}
	cache := d.GetDnsCacheConfig()
	switch {
	case cache == nil:
		return errors.New("cluster_type: sub_clusters_config is not supported, use dns_cache_config")
	case len(cache.GetPreresolveHostnames()) > 0, cache.GetKeyValueConfig() != nil, cache.GetResolvedAddressFilter() != nil:
		return errors.New("dns_cache_config: preresolve_hostnames, key_value_config and resolved_address_filter are not supported")
	}
	cfg.Type = DynamicDNS
	cfg.dynamic = dynamicConfig{
		maxHosts: int(value(cache.GetMaxHosts(), 1024)),
		ttl:      max(duration(cache.GetHostTtl(), 5*time.Minute), time.Millisecond),
		query:    duration(cache.GetDnsQueryTimeout(), 5*time.Second),
		pending:  int(value(cache.GetDnsCacheCircuitBreaker().GetMaxPendingRequests(), 1024)),
	}
	cfg.dns = dnsOptions(cache.GetDnsRefreshRate(), nil, true, int32(cache.GetDnsLookupFamily())+1)
	if cache.GetDnsRefreshRate() == nil {
		cfg.dns.RefreshRate = time.Minute
	}
	cfg.dns.MinTTL = duration(cache.GetDnsMinRefreshRate(), 5*time.Second)
	failureRate(&cfg.dns, cache.GetDnsFailureRefreshRate())
	cfg.dns.Rotate = true
	return nil
}

// dynamicHost is one name of a dynamic forward proxy cluster. live.mu guards it.
type dynamicHost struct {
	ep      *lb.Endpoint
	watch   Watch // nil for an address
	used    time.Time
	asked   bool // the first look-up has ended, with an answer or without
	known   bool // it has addresses
	waiting []func(error)
	quit    chan struct{} // closed when the host leaves
}

// pending says that nothing is known of the name yet.
func (h *dynamicHost) pending() bool { return !h.asked && !h.known }

// DynamicKey gives the name of a dynamic forward proxy's host as Resolve and PickInfo.Name have it: "host:port" in lower
// case. authority is a Host or an SNI; without a port of its own it gets defaultPort, or where that is 0 the one of its
// protocol: 443 where the cluster speaks TLS, else 80 (Envoy's DnsHostInfo).
func (c *Cluster) DynamicKey(authority string, defaultPort uint16) string {
	host, port, err := net.SplitHostPort(authority)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(authority, "["), "]")
		switch {
		case defaultPort != 0:
			port = strconv.Itoa(int(defaultPort))
		case c.cfg.TransportSocket != nil:
			port = "443"
		default:
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(strings.TrimSuffix(host, ".")), port)
}

// Resolve makes a name known to a dynamic forward proxy cluster, by DynamicKey's word, and says when requests for it may be
// picked: ready is called once, here or later from another goroutine, with nil, ErrNoHosts (the name does not resolve),
// ErrOverflow (max_hosts) or ErrPendingOverflow. Who waits counts in upstream_rq_pending_*.
func (c *Cluster) Resolve(key string, ready func(error)) {
	l, now := c.live, time.Now()
	l.mu.Lock()
	h := l.dynamic[key]
	if (h == nil || h.pending()) && l.pending >= c.cfg.dynamic.pending {
		l.mu.Unlock()
		l.stats.UpstreamRqPendOver.Inc()
		ready(ErrPendingOverflow)
		return
	}
	if h == nil {
		var err error
		if h, err = l.addDynamic(c.cfg, key, now); err != nil {
			l.mu.Unlock()
			ready(err)
			return
		}
	}
	h.used = now
	if h.pending() {
		h.waiting = append(h.waiting, ready)
		l.pending++
		l.stats.UpstreamRqPendTotal.Inc()
		l.stats.UpstreamRqPendActive.Inc()
		l.mu.Unlock()
		return
	}
	known := h.known
	l.mu.Unlock()
	if !known {
		ready(lb.ErrNoHosts)
		return
	}
	ready(nil)
}

// addDynamic begins to look a name up. l.mu is held.
func (l *live) addDynamic(cfg *Config, key string, now time.Time) (*dynamicHost, error) {
	name, portText, err := net.SplitHostPort(key)
	port, perr := strconv.ParseUint(portText, 10, 16)
	switch {
	case err != nil || perr != nil || port == 0 || name == "" || len(name) > 253 || l.closed:
		return nil, lb.ErrNoHosts
	case len(l.dynamic) >= cfg.dynamic.maxHosts:
		return nil, lb.ErrOverflow
	}
	h := &dynamicHost{quit: make(chan struct{}),
		ep: &lb.Endpoint{Weight: 1, Host: &lb.Host{Name: key, Hostname: name, Cluster: l.name}}}
	h.ep.SetAddedAt(now)
	if l.dynamic == nil {
		l.dynamic = map[string]*dynamicHost{}
	}
	l.dynamic[key] = h
	l.stats.MembershipChange.Inc()
	l.detectDynamic()
	if l.forget == nil {
		l.forget = time.AfterFunc(cfg.dynamic.ttl, l.forgetDynamic)
	}
	if a, err := netip.ParseAddr(name); err == nil {
		h.asked = true
		h.set([]netip.Addr{a.Unmap()}, uint16(port))
		return h, nil
	}
	h.watch = l.m.opt.Discovery.Watch(name, cfg.dns, func(addrs []netip.Addr) {
		l.mu.Lock()
		h.set(addrs, uint16(port))
		waiting := l.settle(h)
		l.mu.Unlock()
		for _, ready := range waiting {
			ready(nil)
		}
	})
	l.waits.Add(1)
	go l.awaitDynamic(h, cfg.dynamic.query)
	return h, nil
}

func (h *dynamicHost) set(addrs []netip.Addr, port uint16) {
	targets := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		targets[i] = netip.AddrPortFrom(a, port)
	}
	h.ep.SetTargets(targets)
	h.known = true
}

// settle ends a name's first look-up and gives those who wait for it. l.mu is held.
func (l *live) settle(h *dynamicHost) []func(error) {
	h.asked = true
	waiting := h.waiting
	h.waiting = nil
	l.pending -= len(waiting)
	l.stats.UpstreamRqPendActive.Add(-int64(len(waiting)))
	return waiting
}

// detectDynamic lets outlier detection know the names there are now. l.mu is held.
func (l *live) detectDynamic() {
	if d := l.detector.Load(); d != nil {
		d.SetEndpoints(slices.Concat(l.current.set.Load().Endpoints(), l.dynamicHosts()))
	}
}

// dynamicHosts lists all names. l.mu is held.
func (l *live) dynamicHosts() (eps []*lb.Endpoint) {
	for _, h := range l.dynamic {
		eps = append(eps, h.ep)
	}
	return eps
}

// awaitDynamic tells those who wait for a name that it does not resolve, or not in time.
func (l *live) awaitDynamic(h *dynamicHost, limit time.Duration) {
	defer l.waits.Done()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-h.watch.First():
	case <-timer.C:
	case <-h.quit:
	}
	l.mu.Lock()
	var err error
	if !h.known {
		err = lb.ErrNoHosts
	}
	waiting := l.settle(h)
	l.mu.Unlock()
	for _, ready := range waiting {
		ready(err)
	}
}

// forgetDynamic is the timer's function: it drops the names that nobody asked for since host_ttl and that have no request.
func (l *live) forgetDynamic() {
	now := time.Now()
	l.mu.Lock()
	var removed []*lb.Host
	if l.closed {
		l.mu.Unlock()
		return
	}
	ttl := l.current.cfg.dynamic.ttl
	for key, h := range l.dynamic {
		if ttl == 0 || now.Sub(h.used) >= ttl && h.ep.Stats.RqActive.Value() <= 0 {
			removed = append(removed, l.dropDynamic(key, h))
		}
	}
	l.detectDynamic()
	l.forget = nil
	if len(l.dynamic) > 0 {
		l.forget = time.AfterFunc(ttl, l.forgetDynamic)
	}
	l.mu.Unlock()
	l.m.removed(removed)
}

// dropDynamic ends a name. l.mu is held.
func (l *live) dropDynamic(key string, h *dynamicHost) *lb.Host {
	delete(l.dynamic, key)
	if h.watch != nil {
		h.watch.Close()
	}
	close(h.quit)
	h.ep.SetRemoved(true)
	return h.ep.Host
}

// endDynamic ends all names, as when the cluster goes or becomes one of another type. l.mu is held.
func (l *live) endDynamic() (removed []*lb.Host) {
	if l.forget != nil {
		l.forget.Stop()
		l.forget = nil
	}
	for key, h := range l.dynamic {
		removed = append(removed, l.dropDynamic(key, h))
	}
	return removed
}

// pickDynamic gives the host that Resolve made known. Nobody else can serve its name, so one that is ejected is a last resort;
// in an Envoy it is none. It takes the cluster's lock.
func (l *live) pickDynamic(in *lb.PickInfo) (lb.Result, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.dynamic[in.Name]
	switch {
	case h == nil || !h.known:
		return lb.Result{}, lb.ErrNoHosts
	case in.Exhausted(h.ep.Host):
		return lb.Result{}, lb.ErrAllTried
	case h.ep.Ejected() && l.m.opt.CompatEnvoy:
		return lb.Result{}, lb.ErrNoHealthyHost
	}
	h.used = in.Now
	return lb.Result{Endpoint: h.ep, LastResort: h.ep.Ejected()}, nil
}

// dynamicEndpoints lists the names that have addresses.
func (l *live) dynamicEndpoints() (out []*lb.Endpoint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.dynamic {
		if h.known {
			out = append(out, h.ep)
		}
	}
	slices.SortFunc(out, func(a, b *lb.Endpoint) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// dynamicState is live's part that dynamic forward proxies need.
type dynamicState struct {
	dynamic map[string]*dynamicHost // by DynamicKey
	pending int                     // requests that wait for a first look-up
	forget  *time.Timer             // nil: nothing to forget
	waits   sync.WaitGroup          // goroutines of first look-ups
}
