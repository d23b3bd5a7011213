package dataplane

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"

	"detour.dev/detour/internal/dataplane/cluster"
	"detour.dev/detour/internal/dataplane/lb"
	"detour.dev/detour/internal/dataplane/listener"
	"detour.dev/detour/internal/dataplane/route"
	"detour.dev/detour/internal/dataplane/streaminfo"
	"detour.dev/detour/internal/dataplane/upstream"
	"detour.dev/detour/internal/stats"
	"detour.dev/detour/internal/xds"
)

// Options of a Plane.
type Options struct {
	Clusters *cluster.Manager
	Stats    *stats.Registry
	Log      *slog.Logger
	// Workers is the number of event loops; 0: one.
	Workers int
	// Compat turns the guarantees off that an Envoy can't give (proxy --compat envoy).
	Compat bool
	// ProxyDeclaredOnly refuses destinations that nothing declares on the forward proxy, whatever the snapshot says.
	ProxyDeclaredOnly bool
	// OriginalDst tells where a redirected connection was meant to go.
	OriginalDst func(fd int) (netip.AddrPort, error)
	// NewSocket makes the sockets of listeners that have their own, see listener.Open; nil: in this process's namespace.
	NewSocket func(family int) (int, error)
	// Resolve looks up a name that nothing declares, for the forward proxy. It may block.
	Resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	// Via is the forward proxy for detour's own connections; nil: none.
	Via *upstream.ForwardProxy
	// AccessLog is told of each request and relayed connection that ended; it must not keep info. nil: no log. It is
	// called on the workers' loops.
	AccessLog func(info *streaminfo.Info)
	// Rand gives uniformly distributed values for routes' weights and fractions; nil: the runtime's own generator. It is
	// called on the workers' loops.
	Rand func() uint64
}

// Plane is the embedded engine: it serves connections by the snapshot in force. It implements xds.Sink.
type Plane struct {
	Options
	tls     *upstream.TLSContexts
	workers []*worker
	state   atomic.Pointer[state]
	updates sync.Mutex // one Set at a time

	mu       sync.Mutex
	applied  time.Time       // guarded by mu
	rejected []xds.Rejection // guarded by mu
	bound    []Bound         // guarded by mu
	own      ownSockets      // guarded by mu
	draining atomic.Bool
	hungUp   hangups

	acceptSaid atomic.Int64 // when it was last said that connections can't be accepted, in ns of Unix time
}

// state is a compiled snapshot. It is immutable and swapped as a whole.
type state struct {
	snapshot  *xds.Snapshot
	clusters  map[string]*cluster.Cluster
	unserved  map[string]bool // clusters of the snapshot that the engine can't serve: 501
	tables    map[string]*route.Table
	listeners *listener.Set
	configs   map[string]*listener.Config
	own       map[listener.Own]*listener.Config // by the sockets they have of their own
	all       []*listener.Config
	made      map[*listenerv3.Listener]*listener.Config // what each good message of the snapshot was compiled to
	declared  map[netip.Addr]bool                       // addresses of listeners and virtual hosts
	names     *nameTable
}

// registryOnly tells whether the snapshot refuses what nothing declares.
func (st *state) registryOnly() bool { return st.snapshot != nil && st.snapshot.RegistryOnly }

// elsewhere is the cluster that gets what nothing declares, where that is not dialled; "": it is, or is refused.
func (st *state) elsewhere() string {
	if st.snapshot == nil || st.snapshot.RegistryOnly {
		return ""
	}
	return st.snapshot.Undeclared
}

// looksUp tells whether plain HTTP that nothing declares goes to where its Host resolves to.
func (st *state) looksUp() bool {
	return (st.clusters[xds.LookupCluster] != nil || st.unserved[xds.LookupCluster]) && !st.registryOnly() && st.elsewhere() == ""
}

// New makes a Plane without connections and starts its workers; Stop ends them.
func New(o Options) (*Plane, error) {
	p := &Plane{Options: o, tls: &upstream.TLSContexts{Log: o.Log}}
	p.state.Store(&state{listeners: listener.NewSet(nil)})
	for range max(o.Workers, 1) {
		w, err := newWorker(p)
		if err != nil {
			p.Stop()
			return nil, err
		}
		p.workers = append(p.workers, w)
		go w.d.Run()
	}
	var peers []*upstream.Pools
	for _, w := range p.workers {
		peers = append(peers, w.pools)
	}
	for _, w := range p.workers {
		w.d.Post(func() { w.pools.Peers = peers })
	}
	o.Clusters.OnEject(p.closeIdle)
	o.Clusters.OnRemove(p.closeIdle)
	return p, nil
}

func (p *Plane) closeIdle(h *lb.Host) {
	for _, w := range p.workers {
		w.d.Post(func() { w.pools.CloseIdle(h) })
	}
}

