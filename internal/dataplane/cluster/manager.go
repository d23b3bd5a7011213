package cluster

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/dataplane/discovery"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

// Watch is one interest in a DNS name; *discovery.Watcher is one.
type Watch interface {
	Refresh()
	Close()
	First() <-chan struct{}
}

// Discovery watches DNS names; DNS makes one of a *discovery.StrictDNS.
type Discovery interface {
	Watch(name string, o discovery.Options, fn func([]netip.Addr)) Watch
}

// DNS adapts discovery's STRICT_DNS.
func DNS(d *discovery.StrictDNS) Discovery { return strictDNS{d} }

type strictDNS struct{ d *discovery.StrictDNS }

func (s strictDNS) Watch(name string, o discovery.Options, fn func([]netip.Addr)) Watch {
	return s.d.Watch(name, o, fn)
}

// Options make a Manager.
type Options struct {
	Log       *slog.Logger    // nil: slog.Default()
	Discovery Discovery       // for STRICT_DNS clusters, which are rejected without it
	Stats     *stats.Registry // nil: a registry of its own
	// CompatEnvoy turns off what an Envoy can't do (DESIGN.md, E1 to E5), for parity tests.
	CompatEnvoy bool
}

// Manager owns all clusters.
type Manager struct {
	opt      Options
	clusters atomic.Pointer[map[string]*Cluster]

	mu       sync.Mutex // one Update at a time
	last     *xds.Snapshot
	simple   bool // all of last is in force, and each cluster's assignment has its name
	lives    map[string]*live
	onEject  []func(*lb.Host)
	onRemove []func(*lb.Host)
	faultAt  atomic.Int64 // UnixNano of the last fault line
}

// NewManager makes a manager without clusters.
func NewManager(o Options) *Manager {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Stats == nil {
		o.Stats = stats.NewRegistry()
	}
	m := &Manager{opt: o, lives: map[string]*live{}}
	m.clusters.Store(&map[string]*Cluster{})
	o.Stats.OnCollect(m.collect)
	return m
}

// collect sets the gauges that are cheaper to add up than to keep. It runs under the registry's lock.
func (m *Manager) collect() {
	for _, c := range m.Table() {
		var active int64
		for _, e := range c.endpoints() {
			active += e.Stats.RqActive.Value()
		}
		c.live.stats.UpstreamRqActive.Set(active)
		b, st := &c.live.breaker, &c.live.stats.CircuitBreakers
		st.RemainingCx.Set(b.Connections.remaining())
		st.RemainingPending.Set(b.Pending.remaining())
		st.RemainingRq.Set(b.Requests.remaining())
		st.RemainingRetries.Set(b.Retries.remaining())
	}
}

// Get gives the current version of a cluster, nil if there is none. It takes no lock.
func (m *Manager) Get(name string) *Cluster { return (*m.clusters.Load())[name] }

// Table gives all clusters by name, as one version that never changes: routes and clusters of one snapshot belong together.
func (m *Manager) Table() map[string]*Cluster { return *m.clusters.Load() }

// Clusters lists the current versions, sorted by name.
func (m *Manager) Clusters() []*Cluster {
	all := *m.clusters.Load()
	out := make([]*Cluster, 0, len(all))
	for _, c := range all {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Cluster) int { return strings.Compare(a.cfg.Name, b.cfg.Name) })
	return out
}

// warmFor bounds how long Update waits for the addresses of names that are new to a cluster that serves.
const warmFor = time.Second

// change is one cluster of a snapshot, compiled.
type change struct {
	live *live
	cfg  *Config
	a    *assignment
}

// Update puts a snapshot's clusters and endpoints in force, all at once, and gives what it refused: of that the last good
// version stays. Hosts, health, DNS watches and counters of clusters that stay are kept. Where a cluster that serves gets
// new DNS names, the old state serves on until they were looked up once, for a second at most.
func (m *Manager) Update(s *xds.Snapshot) []xds.Rejection {
	m.mu.Lock()
	defer m.mu.Unlock()
	clusters, gone, few := m.touched(s)
	next := maps.Clone(*m.clusters.Load())
	if !few {
		clusters, next = s.Clusters, make(map[string]*Cluster, len(s.Clusters))
	}
	m.last, m.simple = s, true
	changes, rejected := m.compile(s, clusters, next)
	var wait []Watch
	for _, c := range changes {
		wait = append(wait, c.live.warm(c.cfg, c.a)...)
	}
	if len(wait) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), warmFor)
		waitAll(ctx, wait)
		cancel()
	}
	for _, c := range changes {
		next[c.cfg.Name] = c.live.apply(c.cfg, c.a)
	}
	if !few {
		for name := range m.lives {
			if next[name] == nil {
				gone = append(gone, name)
			}
		}
	}
	for _, name := range gone {
		delete(next, name)
	}
	m.clusters.Store(&next)
	for _, name := range gone {
		if l := m.lives[name]; l != nil {
			delete(m.lives, name)
			l.close()
			m.opt.Stats.RemoveCluster(name)
		}
	}
	return rejected
}

// touched gives the clusters of a snapshot that may be others than those in force, and the names of those that are gone;
// few is false where all must be looked at. What is the same message as before, with the same assignment, is as it was.
func (m *Manager) touched(s *xds.Snapshot) (clusters []*clusterv3.Cluster, gone []string, few bool) {
	if !m.simple {
		return nil, nil, false
	}
	left, came, ok := xds.Difference(m.last.Clusters, s.Clusters)
	leftA, cameA, okA := xds.Difference(m.last.Endpoints, s.Endpoints)
	if !ok || !okA {
		return nil, nil, false
	}
	names := map[string]bool{}
	for _, c := range slices.Concat(left, came) {
		names[c.GetName()] = true
	}
	for _, a := range slices.Concat(leftA, cameA) {
		names[a.GetClusterName()] = true
	}
	for _, c := range s.Clusters {
		if names[c.GetName()] {
			clusters = append(clusters, c)
			delete(names, c.GetName())
		}
	}
	return clusters, slices.Sorted(maps.Keys(names)), true
}

