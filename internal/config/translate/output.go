package translate

import (
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// resource is a message of the snapshot with its hash.
type resource[M proto.Message] struct {
	name string
	m    M
	sum  xds.Sum
}

func newResource[M proto.Message](name string, m M) resource[M] {
	return resource[M]{name, m, xds.SumOf(m)}
}

// clusterUnit is the clusters of one service.
type clusterUnit struct {
	*unit
	clusters    []resource[*clusterv3.Cluster]
	assignments []resource[*endpointv3.ClusterLoadAssignment]
}

// routeUnit is the routes of one service on one port, or those of a VirtualService for names that nobody declares.
type routeUnit struct {
	*unit
	port   servicePort
	routes []*routev3.Route
}

// output is what a run gave, for the next one to take from.
type output struct {
	made        *compiler // whose front it follows; nil: there was no run
	clusters    sorted[*clusterv3.Cluster]
	assignments sorted[*endpointv3.ClusterLoadAssignment]
	loud        int // services whose clusters report anything
	listeners   listenerUnit
	tables      map[string]*hostTable // by name of the route configuration
	names       []xds.Name
	namesSum    xds.Sum
}

// sorted is the resources of one kind by name. A snapshot has the slices, so they are never changed.
type sorted[M proto.Message] struct {
	list []M
	sums []xds.Sum
}

func sortedOf[M proto.Message](all []resource[M]) sorted[M] {
	slices.SortStableFunc(all, func(a, b resource[M]) int { return strings.Compare(a.name, b.name) })
	out := sorted[M]{make([]M, len(all)), make([]xds.Sum, len(all))}
	for i := range all {
		out.list[i], out.sums[i] = all[i].m, all[i].sum
	}
	return out
}

// swap is resources that came in the place of others.
type swap[M proto.Message] struct{ old, now []resource[M] }

// with gives the list after swaps.
func (s sorted[M]) with(swaps []swap[M], name func(M) string) sorted[M] {
	if len(swaps) == 0 {
		return s
	}
	room := len(s.list)
	for _, w := range swaps {
		room += len(w.now)
	}
	out := sorted[M]{append(make([]M, 0, room), s.list...), append(make([]xds.Sum, 0, room), s.sums...)}
	for _, w := range swaps {
		for _, r := range w.old {
			if i, found := out.find(r.name, name); found && !slices.ContainsFunc(w.now, func(n resource[M]) bool { return n.name == r.name }) {
				out.list, out.sums = slices.Delete(out.list, i, i+1), slices.Delete(out.sums, i, i+1)
			}
		}
		for _, r := range w.now {
			i, found := out.find(r.name, name)
			if !found {
				out.list, out.sums = slices.Insert(out.list, i, r.m), slices.Insert(out.sums, i, r.sum)
			}
			out.list[i], out.sums[i] = r.m, r.sum
		}
	}
	return out
}

func (s sorted[M]) find(name string, of func(M) string) (int, bool) {
	return slices.BinarySearchFunc(s.list, name, func(m M, name string) int { return strings.Compare(of(m), name) })
}

// snapshot runs the back: it compiles the units that are not valid any more and puts all together.
func (c *compiler) snapshot() (*xds.Snapshot, []config.Issue) {
	c.issues, c.reported, c.filters = slices.Clone(c.found), map[config.Issue]bool{}, map[uint32]map[string]bool{}
	for _, i := range c.issues {
		c.reported[i] = true
	}
	if c.before == nil {
		c.before = &output{}
	}
	snap, out, sums := &xds.Snapshot{RegistryOnly: c.mesh.registryOnly, Undeclared: c.undeclaredElsewhere()}, &output{tables: map[string]*hostTable{}, made: c}, &xds.Sums{}
	if c.before.made == c {
		c.clustersAfter(out)
	} else {
		c.allClusters(out)
	}
	snap.Clusters, sums.Clusters = out.clusters.list, out.clusters.sums
	snap.Endpoints, sums.Endpoints = out.assignments.list, out.assignments.sums
	snap.Routes, sums.Routes = c.routeConfigs(out)
	snap.Listeners, sums.Listeners = c.listenersAfter(out) // after the routes, which tell the filters they need
	snap.Routes, sums.Routes = c.asked(out.listeners.routes, snap.Routes, sums.Routes)
	c.namesAfter(out)
	snap.Names, sums.Names = out.names, out.namesSum
	snap.Version = snap.HashOf(sums)
	c.before, c.pending = out, pending{}
	return snap, c.issues
}

// allClusters makes the clusters of a new front.
func (c *compiler) allClusters(out *output) {
	clusters := make([]resource[*clusterv3.Cluster], 0, len(c.services)+2)
	assignments := make([]resource[*endpointv3.ClusterLoadAssignment], 0, len(c.services))
	for _, s := range c.services {
		if !s.clusters.valid(c, s) {
			s.clusters = c.compileClusters(s)
		}
		if s.clusters.loud() {
			out.loud++
			c.replay(s.clusters.unit)
		}
		clusters = append(clusters, s.clusters.clusters...)
		assignments = append(assignments, s.clusters.assignments...)
	}
	if c.own == nil {
		c.own = []resource[*clusterv3.Cluster]{newResource(blackHoleName, c.blackHoleCluster()), newResource(passthroughName, c.passthroughCluster())}
		if c.mesh.looksUp {
			c.own = append(c.own, newResource(xds.LookupCluster, c.lookupCluster()))
		}
	}
	out.clusters, out.assignments = sortedOf(append(clusters, c.own...)), sortedOf(assignments)
}

// valid tells whether the clusters of a service need no compilation: they are made from it and nothing else.
func (u *clusterUnit) valid(c *compiler, s *service) bool {
	return u != nil && u.of.id == s.id && !(c.moved && u.loud())
}

// clustersAfter brings the clusters of the run before up to date.
func (c *compiler) clustersAfter(out *output) {
	before := c.before
	out.loud = before.loud
	var clusters []swap[*clusterv3.Cluster]
	var assignments []swap[*endpointv3.ClusterLoadAssignment]
	put := func(old, now *clusterUnit) {
		if old == nil {
			old = &clusterUnit{unit: &unit{}}
		}
		clusters = append(clusters, swap[*clusterv3.Cluster]{old.clusters, now.clusters})
		assignments = append(assignments, swap[*endpointv3.ClusterLoadAssignment]{old.assignments, now.assignments})
		for u, n := range map[*unit]int{old.unit: -1, now.unit: 1} {
			if u.loud() {
				out.loud += n
			}
		}
	}
	for _, u := range c.gone {
		put(u, &clusterUnit{unit: &unit{}})
	}
	for h := range c.dirty {
		if s := c.byHost[h]; s != nil && !s.clusters.valid(c, s) {
			old := s.clusters
			s.clusters = c.compileClusters(s)
			put(old, s.clusters)
		}
	}
	for i := 0; out.loud > 0 && i < len(c.services); i++ {
		s := c.services[i]
		if !s.clusters.valid(c, s) { // what it reported may stand elsewhere
			old := s.clusters
			s.clusters = c.compileClusters(s)
			put(old, s.clusters)
		}
		c.replay(s.clusters.unit)
	}
	out.clusters = before.clusters.with(clusters, (*clusterv3.Cluster).GetName)
	out.assignments = before.assignments.with(assignments, (*endpointv3.ClusterLoadAssignment).GetClusterName)
}

// compileClusters makes the clusters of a service. Of those that are as they were the old message stays.
func (c *compiler) compileClusters(s *service) *clusterUnit {
	out := &clusterUnit{}
	out.unit = c.compile(s.identity, func() {
		cs, as := c.clustersOf(s)
		for _, m := range cs {
			out.clusters = append(out.clusters, newResource(m.Name, m))
		}
		for _, m := range as {
			out.assignments = append(out.assignments, newResource(m.ClusterName, m))
		}
	})
	if old := s.clusters; old != nil {
		keep(out.clusters, old.clusters)
		keep(out.assignments, old.assignments)
	}
	return out
}

// keep puts the old messages in the place of new ones that are the same.
func keep[M proto.Message](now, old []resource[M]) {
	for i := range now {
		for j := range old {
			if old[j].name == now[i].name && old[j].sum == now[i].sum {
				now[i] = old[j]
			}
		}
	}
}

// routesOf gives the routes of a service on a port.
func (c *compiler) routesOf(s *service, p servicePort) *routeUnit {
	i := slices.IndexFunc(s.routes, func(u *routeUnit) bool { return u.port == p })
	if i >= 0 && s.routes[i].valid(c, s.identity) && !(c.moved && s.routes[i].loud()) {
		return s.routes[i]
	}
	u := &routeUnit{port: p}
	u.unit = c.compile(s.identity, func() { u.routes = c.serviceRoutes(s, p) })
	s.routes = slices.Clone(s.routes) // another run's service may have the same
	if i < 0 {
		s.routes = append(s.routes, u)
	} else {
		s.routes[i] = u
	}
	return u
}

// routedKey is a VirtualService on a port.
type routedKey struct {
	object *config.Object
	port   servicePort
}

// routedRoutes gives the routes of a VirtualService on a port.
func (c *compiler) routedRoutes(k routedKey) *routeUnit {
	u := c.routed[k]
	if u != nil && u.valid(c, identity{}) && !(c.moved && u.loud()) {
		return u
	}
	u = &routeUnit{port: k.port}
	u.unit = c.compile(identity{}, func() { u.routes = c.httpRoutes(k.object, virtualServiceOf(k.object), k.port) })
	if c.routed == nil {
		c.routed = map[routedKey]*routeUnit{}
	}
	c.routed[k] = u
	return u
}

// listenerUnit is all listeners.
type listenerUnit struct {
	*unit
	filters map[uint32]map[string]bool
	list    []*listenerv3.Listener
	routes  map[string]bool // the names of what they ask for
	sums    []xds.Sum
}

// listenersAfter makes the listeners unless they are as before. Of those that are made anew and equal, the old one stays.
func (c *compiler) listenersAfter(out *output) ([]*listenerv3.Listener, []xds.Sum) {
	before := c.before.listeners
	if c.before.made == c && !c.replan && before.valid(c, identity{}) && !(c.moved && before.loud()) && sameFilters(before.filters, c.filters) {
		c.replay(before.unit)
		out.listeners = before
		return before.list, before.sums
	}
	l := listenerUnit{filters: c.filters}
	l.unit = c.compile(identity{}, func() { l.list, l.routes = c.listeners() })
	c.replay(l.unit)
	known := map[string]int{}
	for i, m := range before.list {
		known[m.Name] = i
	}
	for i, m := range l.list {
		sum := xds.SumOf(m)
		if j, ok := known[m.Name]; ok && before.sums[j] == sum {
			l.list[i] = before.list[j]
		}
		l.sums = append(l.sums, sum)
	}
	out.listeners = l
	return l.list, l.sums
}

func sameFilters(a, b map[uint32]map[string]bool) bool {
	if len(a) != len(b) {
		return false
	}
	for port, names := range a {
		if len(names) != len(b[port]) {
			return false
		}
		for name := range names {
			if !b[port][name] {
				return false
			}
		}
	}
	return true
}
