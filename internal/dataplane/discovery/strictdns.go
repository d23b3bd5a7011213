// Package discovery owns how a cluster comes by its endpoints' addresses (Envoy's cluster discovery types), and the
// news from this machine's network that such knowledge must be refreshed.
package discovery

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"detour.dev/detour/internal/dns"
)

const (
	// DefaultRefreshRate is how often a name is looked up whose TTL is 0 or not respected (Istio's meshConfig.dnsRefreshRate).
	DefaultRefreshRate = 60 * time.Second
	// DefaultJitter is what istiod sends as dns_jitter.
	DefaultJitter = 100 * time.Millisecond
	// minInterval is the least time between two lookups of one name, whatever its TTL and however many connections
	// fail (Envoy's dns_min_refresh_rate).
	minInterval = time.Second
)

// Resolver is what StrictDNS needs of *dns.Resolver.
type Resolver interface {
	Lookup(ctx context.Context, name string, f dns.Family) dns.Answer
	Families() (v4, v6 bool)
	Reload()
}

// Options say how a name is watched. Watches of one name with equal options share their lookups.
type Options struct {
	// RefreshRate is the interval without a TTL, and the longest pause between tries while lookups fail
	// (Cluster.dns_refresh_rate, DnsCluster.dns_refresh_rate). 0 means 60 s; at least 1 s.
	RefreshRate time.Duration
	// Jitter is the most that is added to each interval, at random (DnsCluster.dns_jitter). 0 means 100 ms, less than
	// 0 none.
	Jitter time.Duration
	// RespectTTL makes the answer's TTL the interval, unless it is 0 (DnsCluster.respect_dns_ttl).
	RespectTTL bool
	// MinTTL is the least interval that a TTL makes (DnsCacheConfig.dns_min_refresh_rate); 0 means 1 s.
	MinTTL time.Duration
	// FailureBase and FailureMax bound the pauses while lookups fail, which double (dns_failure_refresh_rate). 0 means 1 s
	// and RefreshRate.
	FailureBase, FailureMax time.Duration
	// Rotate gives the addresses in the order of the answer's first one, and tells of every change of it
	// (LOGICAL_DNS): new connections go where the name's server last said.
	Rotate bool
	// Prefer, unless All, leaves out the other family's addresses where this one has any (AUTO prefers V6).
	Prefer dns.Family
	// Family is DnsCluster.dns_lookup_family. All becomes V4 or V6 on a host that can reach only one.
	Family dns.Family
}

func (o Options) withDefaults() Options {
	if o.RefreshRate == 0 {
		o.RefreshRate = DefaultRefreshRate
	}
	o.RefreshRate = max(o.RefreshRate, minInterval)
	if o.Jitter == 0 {
		o.Jitter = DefaultJitter
	}
	o.Jitter = max(o.Jitter, 0)
	o.MinTTL = max(o.MinTTL, minInterval)
	o.FailureBase = max(o.FailureBase, minInterval)
	if o.FailureMax == 0 {
		o.FailureMax = o.RefreshRate
	}
	return o
}

// StrictDNSOptions make a StrictDNS.
type StrictDNSOptions struct {
	Log *slog.Logger // nil: slog.Default()
	// Rand gives jitter, in [0, 1); nil: math/rand/v2. It must be safe for concurrent use.
	Rand func() float64
}

// StrictDNS watches names as Envoy's STRICT_DNS clusters do: every address of a name is an endpoint. Unlike Envoy, an
// empty answer and NXDOMAIN keep the last good addresses too (DESIGN.md, E5).
type StrictDNS struct {
	resolver Resolver
	opt      StrictDNSOptions
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu     sync.Mutex
	names  map[nameKey]*name
	closed bool
	// local is set while lookups fail because of this machine, so that one line says so and not one for each name.
	local bool
}

type nameKey struct {
	name string
	opt  Options
}

