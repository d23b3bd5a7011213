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
	clusters    sorted[*clusterv3.Cluster]
	assignments sorted[*endpointv3.ClusterLoadAssignment]
	listeners   listenerUnit
	tables      map[string]*hostTable // by name of the route configuration
	names       []xds.Name
	namesSum    xds.Sum
	made        *compiler // whose names they are
}

// sorted is a list of resources in the order they were made, and the order of their names.
type sorted[M proto.Message] struct {
	names []string
	order []int
}

// put sorts resources by name. Where the names are those of the run before, so is their order.
func (s *sorted[M]) put(before sorted[M], list []resource[M]) (ms []M, sums []xds.Sum) {
	same := len(list) == len(before.names)
	for i := 0; same && i < len(list); i++ {
		same = list[i].name == before.names[i]
	}
	if *s = before; !same {
		s.names, s.order = make([]string, len(list)), make([]int, len(list))
		for i := range list {
			s.names[i], s.order[i] = list[i].name, i
		}
		slices.SortStableFunc(s.order, func(a, b int) int { return strings.Compare(s.names[a], s.names[b]) })
	}
	ms, sums = make([]M, len(list)), make([]xds.Sum, len(list))
	for at, i := range s.order {
		ms[at], sums[at] = list[i].m, list[i].sum
	}
	return ms, sums
}

// snapshot runs the back: it compiles the units that are not valid any more and puts all together.
func (c *compiler) snapshot() (*xds.Snapshot, []config.Issue) {
	c.issues, c.reported, c.filters = slices.Clone(c.found), map[config.Issue]bool{}, map[uint32]map[string]bool{}
	for _, i := range c.issues {
		c.reported[i] = true
	}
	snap, out, sums := &xds.Snapshot{RegistryOnly: c.mesh.registryOnly, Undeclared: c.undeclaredElsewhere()}, &output{tables: map[string]*hostTable{}, made: c}, &xds.Sums{}
	if c.before == nil {
		c.before = &output{}
	}
	clusters := make([]resource[*clusterv3.Cluster], 0, len(c.services)+2)
	assignments := make([]resource[*endpointv3.ClusterLoadAssignment], 0, len(c.services))
	for _, s := range c.services {
		if u := s.clusters; u != nil && u.of.id == s.id { // a unit of its own service and nothing else
			c.replay(u.unit)
		} else {
			s.clusters = c.compileClusters(s)
		}
		clusters = append(clusters, s.clusters.clusters...)
		assignments = append(assignments, s.clusters.assignments...)
	}
	if c.own == nil {
		c.own = []resource[*clusterv3.Cluster]{newResource(blackHoleName, c.blackHoleCluster()), newResource(passthroughName, c.passthroughCluster())}
	}
	clusters = append(clusters, c.own...)
	snap.Clusters, sums.Clusters = out.clusters.put(c.before.clusters, clusters)
	snap.Endpoints, sums.Endpoints = out.assignments.put(c.before.assignments, assignments)
	snap.Routes, sums.Routes = c.routeConfigs(out)
	snap.Listeners, sums.Listeners = c.listenersAfter(out) // after the routes, which tell the filters they need
	if out.names, out.namesSum = c.before.names, c.before.namesSum; c.before.made != c {
		out.names = c.names()
		out.namesSum = xds.SumOfNames(out.names)
	}
	snap.Names, sums.Names = out.names, out.namesSum
	snap.Version = snap.HashOf(sums)
	c.before = out
	return snap, c.issues
}

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
	return out
}

// routesOf gives the routes of a service on a port.
func (c *compiler) routesOf(s *service, p servicePort) *routeUnit {
	i := slices.IndexFunc(s.routes, func(u *routeUnit) bool { return u.port == p })
	if i >= 0 && s.routes[i].valid(c, s.identity) {
		c.replay(s.routes[i].unit)
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
	if u.validRouted(c) {
		c.replay(u.unit)
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

func (u *routeUnit) validRouted(c *compiler) bool { return u != nil && u.valid(c, identity{}) }

// listenerUnit is all listeners.
type listenerUnit struct {
	*unit
	made    *compiler // whose front they follow
	filters map[uint32]map[string]bool
	list    []*listenerv3.Listener
	sums    []xds.Sum
}

// listenersAfter makes the listeners unless they are as before. Of those that are made anew and equal, the old one stays.
func (c *compiler) listenersAfter(out *output) ([]*listenerv3.Listener, []xds.Sum) {
	before := c.before.listeners
	if before.made == c && before.valid(c, identity{}) && sameFilters(before.filters, c.filters) {
		c.replay(before.unit)
		out.listeners = before
		return before.list, before.sums
	}
	l := listenerUnit{made: c, filters: c.filters}
	l.unit = c.compile(identity{}, func() { l.list = c.listeners() })
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
