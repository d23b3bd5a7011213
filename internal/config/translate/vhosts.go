package translate

import (
	"slices"
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// hostTable is the virtual hosts of one port of one egress listener, and what they were made from.
type hostTable struct {
	made  *compiler       // whose front it follows
	steps []step          // in the order they are compiled and report
	slots []slot          // by name
	taken map[string]bool // domains: Envoy refuses a route configuration in which one occurs twice
	// contested: two wanted one domain or name. Then who comes or goes changes what others have.
	contested bool
	// config is the route configuration; nil where nobody asked for it.
	config *routev3.RouteConfiguration
	sum    xds.Sum
}

// step is one unit that virtual hosts get their routes from: a service's, or a VirtualService's where service is nil.
type step struct {
	service *service
	router  *config.Object
	port    servicePort
	unit    *routeUnit
	loud    bool // the unit's, so that a walk need not look there
	linked  bool
}

func (s *step) set(u *routeUnit) { s.unit, s.loud, s.linked = u, u.loud(), u.linked() }

// slot is one virtual host and the step that its routes are from.
type slot struct {
	step int
	vh   *routev3.VirtualHost
	sum  xds.Sum
}

func (c *compiler) run(s step) *routeUnit {
	if s.service != nil {
		return c.routesOf(s.service, s.port)
	}
	return c.routedRoutes(routedKey{s.router, s.port})
}

// table gives the virtual hosts of a port of an egress listener, those of the run before brought up to date where that
// can be.
func (c *compiler) table(out *output, index int, port uint32) *hostTable {
	key := strconv.Itoa(index) + "/" + strconv.FormatUint(uint64(port), 10)
	if t := out.tables[key]; t != nil {
		return t
	}
	e := c.egress[index]
	t := c.before.tables[key]
	if t == nil || t.made != c || !c.refresh(t, e, e.served(port)) {
		before := t
		t = c.virtualHosts(e, e.served(port))
		t.keep(before)
	}
	out.tables[key] = t
	return t
}

// refresh brings the table of a port (0: every port) up to date. It tells whether it could; if not, the table is good for
// nothing but for keep.
func (c *compiler) refresh(t *hostTable, e *egress, port uint32) bool {
	if t.contested && len(c.entered)+len(c.rerouted) > 0 {
		return false
	}
	for _, k := range c.rerouted {
		t.withoutRouter(c, k)
	}
	for _, sp := range c.entered {
		if !t.splice(c, sp, port) {
			return false
		}
	}
	for _, k := range c.rerouted {
		if !t.withRouter(c, k, port) {
			return false
		}
	}
	for h := range c.dirty {
		s := e.byHost[h]
		if s == nil {
			continue
		}
		for _, p := range s.requestPorts(port) {
			if at, found := t.search(hostName(h, p.number)); found && !t.renew(c, t.slots[at].step) {
				return false
			}
		}
	}
	loud := false
	for i := range t.steps {
		s := &t.steps[i]
		if (s.linked || c.moved && s.loud || t.contested) && !t.renew(c, i) {
			return false
		}
		loud = loud || s.loud
	}
	for i := 0; loud && i < len(t.steps); i++ {
		c.replay(t.steps[i].unit.unit)
	}
	return true
}

// withoutRouter takes away what a VirtualService routes that nobody declares.
func (t *hostTable) withoutRouter(c *compiler, k config.Key) {
	for i := len(t.steps) - 1; i >= 0; i-- {
		r := t.steps[i].router
		if r == nil || r.Key != k {
			continue
		}
		delete(c.routed, routedKey{r, t.steps[i].port})
		t.slots = slices.DeleteFunc(t.slots, func(s slot) bool {
			if s.step == i {
				t.free(s.vh)
			}
			return s.step == i
		})
		t.steps, t.config = slices.Delete(t.steps, i, i+1), nil
		t.shift(i, -1)
	}
}

func (t *hostTable) free(vh *routev3.VirtualHost) {
	for _, d := range vh.Domains {
		delete(t.taken, d)
	}
}

// withRouter adds what a VirtualService routes that nobody declares. It tells whether that leaves the others as they are.
func (t *hostTable) withRouter(c *compiler, k config.Key, port uint32) bool {
	e := c.egress[0]
	place, imported := e.order[k]
	if !imported {
		return true
	}
	o := e.routers[place]
	at := slices.IndexFunc(t.steps, func(s step) bool { return s.service != nil || e.order[s.router.Key] > place })
	if at < 0 {
		at = len(t.steps)
	}
	ports, hosts := c.routedHosts(o, port, func(h string) []*service { return e.under(h, port) })
	for _, n := range ports {
		st := step{router: o, port: servicePort{number: n}}
		st.set(c.run(st))
		t.shift(at, 1)
		t.steps, t.config = slices.Insert(t.steps, at, st), nil
		for _, h := range hosts {
			if len(st.unit.routes) > 0 && !t.insert(c, at, hostName(h, n), []string{h}) {
				return false
			}
		}
		at++
	}
	return true
}

// under gives the services on a port whose host a VirtualService's host names or covers.
func (e *egress) under(host string, port uint32) (out []*service) {
	take := func(s *service) {
		if _, ok := s.port(port); ok {
			out = append(out, s)
		}
	}
	if !isWildcard(host) {
		if s := e.byHost[host]; s != nil {
			take(s)
		}
		return out
	}
	for _, s := range e.services {
		if hostMatches(host, s.host) || hostMatches(s.host, host) {
			take(s)
		}
	}
	return out
}

// insert adds a virtual host with the routes of a step. It tells whether nobody had its name or a domain.
func (t *hostTable) insert(c *compiler, step int, name string, domains []string) bool {
	at, found := t.search(name)
	for i, d := range domains {
		found = found || t.taken[d] || slices.Contains(domains[:i], d)
	}
	if found {
		return false
	}
	for _, d := range domains {
		t.taken[d] = true
	}
	vh := &routev3.VirtualHost{Name: name, Domains: domains, Routes: t.steps[step].unit.routes, IncludeRequestAttemptCount: c.group.CompatIstio}
	t.slots, t.config = slices.Insert(t.slots, at, slot{step, vh, xds.SumOf(vh)}), nil
	return true
}

// hostName is the name of a host's virtual host.
func hostName(host string, port uint32) string {
	return host + ":" + strconv.FormatUint(uint64(port), 10)
}

// renew runs a step again and gives its virtual hosts the routes. It tells whether they are the same ones still.
func (t *hostTable) renew(c *compiler, at int) bool {
	s := &t.steps[at]
	u := c.run(*s)
	if u == s.unit {
		return true
	}
	if s.service == nil && (len(u.routes) == 0) != (len(s.unit.routes) == 0) {
		return false
	}
	s.set(u)
	if s.service != nil && !t.contested {
		if i, found := t.search(hostName(s.service.host, s.port.number)); found {
			t.lead(i, u)
		}
		return true
	}
	for i := range t.slots {
		if t.slots[i].step == at {
			t.lead(i, u)
		}
	}
	return true
}

// lead gives a virtual host other routes, unless they say the same.
func (t *hostTable) lead(i int, u *routeUnit) {
	was := t.slots[i].vh
	vh := &routev3.VirtualHost{Name: was.Name, Domains: was.Domains, Routes: u.routes, IncludeRequestAttemptCount: was.IncludeRequestAttemptCount}
	if sum := xds.SumOf(vh); sum != t.slots[i].sum {
		t.slots[i].vh, t.slots[i].sum, t.config = vh, sum, nil
	}
}

// splice puts the virtual host of a service that came in its place, or takes that of one that went away. It tells whether
// that leaves the others as they are.
func (t *hostTable) splice(c *compiler, sp spliced, port uint32) bool {
	s := sp.service
	p, ok := s.port(port)
	if !ok || !p.protocol.http() {
		return true
	}
	if !sp.came {
		at, found := t.search(hostName(s.host, port))
		if !found {
			return false
		}
		gone := t.slots[at].step
		t.free(t.slots[at].vh)
		t.slots, t.steps, t.config = slices.Delete(t.slots, at, at+1), slices.Delete(t.steps, gone, gone+1), nil
		t.shift(gone, -1)
		return true
	}
	first := slices.IndexFunc(t.steps, func(x step) bool { return x.service != nil }) // VirtualServices come before
	if first < 0 {
		first = len(t.steps)
	}
	n, _ := slices.BinarySearchFunc(t.steps[first:], s, func(x step, s *service) int { return c.compareServices(x.service, s) })
	n += first
	st := step{service: s, port: p}
	st.set(c.run(st))
	t.shift(n, 1)
	t.steps = slices.Insert(t.steps, n, st)
	return t.insert(c, n, hostName(s.host, port), c.domains(s, port))
}

// shift tells the slots that the steps from one on have another place.
func (t *hostTable) shift(from, by int) {
	for i := range t.slots {
		if t.slots[i].step >= from {
			t.slots[i].step += by
		}
	}
}

// keep gives every virtual host that is as it was before its old message, and the others their hashes.
func (t *hostTable) keep(before *hostTable) {
	j := 0
	for i := range t.slots {
		s := &t.slots[i]
		for before != nil && j < len(before.slots) && before.slots[j].vh.Name < s.vh.Name {
			j++
		}
		var old *slot
		if before != nil && j < len(before.slots) && before.slots[j].vh.Name == s.vh.Name {
			old = &before.slots[j]
		}
		if old != nil && before.steps[old.step].unit == t.steps[s.step].unit && slices.Equal(old.vh.Domains, s.vh.Domains) {
			s.vh, s.sum = old.vh, old.sum
			continue
		}
		if s.sum = xds.SumOf(s.vh); old != nil && old.sum == s.sum {
			s.vh = old.vh
		}
	}
	if before != nil && before.config != nil && slices.EqualFunc(t.slots, before.slots, func(a, b slot) bool { return a.vh == b.vh }) {
		t.config, t.sum = before.config, before.sum
	}
}

// search finds the place of the virtual host with a name, or where it would be.
func (t *hostTable) search(name string) (int, bool) {
	return slices.BinarySearchFunc(t.slots, name, func(s slot, name string) int { return strings.Compare(s.vh.Name, name) })
}

// find gives the virtual host with a name; nil when there is none.
func (t *hostTable) find(name string) *slot {
	i, ok := t.search(name)
	if !ok {
		return nil
	}
	return &t.slots[i]
}

// finish makes the table's route configuration, with the host that catches all others last.
func (c *compiler) finish(t *hostTable, name string) *routev3.RouteConfiguration {
	if t.config != nil {
		return t.config
	}
	if c.catchAll == nil {
		c.catchAll = c.lastVirtualHost()
	}
	hosts := make([]*routev3.VirtualHost, 0, len(t.slots)+1)
	sums := make([]xds.Sum, 0, len(t.slots)+1)
	for i := range t.slots {
		hosts, sums = append(hosts, t.slots[i].vh), append(sums, t.slots[i].sum)
	}
	t.config = routeConfig(name, append(hosts, c.catchAll))
	t.sum = xds.SumOfRoutes(t.config, append(sums, xds.SumOf(c.catchAll)))
	return t.config
}

// sniffedTable makes the routes of a port without protocol that has a listener of its own: its virtual host takes whatever
// Host says.
func (c *compiler) sniffedTable(out *output, index int, s *service, p servicePort) *hostTable {
	name := sniffedRouteName(s, p)
	t := &hostTable{}
	if found := c.table(out, index, p.number).find(name); found != nil {
		t.slots = []slot{*found}
	}
	key := "sniffed " + name
	out.tables[key] = t
	before := c.before.tables[key]
	if before != nil && slices.EqualFunc(t.slots, before.slots, func(a, b slot) bool { return a.vh == b.vh }) {
		t.config, t.sum = before.config, before.sum
		return t
	}
	var hosts []*routev3.VirtualHost
	var sums []xds.Sum
	for _, sl := range t.slots {
		vh := &routev3.VirtualHost{Name: name, Domains: []string{"*"}, Routes: sl.vh.Routes, IncludeRequestAttemptCount: sl.vh.IncludeRequestAttemptCount}
		hosts, sums = append(hosts, vh), append(sums, xds.SumOf(vh))
	}
	t.config = routeConfig(name, hosts)
	t.sum = xds.SumOfRoutes(t.config, sums)
	return t
}
