package translate

import (
	"reflect"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// Compiler translates one configuration after the other for one node group, and compiles only what depends on what
// changed: what it gives equals what Translate gives. Objects are told apart by their pointers, so whoever reads files
// anew keeps the objects that are as they were. It is not safe for concurrent use.
//
// It works in two steps. The front (newCompiler) finds the services, rules and routers that count, and what belongs to
// what. The back compiles units: the clusters of a service, its routes on a port, a VirtualService's own, the listeners.
// A unit reads services only through compiler.lookup and compiler.read, which note what it read; it is compiled again when
// one of them is another than it was. The front is made anew too, unless all that changed is inside ServiceEntries and
// DestinationRules and moves nothing (patch).
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

// compile runs f as a unit: what it reads and reports is noted.
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

// replay reports again what a unit reported when it was compiled.
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
	}
	if c.filters[f.port] == nil {
		c.filters[f.port] = map[string]bool{}
	}
	c.filters[f.port][f.name] = true
}

// views calls f for each service of the front, as each egress listener and the clusters see it.
func (c *compiler) views(f func(*service)) {
	for _, e := range c.egress {
		for _, s := range e.services {
			f(s)
		}
	}
	for _, s := range c.services {
		f(s)
	}
}

// adopt takes over what an earlier run compiled of services that are as they were.
func (c *compiler) adopt(old *compiler) {
	if old != nil && old.findSidecar() != c.findSidecar() {
		old = nil // what every unit reads
	}
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
	if old == nil || !s.equal(old) {
		s.identity = identity{c.memo.newID(), c.memo.newID()}
		return
	}
	s.identity, s.clusters, s.routes = old.identity, old.clusters, old.routes
}

// equal tells whether two services, and all that is compiled from them, are the same.
func (s *service) equal(o *service) bool {
	return s.first == o.first && slices.Equal(s.entries, o.entries) && slices.Equal(s.ports, o.ports) && slices.Equal(s.vips, o.vips) &&
		s.allocated == o.allocated && slices.Equal(s.routers, o.routers) && slices.Equal(s.inputs, o.inputs) &&
		sameRefusal(s.refused, o.refused) && s.rule.equal(o.rule)
}

// equal tells whether two rules were made of the same objects.
func (r *rule) equal(o *rule) bool {
	return r == o || r != nil && o != nil && slices.Equal(r.objects, o.objects)
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

// replaced is an object that another version took the place of.
type replaced struct{ old, new *config.Object }

// maxPatch is how many changed objects are looked for one by one; with more the front is made anew.
const maxPatch = 16

// patch brings the front up to date where no object came or went and none of the changed ones moves anything: no host,
// port, address or export is another. It tells whether it could.
func (c *compiler) patch(set *config.Set) bool {
	old := c.set
	if old.Mesh() != set.Mesh() || !reflect.DeepEqual(old.Refused(), set.Refused()) {
		return false
	}
	for _, k := range []config.Kind{config.Service, config.VirtualService, config.Sidecar} {
		if !slices.Equal(old.All(k), set.All(k)) {
			return false
		}
	}
	entries, ok := changes(old.All(config.ServiceEntry), set.All(config.ServiceEntry), sameShape)
	if !ok {
		return false
	}
	rules, ok := changes(old.All(config.DestinationRule), set.All(config.DestinationRule), sameTarget)
	if !ok {
		return false
	}
	for _, s := range c.candidates {
		if v, _ := set.VIPs(s.host); s.allocates && v != s.given {
			return false
		}
	}
	moved := false
	for _, k := range []config.Kind{config.WorkloadEntry, config.EndpointSlice, config.Node} {
		moved = moved || !slices.Equal(old.All(k), set.All(k))
	}
	c.set, c.kube = set, nil
	for _, r := range entries {
		c.replaceEntry(r)
	}
	for _, r := range rules {
		c.replaceRule(r)
	}
	if moved || len(entries) > 0 {
		c.renewInputs()
	}
	return true
}

// changes pairs the objects of two lists that differ; ok is false where more than versions of objects do, or too much.
func changes(old, now []*config.Object, same func(a, b *config.Object) bool) (out []replaced, ok bool) {
	if len(old) != len(now) {
		return nil, false
	}
	for i, o := range old {
		n := now[i]
		if o == n {
			continue
		}
		if o.Key != n.Key || !o.Created.Equal(n.Created) || len(out) == maxPatch || !same(o, n) {
			return nil, false
		}
		out = append(out, replaced{o, n})
	}
	return out, true
}

// sameShape tells whether two versions of a ServiceEntry are the same to the front.
func sameShape(a, b *config.Object) bool {
	x, y := entryOf(a).ProtoReflect(), entryOf(b).ProtoReflect()
	for _, name := range []protoreflect.Name{"hosts", "addresses", "ports", "export_to"} {
		fd := x.Descriptor().Fields().ByName(name)
		if !x.Get(fd).Equal(y.Get(fd)) {
			return false
		}
	}
	return true
}

// sameGist tells whether two versions of a ServiceEntry differ in their endpoints only.
func sameGist(a, b *config.Object) bool {
	if !reflect.DeepEqual(a.Labels, b.Labels) || !reflect.DeepEqual(a.Annotations, b.Annotations) {
		return false
	}
	x, y := entryOf(a).ProtoReflect(), entryOf(b).ProtoReflect()
	fields := x.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Name() != "endpoints" && (x.Has(fd) != y.Has(fd) || !x.Get(fd).Equal(y.Get(fd))) {
			return false
		}
	}
	return true
}

// sameTarget tells whether two versions of a DestinationRule are found by the same services.
func sameTarget(a, b *config.Object) bool {
	x, y := ruleOf(a), ruleOf(b)
	return x.Host == y.Host && slices.Equal(x.ExportTo, y.ExportTo) && proto.Equal(x.WorkloadSelector, y.WorkloadSelector)
}

// replaceEntry puts a new version of a ServiceEntry into every service made of it.
func (c *compiler) replaceEntry(r replaced) {
	gist := sameGist(r.old, r.new)
	replace := func(s *service) {
		i := slices.Index(s.entries, r.old)
		if i < 0 {
			return
		}
		s.entries = slices.Clone(s.entries)
		s.entries[i] = r.new
		if s.first == r.old {
			s.first, s.spec = r.new, r.new.Spec.(*networking.ServiceEntry)
		}
		s.id = c.memo.newID()
		if !gist {
			s.gist = c.memo.newID()
		}
	}
	c.views(replace)
	for _, s := range c.candidates { // clusters' views are copies
		replace(s)
	}
}

// replaceRule puts a new version of a DestinationRule into the rules made of it.
func (c *compiler) replaceRule(r replaced) {
	made := map[*rule]bool{}
	c.views(func(s *service) {
		if s.rule == nil {
			return
		}
		if i := slices.Index(s.rule.objects, r.old); i >= 0 {
			objects := slices.Clone(s.rule.objects)
			objects[i] = r.new
			made[s.rule] = true
			s.rule.remake(objects)
		}
		if made[s.rule] {
			s.identity = identity{c.memo.newID(), c.memo.newID()}
		}
	})
}

// renewInputs looks anew for the objects that endpoints come from.
func (c *compiler) renewInputs() {
	for _, s := range c.services {
		if in := c.inputsOf(s); !slices.Equal(in, s.inputs) {
			s.inputs, s.id = in, c.memo.newID()
		}
	}
}