// NewStrictDNS makes a StrictDNS without names.
func NewStrictDNS(r Resolver, opt StrictDNSOptions) *StrictDNS {
	if opt.Log == nil {
		opt.Log = slog.Default()
	}
	if opt.Rand == nil {
		opt.Rand = rand.Float64
	}
	d := &StrictDNS{resolver: r, opt: opt, names: make(map[nameKey]*name)}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Watch looks the name up now and keeps doing so. fn gets all addresses, sorted, as soon as there are any, and again
// whenever the set changes; the slice is shared and must not be changed. It is called from the name's own goroutine, one
// call at a time, and delays that name's other watches while it runs. It may call Refresh and Close.
func (d *StrictDNS) Watch(host string, opt Options, fn func([]netip.Addr)) *Watcher {
	key := nameKey{host, opt.withDefaults()}
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.names[key]
	if n == nil {
		n = newName(d, key)
		if d.closed {
			n.stop()
		} else {
			d.names[key] = n
			d.wg.Go(n.run)
		}
	}
	w := &Watcher{n: n, fn: fn, first: make(chan struct{})}
	n.watchers[w] = struct{}{}
	n.wake(nil)
	return w
}

// ReloadAll has the resolver read its configuration again and looks every name up at once, abandoning lookups under way:
// addresses or routes of this machine have changed, or it slept (DESIGN.md, E4).
func (d *StrictDNS) ReloadAll() {
	d.resolver.Reload()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, n := range d.names {
		n.wake(&n.reload)
	}
}

// Close ends all watches and waits for their goroutines, so not from within a watch's fn.
func (d *StrictDNS) Close() {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	d.cancel()
	d.wg.Wait()
}

// Watcher is one interest in a name.
type Watcher struct {
	n  *name
	fn func([]netip.Addr)
	// told is the set that fn was last given; only the name's goroutine uses it.
	told []netip.Addr
	// first is closed when announced is set, by the same goroutine.
	first     chan struct{}
	announced bool
	closed    bool // under StrictDNS.mu
}

// Refresh asks for a lookup at once, because a connection failed. It never blocks; many calls become one lookup, one
// that is under way counts, and there is at most one a second for a name.
func (w *Watcher) Refresh() { w.n.wake(&w.n.refresh) }

// First is closed once the name has been looked up, however that went, and fn has returned if there were addresses.
func (w *Watcher) First() <-chan struct{} { return w.first }

// Last tells the addresses in force, when the last lookup ended, and its error (a *dns.Error; nil if it went well); the
// zero time before the first. For a name that is being watched already all are there before fn is called.
func (w *Watcher) Last() (addrs []netip.Addr, at time.Time, err error) {
	w.n.d.mu.Lock()
	defer w.n.d.mu.Unlock()
	return w.n.addrs, w.n.at, w.n.err
}

// Close ends the watch; with the last one of a name its lookups end. fn is not called after it, but a call under way in
// the name's goroutine runs on.
func (w *Watcher) Close() {
	d := w.n.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	delete(w.n.watchers, w)
	if len(w.n.watchers) == 0 {
		w.n.stop()
		if d.names[w.n.key] == w.n {
			delete(d.names, w.n.key)
		}
	}
}

// name is one looked-up name; run is its goroutine.
type name struct {
	d    *StrictDNS
	key  nameKey
	ctx  context.Context
	stop context.CancelFunc
	// kick has room for one, so that a wake-up between two selects is not lost; the flags say what for.
	kick chan struct{}

	flags           sync.Mutex
	refresh, reload bool

	// Under d.mu.
	watchers map[*Watcher]struct{}
	addrs    []netip.Addr
	err      error
	at       time.Time

	failures int // in a row; only run uses it
}

func newName(d *StrictDNS, key nameKey) *name {
	n := &name{d: d, key: key, kick: make(chan struct{}, 1), watchers: make(map[*Watcher]struct{})}
	n.ctx, n.stop = context.WithCancel(d.ctx)
	return n
}

// wake makes run look at its watches, and at the flag if one is given.
func (n *name) wake(flag *bool) {
	if flag != nil {
		n.flags.Lock()
		*flag = true
		n.flags.Unlock()
	}
	select {
	case n.kick <- struct{}{}:
	default:
	}
}

func (n *name) takeFlags() (refresh, reload bool) {
	n.flags.Lock()
	defer n.flags.Unlock()
	refresh, reload = n.refresh, n.reload
	n.refresh, n.reload = false, false
	return refresh, reload
}

// run looks up, waits, and looks up again, until the last watch is closed.
func (n *name) run() {
	defer n.stop()
	var result chan dns.Answer // nil while no lookup is under way
	abandon := func() {}
	defer func() { abandon() }()
	var started time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-n.ctx.Done():
			return
		case <-timer.C:
			started = time.Now()
			result, abandon = n.lookup()
		case ans := <-result:
			abandon()
			result = nil
			timer.Reset(max(n.take(ans), minInterval-time.Since(started)))
			n.deliver()
		case <-n.kick:
			refresh, reload := n.takeFlags()
			switch {
			case reload:
				abandon()
				result, n.failures = nil, 0
				timer.Reset(0)
			case refresh && result == nil:
				timer.Reset(max(0, minInterval-time.Since(started)))
			}
			n.deliver()
		}
	}
}

