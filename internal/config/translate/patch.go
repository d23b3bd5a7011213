package translate

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// A front is brought up to date host by host. What a service is depends on its own objects, on the rules and
// VirtualServices for its host, and on nothing else, so that a change of an object concerns the hosts it names. Whatever
// is not so simple (one host from several objects, Sidecars, delegates) makes patch give up; then the front is made anew.

// pending is what changed in a front since its last snapshot.
type pending struct {
	dirty    map[string]bool // hosts of which a service is another
	entered  []spliced       // services that came and went, in this order
	gone     []*clusterUnit  // of services that went
	rerouted []config.Key    // VirtualServices that may route other names that nobody declares
	replan   bool            // the listeners may be others
	moved    bool            // an object may stand elsewhere: what was reported may name another place
}

// spliced is a service of the egress listener that came or went.
type spliced struct {
	service *service
	came    bool
}

// change is an object that came (old is nil), went (now is nil) or has another version.
type change struct{ old, now *config.Object }

// maxPatch is how many changed objects are looked at one by one; with more the front is made anew.
const maxPatch = 16

// patch brings the front up to date and tells whether it could. When it could not, the front is good for nothing but for
// adopt.
func (c *compiler) patch(set *config.Set) bool {
	old := c.set
	if len(c.hidden) > 0 || old.Mesh() != set.Mesh() || !reflect.DeepEqual(old.Refused(), set.Refused()) {
		return false
	}
	var lists [3][]change
	left, moved := maxPatch, false
	for i, k := range []config.Kind{config.ServiceEntry, config.DestinationRule, config.VirtualService} {
		var ok bool
		if lists[i], ok = changes(old.All(k), set.All(k), left, &moved); !ok {
			return false
		}
		left -= len(lists[i])
	}
	for _, k := range []config.Kind{config.Service, config.Sidecar} {
		if _, ok := changes(old.All(k), set.All(k), 0, &moved); !ok {
			return false
		}
	}
	if moved && len(c.found) > 0 {
		return false
	}
	c.set, c.kube, c.moved = set, nil, moved
	for i, apply := range []func(change) bool{c.changeEntry, c.changeRule, c.changeRouter} {
		for _, ch := range lists[i] {
			if !apply(ch) {
				return false
			}
		}
	}
	if !set.SameVIPs(old) && slices.ContainsFunc(c.candidates, func(s *service) bool {
		v, _ := set.VIPs(s.host)
		return s.allocates && v != s.given
	}) {
		return false
	}
	c.renewInputs(old)
	slices.SortFunc(c.rerouted, func(a, b config.Key) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	c.rerouted = slices.Compact(c.rerouted)
	return true
}

// changes gives what differs between two lists of objects, at most most of them; ok is false where there is more. moved
// is set where an object only stands elsewhere.
func changes(old, now []*config.Object, most int, moved *bool) (out []change, ok bool) {
	for i, j := 0, 0; i < len(old) || j < len(now); {
		if i < len(old) && j < len(now) && old[i] == now[j] {
			i, j = i+1, j+1
			continue
		}
		order := 0
		switch {
		case i == len(old):
			order = 1
		case j == len(now):
			order = -1
		default:
			order = config.CompareAge(old[i], now[j])
		}
		var ch change
		if order <= 0 {
			ch.old = old[i]
			i++
		}
		if order >= 0 {
			ch.now = now[j]
			j++
		}
		if order == 0 && ch.now.SameAs(ch.old) {
			*moved = true
			continue
		}
		if len(out) == most {
			return nil, false
		}
		out = append(out, ch)
	}
	return out, true
}

// touch makes a service another one: what was compiled from it is compiled again.
func (c *compiler) touch(s *service, gist bool) {
	s.id = c.memo.newID()
	if gist {
		s.gist = c.memo.newID()
	}
	if c.dirty == nil {
		c.dirty = map[string]bool{}
	}
	c.dirty[s.host] = true
}

// viewsOf calls f for the services of a host: the candidates, and as each egress listener and the clusters see them.
func (c *compiler) viewsOf(host string, f func(*service)) {
	for _, s := range c.candidatesByHost[host] {
		f(s)
	}
	for _, e := range c.egress {
		if s := e.byHost[host]; s != nil {
			f(s)
		}
	}
	if s := c.byHost[host]; s != nil {
		f(s)
	}
}

// hostsOf gives the hosts of a ServiceEntry, each once.
func hostsOf(o *config.Object) []string {
	var out []string
	for _, h := range entryOf(o).Hosts {
		if h = resolveHost(h); !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// changeEntry applies a change of a ServiceEntry.
func (c *compiler) changeEntry(ch change) bool {
	if ch.old != nil && ch.now != nil && sameShape(ch.old, ch.now) {
		c.replaceEntry(ch)
		return true
	}
	if !c.open {
		return false
	}
	return (ch.old == nil || c.leave(ch.old)) && (ch.now == nil || c.enter(ch.now))
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

// replaceEntry puts a new version of a ServiceEntry into every service made of it.
func (c *compiler) replaceEntry(ch change) {
	gist := !sameGist(ch.old, ch.now)
	for _, h := range hostsOf(ch.now) {
		c.viewsOf(h, func(s *service) {
			i := slices.IndexFunc(s.entries, func(o *config.Object) bool { return o.Key == ch.now.Key })
			if i < 0 {
				return
			}
			s.entries = slices.Clone(s.entries) // views share it
			s.entries[i] = ch.now
			if s.first.Key == ch.now.Key {
				s.first, s.spec = ch.now, entryOf(ch.now)
			}
			c.touch(s, gist)
		})
	}
}

// leave takes away the services that a ServiceEntry alone declares.
func (c *compiler) leave(o *config.Object) bool {
	if !c.visible(o) {
		return o.Namespace != c.group.Namespace
	}
	e := c.egress[0]
	for _, h := range hostsOf(o) {
		list := c.candidatesByHost[h]
		if len(list) != 1 || len(list[0].entries) != 1 || list[0].first.Key != o.Key {
			return false
		}
		own, seen, reached := list[0], e.byHost[h], c.byHost[h]
		c.candidates, e.services, c.services = without(c.candidates, own), without(e.services, seen), without(c.services, reached)
		delete(c.candidatesByHost, h)
		delete(e.byHost, h)
		delete(c.byHost, h)
		if reached.clusters != nil {
			c.gone = append(c.gone, reached.clusters)
		}
		c.splice(e, seen, false)
	}
	return true
}

// enter adds the services of a ServiceEntry whose hosts nobody else declares.
func (c *compiler) enter(o *config.Object) bool {
	if !c.visible(o) {
		return o.Namespace != c.group.Namespace
	}
	e := c.egress[0]
	for _, h := range hostsOf(o) {
		if len(c.candidatesByHost[h]) > 0 {
			return false
		}
		own := newService(h, o)
		c.complete(own)
		c.attachRule(own)
		c.candidates = within(c.candidates, own, c.compareServices)
		c.candidatesByHost[h] = []*service{own}
		reached, seen := *own, *own
		seen.routers, seen.relays = e.routersFor(h), e.relaysFor(h)
		reached.inputs = c.inputsOf(&reached)
		c.byHost[h], e.byHost[h] = &reached, &seen
		c.services = within(c.services, &reached, c.compareServices)
		e.services = within(e.services, &seen, c.compareServices)
		c.touch(&reached, true)
		c.touch(&seen, true)
		c.splice(e, &seen, true)
	}
	return true
}

func (c *compiler) visible(o *config.Object) bool {
	return exportedTo(entryOf(o).ExportTo, c.mesh.serviceExportTo, o.Namespace, c.group.Namespace)
}

func without(list []*service, s *service) []*service {
	i := slices.Index(list, s)
	return slices.Delete(list, i, i+1)
}

// within puts a service in its place in a list that is sorted so.
func within(list []*service, s *service, compare func(a, b *service) int) []*service {
	i, _ := slices.BinarySearchFunc(list, s, compare)
	return slices.Insert(list, i, s)
}

// splice notes that a service came or went, and finds out what beside its own virtual hosts that may change.
func (c *compiler) splice(e *egress, s *service, came bool) {
	c.entered = append(c.entered, spliced{s, came})
	if c.dirty == nil {
		c.dirty = map[string]bool{}
	}
	c.dirty[s.host] = true
	n := 1
	if !came {
		n = -1
	}
	before := e.asked(s)
	e.count(s, n)
	if after := e.asked(s); !slices.Equal(before, after) || slices.Contains(after, mixed) {
		c.replan = true
	}
	for _, o := range e.related(s.host) { // whether a name is declared makes a difference there
		c.rerouted = append(c.rerouted, o.Key)
	}
}

// related gives the VirtualServices that name a host, cover it, or are covered by it.
func (e *egress) related(host string) (out []*config.Object) {
	if !isWildcard(host) {
		for _, r := range e.index.covering(host) {
			out = append(out, r.object)
		}
		return out
	}
	for _, o := range e.routers {
		if slices.ContainsFunc(virtualServiceOf(o).Hosts, func(h string) bool {
			h = resolveHost(h)
			return hostMatches(h, host) || hostMatches(host, h)
		}) {
			out = append(out, o)
		}
	}
	return out
}

// ask is what the services of a port ask of its listener.
type ask int

const (
	nothing ask = iota // nobody has the port
	requests
	openRequests // to hosts that may be anywhere too
	mixed        // something else, or beside something else
)

// asked tells for each port of a service what all services ask of its listener.
func (e *egress) asked(s *service) (out []ask) {
	for _, p := range s.ports {
		u := e.uses[p.number]
		switch {
		case p.protocol == datagram:
			out = append(out, nothing)
		case u == nil || u.all == 0:
			out = append(out, nothing)
		case u.plain != u.all:
			out = append(out, mixed)
		case u.open > 0:
			out = append(out, openRequests)
		default:
			out = append(out, requests)
		}
	}
	return out
}

// changeRule applies a change of a DestinationRule.
func (c *compiler) changeRule(ch change) bool {
	var hosts []string
	if ch.old != nil {
		h := resolveHost(ruleOf(ch.old).Host)
		hosts = append(hosts, h)
		c.rules.change(h, ch.old, nil, c.mesh)
	}
	if ch.now != nil {
		h := resolveHost(ruleOf(ch.now).Host)
		hosts = append(hosts, h)
		c.rules.change(h, nil, ch.now, c.mesh)
	}
	again := func(s *service) {
		was := s.rule
		s.rule, s.refused = nil, nil
		c.attachRule(s)
		if !s.rule.equal(was) {
			c.touch(s, true)
		}
	}
	slices.Sort(hosts)
	for _, h := range slices.Compact(hosts) {
		if !isWildcard(h) {
			c.viewsOf(h, again)
			continue
		}
		for host := range c.candidatesByHost {
			if hostMatches(h, host) {
				c.viewsOf(host, again)
			}
		}
	}
	return true
}

// changeRouter applies a change of a VirtualService.
func (c *compiler) changeRouter(ch change) bool {
	if !c.open || len(c.delegations) > 0 || ch.delegates() {
		return false
	}
	if ch.old == nil || ch.now == nil || !sameTargets(virtualServiceOf(ch.old), virtualServiceOf(ch.now)) {
		return c.reroute(ch)
	}
	e := c.egress[0]
	key := func(o *config.Object) bool { return o.Key == ch.now.Key }
	at := slices.IndexFunc(e.routers, key)
	if at < 0 {
		return true // the caller does not see it
	}
	c.routerOrder[slices.IndexFunc(c.routerOrder, key)] = ch.now
	e.routers[at] = ch.now
	for _, h := range virtualServiceOf(ch.now).Hosts {
		e.index.replace(h, ch.now)
	}
	c.eachUnder(virtualServiceOf(ch.now), func(s *service) {
		for _, list := range []*[]*config.Object{&s.routers, &s.relays} {
			if i := slices.IndexFunc(*list, key); i >= 0 {
				*list = slices.Clone(*list)
				(*list)[i] = ch.now
				c.touch(s, true)
			}
		}
	})
	c.rerouted = append(c.rerouted, ch.now.Key)
	return true
}

// delegates tells whether a version of a VirtualService is one of which others are made, or made of others.
func (ch change) delegates() bool {
	for _, o := range []*config.Object{ch.old, ch.now} {
		if o == nil {
			continue
		}
		vs := virtualServiceOf(o)
		if len(vs.Hosts) == 0 || slices.ContainsFunc(vs.Http, func(r *networking.HTTPRoute) bool { return r.Delegate != nil }) {
			return true
		}
	}
	return false
}

// sameTargets tells whether two versions of a VirtualService are for the same hosts and callers.
func sameTargets(a, b *networking.VirtualService) bool {
	return slices.Equal(a.Hosts, b.Hosts) && slices.Equal(a.ExportTo, b.ExportTo) && slices.Equal(a.Gateways, b.Gateways)
}

// eachUnder calls f for every service of the egress listener whose host a VirtualService names, covers or is covered by.
func (c *compiler) eachUnder(vs *networking.VirtualService, f func(*service)) {
	e := c.egress[0]
	for _, h := range vs.Hosts {
		if h = resolveHost(h); e.byHost[h] != nil {
			f(e.byHost[h])
		}
		for _, s := range e.services {
			if s.host != h && (isWildcard(h) && hostMatches(h, s.host) || isWildcard(s.host) && hostMatches(s.host, h)) {
				f(s)
			}
		}
	}
}

// reroute applies that a VirtualService came, went or is for other hosts.
func (c *compiler) reroute(ch change) bool {
	e := c.egress[0]
	c.routerOrder = nil
	c.findRouters()
	c.importRouters(e, parseImports([]string{allHosts}, c.group.Namespace))
	for _, o := range []*config.Object{ch.old, ch.now} {
		if o == nil {
			continue
		}
		c.rerouted = append(c.rerouted, o.Key)
		c.eachUnder(virtualServiceOf(o), func(s *service) {
			if now, relays := e.routersFor(s.host), e.relaysFor(s.host); !slices.Equal(now, s.routers) || !slices.Equal(relays, s.relays) {
				for _, r := range slices.Concat(s.routers, now) { // the ports of what else they route are those of the services they route
					c.rerouted = append(c.rerouted, r.Key)
				}
				s.routers, s.relays = now, relays
				c.touch(s, true)
			}
		})
	}
	return true
}

// renewInputs looks anew for the objects that endpoints come from.
func (c *compiler) renewInputs(old *config.Set) {
	renew := func(s *service) {
		if in := c.inputsOf(s); !slices.Equal(in, s.inputs) {
			s.inputs = in
			c.touch(s, false)
		}
	}
	for _, k := range []config.Kind{config.WorkloadEntry, config.EndpointSlice, config.Node} {
		if !slices.Equal(old.All(k), c.set.All(k)) {
			for _, s := range c.services {
				renew(s)
			}
			return
		}
	}
	for h := range c.dirty {
		if s := c.byHost[h]; s != nil {
			renew(s)
		}
	}
}
