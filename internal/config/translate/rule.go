package translate

import (
	"fmt"
	"slices"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// rule is what the DestinationRules for one host say together: of several for the same host in one namespace the first
// trafficPolicy wins and the subsets are added up (SEMANTICS §1.5).
type rule struct {
	from    *config.Object // the first: its name goes into metadata, its annotations count
	host    string         // as it stands in the rule, resolved: exact or wildcard
	policy  *networking.TrafficPolicy
	policyO *config.Object // where policy was written; nil when no rule has one
	subsets []subset
}

// subset is one named subset and the object that declares it.
type subset struct {
	*networking.Subset
	from  *config.Object
	index int
}

// name is the subset's; "" for the whole service.
func (s *subset) name() string {
	if s == nil {
		return ""
	}
	return s.Name
}

func ruleOf(o *config.Object) *networking.DestinationRule {
	return o.Spec.(*networking.DestinationRule)
}

// attachRule finds the DestinationRule for a service: in the group's own namespace, else exported from the service's,
// else exported from the root namespace; in each the most specific host, exact before wildcard. A refused rule for the
// host stands before all: what it asked for is not known, so the host must not be served as if it had said nothing.
func (c *compiler) attachRule(s *service) {
	for i, r := range c.set.Refused() {
		if r.Key.Kind == config.DestinationRule && slices.ContainsFunc(r.Hosts, func(h string) bool {
			return hostMatches(resolveHost(h), s.host)
		}) {
			s.refused = &c.set.Refused()[i]
			return
		}
	}
	own := c.group.Namespace
	if s.rule = c.mergedRule(own, s.host, false); s.rule != nil {
		return
	}
	for _, ns := range []string{s.first.Namespace, config.RootNamespace} {
		if s.rule = c.mergedRule(ns, s.host, true); s.rule != nil {
			return
		}
	}
}

// mergedRule merges the rules of one namespace for the most specific host that covers host; exported asks that they be
// visible to the group. Nil when there is none.
func (c *compiler) mergedRule(ns, host string, exported bool) *rule {
	var out *rule
	for _, e := range c.rules.covering(host) {
		dr := ruleOf(e.object)
		if out != nil && e.host != out.host {
			break // what follows is less specific
		}
		if e.object.Namespace != ns || !labelsInclude(c.group.Labels, dr.WorkloadSelector.GetMatchLabels()) {
			continue
		}
		if exported && !exportedTo(dr.ExportTo, ns, c.group.Namespace) {
			continue
		}
		if out == nil {
			out = &rule{from: e.object, host: e.host}
		}
		out.add(e.object, dr)
	}
	return out
}

// add merges one more rule for the same host.
func (r *rule) add(o *config.Object, dr *networking.DestinationRule) {
	if r.policy == nil && dr.TrafficPolicy != nil {
		r.policy, r.policyO = dr.TrafficPolicy, o
	}
	for i, sub := range dr.Subsets {
		known := slices.ContainsFunc(r.subsets, func(s subset) bool { return s.Name == sub.Name })
		if !known {
			r.subsets = append(r.subsets, subset{sub, o, i})
		}
	}
}

// policy is what applies to one cluster after all levels were put together.
type policy struct {
	pool     *networking.ConnectionPoolSettings
	outlier  *networking.OutlierDetection
	balancer *networking.LoadBalancerSettings
	tls      *networking.ClientTLSSettings
	tunnel   *networking.TrafficPolicy_TunnelSettings
	proxy    *networking.TrafficPolicy_ProxyProtocol
	budget   *networking.TrafficPolicy_RetryBudget
	at       map[string]Place // where the blocks outlierDetection, loadBalancer and tls were written, by name
}

// policyFor puts the levels together for one port and subset: the subset's blocks replace the rule's one by one, and
// portLevelSettings for the port replace all four blocks they can have, without inheriting any (SEMANTICS §1.5).
func (r *rule) policyFor(port uint32, sub *subset) policy {
	p := policy{at: map[string]Place{}}
	if r == nil {
		return p
	}
	p.override(r.policy, port, Place{r.policyO, "spec.trafficPolicy"})
	if sub != nil {
		p.override(sub.TrafficPolicy, port, Place{sub.from, fmt.Sprintf("spec.subsets[%d].trafficPolicy", sub.index)})
	}
	return p
}

func (p *policy) override(tp *networking.TrafficPolicy, port uint32, at Place) {
	if tp == nil {
		return
	}
	replace(&p.pool, tp.ConnectionPool)
	replace(&p.outlier, tp.OutlierDetection)
	replace(&p.balancer, tp.LoadBalancer)
	replace(&p.tls, tp.Tls)
	replace(&p.tunnel, tp.Tunnel)
	replace(&p.proxy, tp.ProxyProtocol)
	replace(&p.budget, tp.RetryBudget)
	p.note("outlierDetection", tp.OutlierDetection != nil, at)
	p.note("loadBalancer", tp.LoadBalancer != nil, at)
	p.note("tls", tp.Tls != nil, at)
	for i, l := range tp.PortLevelSettings {
		if l.GetPort().GetNumber() == port {
			p.pool, p.outlier, p.balancer, p.tls = l.ConnectionPool, l.OutlierDetection, l.LoadBalancer, l.Tls
			at.Field += fmt.Sprintf(".portLevelSettings[%d]", i)
			for _, block := range []string{"outlierDetection", "loadBalancer", "tls"} {
				p.note(block, true, at)
			}
			return
		}
	}
}

// note keeps where a block was written.
func (p *policy) note(block string, written bool, at Place) {
	if written {
		p.at[block] = Place{at.Object, at.Field + "." + block}
	}
}

// replace sets *dst to src where src says anything.
func replace[T any](dst **T, src *T) {
	if src != nil {
		*dst = src
	}
}
