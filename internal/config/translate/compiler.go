package translate

import (
	"reflect"
	"slices"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// Compiler translates one configuration after the other for one node group, and compiles only what depends on what
// changed: what it gives equals what Translate gives. Objects are told apart by their pointers, so whoever reads files
// anew keeps the objects that are as they were; where only their place changed, config.Object.SameAs tells. It is not safe for concurrent use.
//
// It works in two steps. The front (newCompiler) finds the services, rules and routers that count, and what belongs to
// what. The back compiles units: the clusters of a service, its routes on a port, a VirtualService's own, the listeners.
// A unit reads services only through compiler.lookup and compiler.read, which note what it read; it is compiled again when
// one of them is another than it was. The front is brought up to date where few objects changed (patch), else made anew.
type Compiler struct {
	group    xds.NodeGroup
	last     *compiler
	ids      uint64 // the last one given
	compiled int    // units compiled so far
	// delegations are VirtualServices with their delegates in place, of the last front.
	delegations map[*config.Object]*delegation
	pool        pool
}

// NewCompiler makes a Compiler that knows nothing yet.
func NewCompiler(group xds.NodeGroup) *Compiler { return &Compiler{group: group} }

// Translate compiles a configuration, as the function Translate does.
func (m *Compiler) Translate(set *config.Set) (*xds.Snapshot, []config.Issue) {
	if m.group.CompatIstio {
		set = set.InCluster()
	}
	if m.last == nil || !m.last.patch(set) {
		if m.last != nil && m.last.set.Mesh() != set.Mesh() {
			m.last, m.delegations = nil, nil // what everything reads
		}
		c := newCompiler(set, m.group, m)
		c.adopt(m.last)
		m.last, m.delegations = c, c.delegations
	}
	return m.last.snapshot()
}

func (m *Compiler) newID() uint64 {
	m.ids++
	return m.ids
}

// identity tells versions of a service apart. Two services with the same id are equal in all that is compiled from them;
// with the same gist, in all but their endpoints.
type identity struct{ id, gist uint64 }

// unit is what one compilation read and reported.
type unit struct {
	of      identity
	deps    []dependency
	views   []viewed
	issues  []config.Issue
	filters []filterUse
}

// loud tells whether there is anything to replay.
func (u *unit) loud() bool { return len(u.issues)+len(u.filters) > 0 }

// linked tells whether the unit read anything but the service that it is for.
func (u *unit) linked() bool { return len(u.deps)+len(u.views) > 0 }

// dependency is a host that was looked up and what was there; zero: nothing.
type dependency struct {
	host string
	was  identity
}

// viewed is a service of an egress listener that was read.
type viewed struct {
	service *service
	was     identity
}

// filterUse is an HTTP filter that the routes of a port configure.
type filterUse struct {
	port uint32
	name string
}

// same tells whether nothing changed for a unit that read what is now as it was. An issue names a place in a file, which
// moves with any change of the object.
func (u *unit) same(was, is identity) bool {
	return was.id == is.id || was.gist == is.gist && len(u.issues) == 0
}

// valid tells whether a unit needs no compilation. of is the identity of the service that it is for; zero: of none.
func (u *unit) valid(c *compiler, of identity) bool {
	if u == nil || !u.same(u.of, of) {
		return false
	}
	for i := range u.deps {
		if !u.same(u.deps[i].was, c.byHost[u.deps[i].host].identityOf()) {
			return false
		}
	}
	for i := range u.views {
		if !u.same(u.views[i].was, u.views[i].service.identity) {
			return false
		}
	}
	return true
}

func (s *service) identityOf() identity {
	if s == nil {
		return identity{}
	}
	return s.identity
}

// compile runs f as a unit: what it reads and reports is noted, and reported when the unit is replayed.
func (c *compiler) compile(of identity, f func()) *unit {
	u := &unit{of: of}
	c.unit = u
	f()
	c.unit = nil
	if c.memo != nil {
		c.memo.compiled++
	}
	return u
}

// replay reports what a unit reported when it was compiled.
func (c *compiler) replay(u *unit) {
	for _, i := range u.issues {
		c.report(i)
	}
	for _, f := range u.filters {
		c.use(f)
	}
}

// lookup finds the service that clusters are made for by the host a destination names; nil when there is none.
func (c *compiler) lookup(host string) *service {
	host = resolveHost(host)
	s := c.byHost[host]
	if c.unit != nil {
		c.unit.deps = append(c.unit.deps, dependency{host, s.identityOf()})
	}
	return s
}

// read notes that a unit reads all of a service of an egress listener.
func (c *compiler) read(s *service) {
	if c.unit != nil {
		c.unit.views = append(c.unit.views, viewed{s, s.identity})
	}
}

// use notes that the routes of a port configure an HTTP filter.
func (c *compiler) use(f filterUse) {
	if c.unit != nil {
		c.unit.filters = append(c.unit.filters, f)
		return
	}
	if c.filters[f.port] == nil {
		c.filters[f.port] = map[string]bool{}
	}
	c.filters[f.port][f.name] = true
}

// adopt takes over what an earlier run compiled of services that are as they were.
func (c *compiler) adopt(old *compiler) {
	if old != nil && !sameObject(old.findSidecar(), c.findSidecar()) {
		old = nil // what every unit reads
	}
	c.moved = old != nil // perhaps
	if old == nil {
		old = &compiler{egress: make([]*egress, len(c.egress))}
		for i := range old.egress {
			old.egress[i] = &egress{}
		}
	}
	for i, e := range c.egress {
		for _, s := range e.services {
			c.adoptService(s, old.egress[i].byHost[s.host])
		}
	}
	for _, s := range c.services {
		s.inputs = c.inputsOf(s)
		c.adoptService(s, old.byHost[s.host])
	}
	c.routed, c.before, c.own, c.catchAll = old.routed, old.before, old.own, old.catchAll
	c.forget()
}

// forget drops what was compiled of objects that are gone.
func (c *compiler) forget() {
	known := map[*config.Object]bool{}
	for _, e := range c.egress {
		for _, o := range e.routers {
			known[o] = true
		}
	}
	for k := range c.routed {
		if !known[k.object] {
			delete(c.routed, k)
		}
	}
}

func (c *compiler) adoptService(s, old *service) {
	if old != nil {
		s.clusters = old.clusters // if for its messages only
	}
	if old == nil || !s.equal(old) {
		s.identity = identity{c.memo.newID(), c.memo.newID()}
		return
	}
	s.identity, s.routes = old.identity, old.routes
}

// equal tells whether two services, and all that is compiled from them, are the same.
func (s *service) equal(o *service) bool {
	return sameObject(s.first, o.first) && sameObjects(s.entries, o.entries) && slices.Equal(s.ports, o.ports) && slices.Equal(s.vips, o.vips) &&
		s.allocated == o.allocated && sameObjects(s.routers, o.routers) && sameObjects(s.inputs, o.inputs) &&
		sameRefusal(s.refused, o.refused) && s.rule.equal(o.rule)
}

func sameObject(a, b *config.Object) bool { return a == b || a != nil && b != nil && a.SameAs(b) }

func sameObjects(a, b []*config.Object) bool { return slices.EqualFunc(a, b, sameObject) }

// equal tells whether two rules were made of the same objects.
func (r *rule) equal(o *rule) bool {
	return r == o || r != nil && o != nil && sameObjects(r.objects, o.objects)
}

func sameRefusal(a, b *config.Refusal) bool {
	return a == b || a != nil && b != nil && reflect.DeepEqual(*a, *b)
}

// inputsOf gives the objects beside a service's own that its endpoints come from.
func (c *compiler) inputsOf(s *service) []*config.Object {
	var out []*config.Object
	for _, o := range s.entries {
		if o.Kind == config.Service {
			out = append(out, c.set.All(config.Node)...)
			for _, slice := range c.set.All(config.EndpointSlice) {
				if slice.Namespace == o.Namespace && slice.Labels[config.LabelService] == o.Name {
					out = append(out, slice)
				}
			}
		} else if entryOf(o).WorkloadSelector != nil {
			out = append(out, c.workloads(o)...)
		}
	}
	return out
}
