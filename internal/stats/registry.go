package stats

import (
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"time"
)

// Registry holds the scopes of one process. Asking for a scope by a name that exists gives the same scope again, so that
// counters survive a change of configuration (DESIGN.md, rule 2). It is safe for concurrent use; asking takes a lock and
// belongs where configuration is compiled, never where requests are served.
type Registry struct {
	start time.Time

	mu        sync.Mutex
	clusters  map[string]*Cluster
	https     map[string]*HTTP
	listeners map[string]*Listener
	tcps      map[string]*TCP
	collect   []func()

	server Server
	detour Detour
}

// NewRegistry makes an empty registry; server.uptime counts from here.
func NewRegistry() *Registry {
	r := &Registry{
		start:     time.Now(),
		clusters:  map[string]*Cluster{},
		https:     map[string]*HTTP{},
		listeners: map[string]*Listener{},
		tcps:      map[string]*TCP{},
	}
	r.server.State.Set(2)
	return r
}

// Cluster gives the scope cluster.NAME, made at its first use. name is the cluster's name.
func (r *Registry) Cluster(name string) *Cluster { return get(r, r.clusters, name) }

// HTTP gives the scope http.PREFIX, made at its first use; prefix is the connection manager's stat_prefix.
func (r *Registry) HTTP(prefix string) *HTTP { return get(r, r.https, prefix) }

// Listener gives the scope listener.ADDRESS, made at its first use; addr is IP:PORT or what stands for it.
func (r *Registry) Listener(addr string) *Listener {
	return get(r, r.listeners, strings.ReplaceAll(addr, ":", "_"))
}

// TCP gives the scope tcp.PREFIX, made at its first use; prefix is the TCP proxy's stat_prefix.
func (r *Registry) TCP(prefix string) *TCP { return get(r, r.tcps, prefix) }

// Server gives the scope server.
func (r *Registry) Server() *Server { return &r.server }

// Detour gives the scope detour.
func (r *Registry) Detour() *Detour { return &r.detour }

// RemoveCluster forgets cluster.NAME. Who still holds the scope may go on counting; nobody will see it.
func (r *Registry) RemoveCluster(name string) { remove(r, r.clusters, name) }

// RemoveHTTP forgets http.PREFIX.
func (r *Registry) RemoveHTTP(prefix string) { remove(r, r.https, prefix) }

// RemoveListener forgets listener.ADDRESS.
func (r *Registry) RemoveListener(addr string) {
	remove(r, r.listeners, strings.ReplaceAll(addr, ":", "_"))
}

// RemoveTCP forgets tcp.PREFIX.
func (r *Registry) RemoveTCP(prefix string) { remove(r, r.tcps, prefix) }

// OnCollect adds a function that runs before every rendering, to set gauges that are cheaper to compute than to keep. It
// must not call the registry.
func (r *Registry) OnCollect(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collect = append(r.collect, f)
}

// Uptime gives the time since the registry was made.
func (r *Registry) Uptime() time.Duration { return time.Since(r.start) }

func get[T any](r *Registry, m map[string]*T, name string) *T {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := m[name]
	if s == nil {
		s = new(T)
		m[name] = s
	}
	return s
}

func remove[T any](r *Registry, m map[string]*T, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(m, name)
}

// refresh computes what is not kept; r.mu is held.
func (r *Registry) refresh() {
	for _, f := range r.collect {
		f()
	}
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/heap/allocs:objects"},
	}
	metrics.Read(samples)
	value := func(i int) int64 {
		if samples[i].Value.Kind() != metrics.KindUint64 {
			return 0
		}
		return int64(samples[i].Value.Uint64())
	}
	s := &r.server
	s.MemoryAllocated.Set(value(0))
	s.MemoryHeapSize.Set(value(0) + value(1))
	s.MemoryPhysical.Set(value(2) - value(3))
	s.Allocations.Set(value(4))
	s.Uptime.Set(int64(r.Uptime() / time.Second))
	s.Concurrency.Set(int64(runtime.GOMAXPROCS(0)))
	s.Goroutines.Set(int64(runtime.NumGoroutine()))
	var cx int64
	for _, l := range r.listeners {
		cx += l.DownstreamCxActive.Value()
	}
	s.TotalConnections.Set(cx)
}