// compile judges clusters of a snapshot and puts the last good version of bad ones into next. m.mu is held.
func (m *Manager) compile(s *xds.Snapshot, clusters []*clusterv3.Cluster, next map[string]*Cluster) (changes []change, rejected []xds.Rejection) {
	old := *m.clusters.Load()
	assigned := assignmentsFor(s, clusters)
	for _, c := range clusters {
		cfg, err := m.config(old[c.GetName()], c)
		var a *assignment
		if err == nil {
			raw := c.GetLoadAssignment()
			if cfg.Type == EDS {
				raw = assigned(cfg.eds)
				m.simple = m.simple && cfg.eds == cfg.Name
			}
			if l := m.lives[cfg.Name]; l != nil && l.same(cfg, raw) {
				next[cfg.Name] = l.current
				continue
			}
			a, err = compileAssignment(cfg, raw)
		}
		if err != nil {
			m.simple = false
			rejected = append(rejected, rejection(c, cfg, err))
			if last := old[c.GetName()]; last != nil {
				next[c.GetName()] = last
			}
			continue
		}
		l := m.lives[cfg.Name]
		if l == nil {
			l = newLive(m, cfg.Name)
			m.lives[cfg.Name] = l
		}
		changes = append(changes, change{l, cfg, a})
	}
	return changes, rejected
}

// assignmentsFor gives a function that finds a snapshot's assignments by name for some of its clusters.
func assignmentsFor(s *xds.Snapshot, clusters []*clusterv3.Cluster) func(string) *endpointv3.ClusterLoadAssignment {
	if len(clusters) <= fewClusters {
		return func(name string) *endpointv3.ClusterLoadAssignment {
			i := slices.IndexFunc(s.Endpoints, func(a *endpointv3.ClusterLoadAssignment) bool { return a.GetClusterName() == name })
			if i < 0 {
				return nil
			}
			return s.Endpoints[i]
		}
	}
	all := make(map[string]*endpointv3.ClusterLoadAssignment, len(s.Endpoints))
	for _, a := range s.Endpoints {
		all[a.GetClusterName()] = a
	}
	return func(name string) *endpointv3.ClusterLoadAssignment { return all[name] }
}

// fewClusters are looked up one by one; for more an index pays.
const fewClusters = 4

const typePrefix = "type.googleapis.com/"

// rejection names the resource at fault; cfg is nil if that is the cluster itself.
func rejection(c *clusterv3.Cluster, cfg *Config, err error) xds.Rejection {
	var of proto.Message = c
	name := c.GetName()
	if cfg != nil && cfg.Type == EDS {
		of, name = (*endpointv3.ClusterLoadAssignment)(nil), cfg.eds
	}
	return xds.Rejection{TypeURL: typePrefix + string(of.ProtoReflect().Descriptor().FullName()), Name: name, Reason: err.Error()}
}

// config compiles a cluster, or gives the configuration in force if it is the same.
func (m *Manager) config(old *Cluster, c *clusterv3.Cluster) (*Config, error) {
	if old != nil && (old.cfg.Proto == c || proto.Equal(old.cfg.Proto, c)) {
		return old.cfg, nil
	}
	cfg, err := compile(c, &m.opt)
	if err == nil && (cfg.Type.byName() || cfg.Type == DynamicDNS) && m.opt.Discovery == nil {
		err = errors.New("type: needs a resolver for its names")
	}
	if err != nil {
		return nil, err
	}
	return cfg, nil
}

// Close ends all DNS watches and timers; the clusters still answer Pick.
func (m *Manager) Close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.lives {
		l.close()
	}
	for _, l := range m.lives {
		l.waits.Wait()
	}
}

// restFor is what WaitFirst gives the names that are not the nearest: a request that comes at once must find where else to
// go when the nearest endpoint is down.
const restFor = 50 * time.Millisecond

// WaitFirst waits until the names of each cluster's lowest priority number were looked up once, and then restFor at most for
// the others, or until ctx ends.
func (m *Manager) WaitFirst(ctx context.Context) {
	for _, c := range m.Clusters() {
		waitAll(ctx, c.live.names(true))
	}
	ctx, cancel := context.WithTimeout(ctx, restFor)
	defer cancel()
	for _, c := range m.Clusters() {
		waitAll(ctx, c.live.names(false))
	}
}

func waitAll(ctx context.Context, watches []Watch) {
	for _, w := range watches {
		select {
		case <-w.First():
		case <-ctx.Done():
			return
		}
	}
}

// OnEject adds a function that is called when a host is ejected, on the worker whose attempt did it, and before Done
// returns: pools close its idle connections. It must not block. To be set before the first Update.
func (m *Manager) OnEject(fn func(*lb.Host)) { m.onEject = append(m.onEject, fn) }

// OnRemove adds a function that is called when a host has left its cluster: pools close its connections once they are idle.
// It must not block. To be set before the first Update.
func (m *Manager) OnRemove(fn func(*lb.Host)) { m.onRemove = append(m.onRemove, fn) }

func (m *Manager) removed(hosts []*lb.Host) {
	for _, h := range hosts {
		for _, fn := range m.onRemove {
			fn(h)
		}
	}
}

// Refresh asks for a host's name to be resolved again at once, since a connection to it failed. Done does so for failures
// of connecting by itself.
func (m *Manager) Refresh(h *lb.Host) {
	if c := m.Get(h.Cluster); c != nil {
		c.live.refresh(h)
	}
}