// lookup starts one; its answer arrives on the channel unless it is abandoned.
func (n *name) lookup() (chan dns.Answer, context.CancelFunc) {
	ctx, cancel := context.WithCancel(n.ctx)
	result := make(chan dns.Answer, 1)
	family := n.key.opt.Family
	if v4, v6 := n.d.resolver.Families(); family == dns.All && v4 != v6 {
		family = dns.V4
		if v6 {
			family = dns.V6
		}
	}
	n.d.wg.Go(func() { result <- n.d.resolver.Lookup(ctx, n.key.name, family) })
	return result, cancel
}

// take records the outcome of a lookup and tells how long to wait for the next.
func (n *name) take(ans dns.Answer) time.Duration {
	d, opt := n.d, n.key.opt
	d.mu.Lock()
	before, hadErr := n.addrs, n.err
	if ans.Err == nil {
		n.addrs = opt.arrange(merge(before, ans), ans.First)
	}
	n.err, n.at = ans.Err, time.Now()
	wasLocal := d.local
	d.local = dns.KindOf(ans.Err) == dns.Local
	d.mu.Unlock()
	n.log(ans, before, hadErr, wasLocal)
	wait := opt.RefreshRate
	if opt.RespectTTL && ans.TTL > 0 {
		wait = max(ans.TTL, opt.MinTTL)
	}
	wait += time.Duration(d.opt.Rand() * float64(opt.Jitter))
	switch {
	case ans.Err != nil:
		return n.backoff()
	case ans.Missing != dns.All: // it may just have been slow: the server has it by now
		return min(wait, n.backoff())
	}
	n.failures = 0
	return wait
}

// backoff counts a failure and gives the pause before the next try: from FailureBase, doubling up to FailureMax, and up to
// half as much again at random.
func (n *name) backoff() time.Duration {
	base := n.key.opt.FailureMax
	if shifted := n.key.opt.FailureBase << min(n.failures, 30); n.failures < 30 && shifted > 0 { // else it overflows
		base = min(base, shifted)
	}
	n.failures++
	return base + time.Duration(n.d.opt.Rand()*float64(base)/2)
}

// merge adds to an answer what was known of the family that was not answered.
func merge(old []netip.Addr, ans dns.Answer) []netip.Addr {
	addrs := slices.Clone(ans.Addrs)
	for _, a := range old {
		if ans.Missing == dns.V4 && a.Is4() || ans.Missing == dns.V6 && !a.Is4() {
			addrs = append(addrs, a)
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare)
	return slices.Compact(addrs)
}

// arrange leaves out the addresses of the family that is not preferred, and rotates so that first comes first.
func (o *Options) arrange(addrs []netip.Addr, first netip.Addr) []netip.Addr {
	preferred := func(a netip.Addr) bool { return a.Is4() == (o.Prefer == dns.V4) }
	if o.Prefer != dns.All && slices.ContainsFunc(addrs, preferred) {
		addrs = slices.DeleteFunc(addrs, func(a netip.Addr) bool { return !preferred(a) })
	}
	if i := slices.Index(addrs, first); o.Rotate && i > 0 {
		addrs = slices.Concat(addrs[i:], addrs[:i])
	}
	return addrs
}

// log says once that a name can't be looked up, once that it can again, and once for all names if the fault is here.
func (n *name) log(ans dns.Answer, before []netip.Addr, hadErr error, wasLocal bool) {
	log, kind, had := n.d.opt.Log.With("name", n.key.name), dns.KindOf(ans.Err), dns.KindOf(hadErr)
	switch {
	case kind == dns.Local && !wasLocal:
		log.Warn("DNS can't be asked from this machine; the addresses known stay in use", "err", ans.Err)
	case kind != dns.Local && wasLocal:
		log.Info("DNS can be asked again")
	}
	switch {
	case ans.Err == nil && hadErr != nil && had != dns.Local:
		log.Info("name resolves again", "addresses", len(ans.Addrs))
	case ans.Err == nil && !slices.Equal(before, ans.Addrs):
		log.Debug("addresses of name", "were", before, "are", ans.Addrs)
	case ans.Err != nil && kind != dns.Local && kind != had:
		log.Warn("name does not resolve", "err", ans.Err, "addresses kept", len(before))
	}
}

// deliver tells each watch what it has not been told yet.
func (n *name) deliver() {
	d := n.d
	d.mu.Lock()
	addrs, known := n.addrs, !n.at.IsZero()
	watchers := slices.Collect(maps.Keys(n.watchers))
	d.mu.Unlock()
	for _, w := range watchers {
		d.mu.Lock()
		closed := w.closed
		d.mu.Unlock()
		if closed || !known {
			continue
		}
		if len(addrs) > 0 && !slices.Equal(w.told, addrs) {
			w.told = addrs
			w.fn(addrs)
		}
		if !w.announced {
			w.announced = true
			close(w.first)
		}
	}
}