// Set compiles a snapshot and puts it in force with one swap: connections and requests under way finish on what they
// began with. Clusters and listeners that can't be served keep their last good versions; where there is none, and where
// a route or a filter chain can't be served, requests get 501 and connections are reset, and nothing else is touched.
func (p *Plane) Set(s *xds.Snapshot) xds.Result {
	p.updates.Lock()
	defer p.updates.Unlock()
	old := p.state.Load()
	var bad []xds.Rejection
	st := &state{snapshot: s, tables: map[string]*route.Table{}, configs: map[string]*listener.Config{}, made: map[*listenerv3.Listener]*listener.Config{},
		unserved: map[string]bool{}, declared: make(map[netip.Addr]bool, len(old.declared))}
	for _, rc := range s.Routes {
		t, refused := route.Recompile(old.tables[rc.GetName()], rc, s.Foreign)
		for _, err := range refused {
			bad = append(bad, xds.Rejection{TypeURL: routeType, Name: rc.GetName(), Reason: err.Error()})
		}
		st.tables[rc.GetName()] = t
	}
	var all []*listener.Config
	for _, l := range s.Listeners {
		c, err := old.made[l], error(nil)
		if c == nil {
			c, err = listener.Compile(l)
		}
		if err != nil {
			bad = append(bad, xds.Rejection{TypeURL: listenerType, Name: l.GetName(), Reason: err.Error()})
			if c = old.configs[l.GetName()]; c == nil {
				continue
			}
		}
		if err == nil {
			st.made[l] = c
			for _, err := range c.Refused {
				bad = append(bad, xds.Rejection{TypeURL: listenerType, Name: l.GetName(), Reason: err.Error()})
			}
		}
		st.configs[c.Name] = c
		all = append(all, c)
	}
	st.listeners, st.own = listener.NewSet(all), ownersOf(all)
	st.declare(s, all, old)
	bad = append(p.Clusters.Update(s), bad...)
	st.clusters = p.Clusters.Table()
	p.tls.Retain(st.clusters)
	for _, c := range s.Clusters {
		if len(st.clusters) == len(s.Clusters) { // it has no others
			break
		}
		if st.clusters[c.GetName()] == nil {
			st.unserved[c.GetName()] = true
		}
	}
	p.state.Store(st)
	p.mu.Lock()
	bad = append(bad, p.openOwn(st)...)
	p.applied, p.rejected = time.Now(), bad
	p.mu.Unlock()
	p.Stats.Detour().SnapshotUpdates.Inc()
	p.Stats.Detour().SnapshotRejected.Add(uint64(len(bad)))
	return xds.Result{Rejected: bad}
}

const (
	routeType    = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	listenerType = "type.googleapis.com/envoy.config.listener.v3.Listener"
)

// nameTable is a snapshot's name table, by host and by address.
type nameTable struct {
	from  []xds.Name
	hosts map[string][]netip.Addr
	addrs map[netip.Addr]bool
}

func newNameTable(names []xds.Name) *nameTable {
	t := &nameTable{from: names, hosts: make(map[string][]netip.Addr, len(names)), addrs: make(map[netip.Addr]bool, 2*len(names))}
	for _, n := range names {
		t.hosts[n.Host] = n.Addrs
		for _, a := range n.Addrs {
			t.addrs[a] = true
		}
	}
	return t
}

// same tells whether the table was made of that very slice, which nobody changes.
func (t *nameTable) same(names []xds.Name) bool {
	return len(t.from) == len(names) && (len(names) == 0 || &t.from[0] == &names[0])
}

// isDeclared tells whether an address belongs to a declared host.
func (st *state) isDeclared(a netip.Addr) bool {
	return st.declared[a] || st.names != nil && st.names.addrs[a]
}

// declare collects the addresses that belong to declared hosts: those of the name table, of listeners of their own, of
// filter chains, and of virtual hosts. Of what is the same as in the old state that one's are taken.
func (st *state) declare(s *xds.Snapshot, all []*listener.Config, old *state) {
	if st.names = old.names; st.names == nil || !st.names.same(s.Names) {
		st.names = newNameTable(s.Names)
	}
	st.all = all
	if old.snapshot != nil && slices.Equal(all, old.all) && slices.Equal(s.Routes, old.snapshot.Routes) {
		st.declared = old.declared
		return
	}
	for _, a := range st.listeners.Exact() {
		st.declared[a] = true
	}
	for _, c := range all {
		for _, p := range c.Prefixes() {
			if p.IsSingleIP() {
				st.declared[p.Addr()] = true
			}
		}
	}
	for _, rc := range s.Routes {
		for _, vh := range rc.GetVirtualHosts() {
			for _, d := range vh.GetDomains() {
				if d = trimBrackets(d); !mayBeAddress(d) {
					continue
				}
				if a, err := netip.ParseAddr(d); err == nil {
					st.declared[a] = true
				}
			}
		}
	}
}

// mayBeAddress tells whether a domain of a virtual host can be an address at all; there are thousands of names.
func mayBeAddress(d string) bool {
	return strings.IndexByte(d, ':') >= 0 || d != "" && d[0] >= '0' && d[0] <= '9' && d[len(d)-1] >= '0' && d[len(d)-1] <= '9'
}

func trimBrackets(s string) string {
	if len(s) > 2 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}

// Snapshot gives what is in force, since when, and what of it was rejected; nil before the first Set.
func (p *Plane) Snapshot() (*xds.Snapshot, time.Time, []xds.Rejection) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state.Load().snapshot, p.applied, p.rejected
}

// NetworkChanged drops idle connections: the addresses of this host changed, or it slept (guarantee E4).
func (p *Plane) NetworkChanged() { p.closeAllIdle() }

func (p *Plane) closeAllIdle() {
	for _, w := range p.workers {
		w.d.Post(w.pools.CloseAllIdle)
	}
}

// Drain stops accepting and closes each connection after its current request. It returns at once.
func (p *Plane) Drain() {
	p.draining.Store(true)
	p.removeOwn()
	for _, w := range p.workers {
		w.d.Post(w.drain)
	}
}

// Connections is the number of clients' connections.
func (p *Plane) Connections() (n int) {
	for _, w := range p.workers {
		n += int(w.open.Load())
	}
	return n
}

// Stop ends the workers and closes every connection.
func (p *Plane) Stop() {
	p.removeOwn()
	for _, w := range p.workers {
		w.d.Post(func() { // in one turn: a loop that finds itself stopped does not look at what was posted
			w.closeAll()
			w.d.Stop()
		})
	}
	for _, w := range p.workers {
		<-w.d.Done()
	}
}
