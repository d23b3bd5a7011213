package translate

import (
	"cmp"
	"slices"

	"detour.dev/detour/internal/config"
)

// What istiod does (push_context.go, destination_rule.go; SEMANTICS §1.5): a DestinationRule is looked for in the caller's
// namespace, then in the service's among those exported to the caller, then in the root namespace the same way; in each the
// most specific host counts, exact before wildcard. Rules for one host in one namespace are merged when they are exported
// to the same namespaces and select the same workloads. One with a workloadSelector holds for callers in its namespace
// that it selects, before those without.

// ruleIndex holds the DestinationRules of a configuration, by namespace and host.
type ruleIndex struct {
	objects  map[string][]*config.Object // all of them by host, resolved, in the order they are merged
	local    map[string]*ruleHosts       // by namespace: for callers in it
	exported map[string]*ruleHosts       // by namespace: for others
	private  *ruleHosts                  // of the root namespace, for callers in it
}

// ruleHosts holds the rules of one namespace by host.
type ruleHosts struct {
	exact    map[string][]*rule
	wildcard map[string][]*rule
}

func newRuleIndex(set *config.Set, m mesh) ruleIndex {
	x := ruleIndex{objects: map[string][]*config.Object{}, local: map[string]*ruleHosts{}, exported: map[string]*ruleHosts{}, private: newRuleHosts()}
	for _, o := range set.All(config.DestinationRule) {
		host := resolveHost(ruleOf(o).Host)
		x.objects[host] = append(x.objects[host], o)
	}
	for _, list := range x.objects { // rules for different hosts have nothing to do with each other
		slices.SortStableFunc(list, mergeOrder)
		for _, o := range list {
			x.add(o, m)
		}
	}
	return x
}

// mergeOrder is the order in which rules for one host are merged.
func mergeOrder(a, b *config.Object) int {
	selects := func(o *config.Object) int {
		if ruleOf(o).WorkloadSelector != nil {
			return 0
		}
		return 1
	}
	return cmp.Or(cmp.Compare(selects(a), selects(b)), a.Created.Compare(b.Created), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
}

// change takes a rule out and puts another in its place, under one host; either may be nil. All rules for that host are
// merged anew.
func (x *ruleIndex) change(host string, old, now *config.Object, m mesh) {
	list := x.objects[host]
	for _, o := range list {
		for _, h := range []*ruleHosts{x.local[o.Namespace], x.exported[o.Namespace], x.private} {
			if h != nil {
				delete(h.exact, host)
				delete(h.wildcard, host)
			}
		}
	}
	list = slices.DeleteFunc(slices.Clone(list), func(o *config.Object) bool { return old != nil && o.Key == old.Key })
	if now != nil {
		list = append(list, now)
		slices.SortStableFunc(list, mergeOrder)
	}
	if x.objects[host] = list; len(list) == 0 {
		delete(x.objects, host)
	}
	for _, o := range list {
		x.add(o, m)
	}
}

func newRuleHosts() *ruleHosts {
	return &ruleHosts{exact: map[string][]*rule{}, wildcard: map[string][]*rule{}}
}

// add enters one rule wherever callers may find it.
func (x *ruleIndex) add(o *config.Object, m mesh) {
	dr := ruleOf(o)
	to := dr.ExportTo
	if dr.WorkloadSelector != nil {
		to = []string{"."}
	}
	own := func(e string) bool { return e == "." || e == o.Namespace }
	if len(to) == 0 || slices.ContainsFunc(to, func(e string) bool { return e == "*" || own(e) }) {
		hostsIn(x.local, o.Namespace).merge(o, to)
	}
	private := len(to) == 1 && own(to[0]) || len(to) == 0 && slices.Contains(m.ruleExportTo, ".")
	switch {
	case !private:
		hostsIn(x.exported, o.Namespace).merge(o, to)
	case o.Namespace == m.root:
		x.private.merge(o, to)
	}
}

func hostsIn(m map[string]*ruleHosts, ns string) *ruleHosts {
	if m[ns] == nil {
		m[ns] = newRuleHosts()
	}
	return m[ns]
}

// merge adds a rule to those for its host that it can be merged with: exported to the same namespaces or to fewer, and not
// for other workloads. It stands beside them as well when the last of them was not one of those (istiod:
// destination_rule.go mergeDestinationRule, which keeps what it found out last).
func (h *ruleHosts) merge(o *config.Object, exportTo []string) {
	dr := ruleOf(o)
	host := resolveHost(dr.Host)
	hosts := h.exact
	if isWildcard(host) {
		hosts = h.wildcard
	}
	beside := true
	for _, r := range hosts[host] {
		beside = !sameSet(r.exportTo, exportTo)
		if beside && (len(r.exportTo) == 0 || !covers(exportTo, r.exportTo)) {
			continue
		}
		both := r.selector != nil && dr.WorkloadSelector != nil
		if both && !sameLabels(r.selector.MatchLabels, dr.WorkloadSelector.MatchLabels) {
			beside = true
			continue
		}
		if both || r.selector == nil && dr.WorkloadSelector == nil {
			beside = false
		}
		r.add(o, dr)
	}
	if !beside {
		return
	}
	r := &rule{from: o, host: host, exportTo: exportTo, selector: dr.WorkloadSelector}
	r.add(o, dr)
	hosts[host] = append(hosts[host], r)
}

func sameSet(a, b []string) bool { return covers(a, b) && covers(b, a) }

// covers tells whether everything in b is in a.
func covers(a, b []string) bool {
	return !slices.ContainsFunc(b, func(s string) bool { return !slices.Contains(a, s) })
}

func sameLabels(a, b map[string]string) bool {
	return len(a) == len(b) && labelsInclude(a, b)
}

// find gives the rule for a host of a service in namespace ns; nil when there is none.
func (x *ruleIndex) find(c *compiler, host, ns string) *rule {
	caller := c.group.Namespace
	own := x.local[caller]
	if caller == c.mesh.root {
		own = x.private
	}
	if found := own.mostSpecific(host); found != nil {
		return choose(found, c)
	}
	for _, from := range []string{ns, c.mesh.root} {
		var visible []*rule
		for _, r := range x.exported[from].mostSpecific(host) {
			if len(r.exportTo) == 0 || slices.Contains(r.exportTo, "*") || slices.Contains(r.exportTo, caller) {
				visible = append(visible, r)
			}
		}
		if len(visible) > 0 {
			return choose(visible, c)
		}
	}
	return nil
}

// mostSpecific gives the rules for the most specific host that covers host.
func (h *ruleHosts) mostSpecific(host string) []*rule {
	if h == nil {
		return nil
	}
	if found, ok := h.exact[host]; ok {
		return found
	}
	best := ""
	for pattern := range h.wildcard {
		if hostMatches(pattern, host) && (best == "" || len(pattern) > len(best)) {
			best = pattern
		}
	}
	return h.wildcard[best]
}

// choose gives the first rule that selects the caller, else the last that selects nobody in particular.
func choose(found []*rule, c *compiler) *rule {
	var out *rule
	for _, r := range found {
		switch {
		case r.selector == nil:
			out = r
		case r.from.Namespace == c.group.Namespace && labelsInclude(c.group.Labels, r.selector.MatchLabels):
			return r
		}
	}
	return out
}
