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
	made  *compiler // whose front it follows
	steps []step    // in the order they are compiled and report
	slots []slot    // by name
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
}

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

// table gives the virtual hosts of a port of an egress listener, those of the run before where nothing changed.
func (c *compiler) table(out *output, index int, port uint32) *hostTable {
	key := strconv.Itoa(index) + "/" + strconv.FormatUint(uint64(port), 10)
	if t := out.tables[key]; t != nil {
		return t
	}
	before := c.before.tables[key]
	t := before
	if before == nil || before.made != c {
		t = c.virtualHosts(c.egress[index], port)
		t.keep(before)
	} else {
		t = c.refresh(before)
	}
	out.tables[key] = t
	return t
}

// refresh runs the steps of a table again and gives a table with the virtual hosts whose routes are others.
func (c *compiler) refresh(before *hostTable) *hostTable {
	changed := map[int]*routeUnit{}
	for i := range before.steps {
		if u := c.run(before.steps[i]); u != before.steps[i].unit {
			changed[i] = u
		}
	}
	if len(changed) == 0 {
		return before
	}
	t := &hostTable{made: c, steps: slices.Clone(before.steps), slots: slices.Clone(before.slots)}
	for i, u := range changed {
		t.steps[i].unit = u
	}
	for i := range t.slots {
		if u := changed[t.slots[i].step]; u != nil {
			was := t.slots[i].vh
			vh := &routev3.VirtualHost{Name: was.Name, Domains: was.Domains, Routes: u.routes, IncludeRequestAttemptCount: was.IncludeRequestAttemptCount}
			t.slots[i].vh, t.slots[i].sum = vh, xds.SumOf(vh)
		}
	}
	return t
}

// keep gives every virtual host that is as it was before its old message, and the others their hashes.
func (t *hostTable) keep(before *hostTable) {
	j := 0
	for i := range t.slots {
		s := &t.slots[i]
		for before != nil && j < len(before.slots) && before.slots[j].vh.Name < s.vh.Name {
			j++
		}
		if before != nil && j < len(before.slots) {
			if old := before.slots[j]; old.vh.Name == s.vh.Name && before.steps[old.step].unit == t.steps[s.step].unit && slices.Equal(old.vh.Domains, s.vh.Domains) {
				s.vh, s.sum = old.vh, old.sum
				continue
			}
		}
		s.sum = xds.SumOf(s.vh)
	}
	if before != nil && before.config != nil && slices.EqualFunc(t.slots, before.slots, func(a, b slot) bool { return a.vh == b.vh }) {
		t.config, t.sum = before.config, before.sum
	}
}

// find gives the virtual host with a name; nil when there is none.
func (t *hostTable) find(name string) *slot {
	i, ok := slices.BinarySearchFunc(t.slots, name, func(s slot, name string) int { return strings.Compare(s.vh.Name, name) })
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
