package translate

import (
	"fmt"
	"slices"

	networking "istio.io/api/networking/v1alpha3"
	typev1beta1 "istio.io/api/type/v1beta1"

	"detour.dev/detour/internal/config"
)

// rule is what the DestinationRules for one host say together: of several for the same host in one namespace the first
// trafficPolicy wins and the subsets are added up (SEMANTICS §1.5).
type rule struct {
	objects  []*config.Object // all of them: nothing else counts
	from     *config.Object   // the first: its name goes into metadata, its annotations count
	host     string           // as it stands in the rule, resolved: exact or wildcard
	exportTo []string
	selector *typev1beta1.WorkloadSelector // nil: holds for every caller
	policy   *networking.TrafficPolicy
	policyO  *config.Object // where policy was written; nil when no rule has one
	subsets  []subset
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

// attachRule finds the DestinationRule for a service. A refused rule for the host stands before all: what it asked for is
// not known, so the host must not be served as if it had said nothing.
func (c *compiler) attachRule(s *service) {
	for i, r := range c.set.Refused() {
		if r.Key.Kind == config.DestinationRule && slices.ContainsFunc(r.Hosts, func(h string) bool {
			return hostMatches(resolveHost(h), s.host)
		}) {
			s.refused = &c.set.Refused()[i]
			return
		}
	}
	s.rule = c.rules.find(c, s.host, s.first.Namespace)
}

// add merges one more rule for the same host.
func (r *rule) add(o *config.Object, dr *networking.DestinationRule) {
	r.objects = append(r.objects, o)
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

// policyFor puts the levels together for one port and subset: MeshConfig's defaultTrafficPolicy fills blocks that the rule
// leaves out, the subset's blocks replace both one by one, and portLevelSettings for the port replace everything of their
// own level, without inheriting from it (SEMANTICS §1.5).
func (c *compiler) policyFor(r *rule, port uint32, sub *subset) policy {
	p := policy{at: map[string]Place{}}
	if r != nil {
		p.override(r.policy, port, Place{r.policyO, "spec.trafficPolicy"})
	}
	if p.pool == nil {
		p.pool = c.mesh.defaults.GetConnectionPool()
	}
	if p.outlier == nil {
		p.outlier = c.mesh.defaults.GetOutlierDetection()
	}
	if sub != nil {
		p.override(sub.TrafficPolicy, port, Place{sub.from, fmt.Sprintf("spec.subsets[%d].trafficPolicy", sub.index)})
	}
	return p
}

func passes(lb *networking.LoadBalancerSettings) bool {
	return lb.GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH
}

func (p *policy) override(tp *networking.TrafficPolicy, port uint32, at Place) {
	if tp == nil {
		return
	}
	if i := portSettings(tp, port); i >= 0 {
		l := tp.PortLevelSettings[i]
		p.pool, p.outlier, p.balancer, p.tls = l.ConnectionPool, l.OutlierDetection, l.LoadBalancer, l.Tls // of its own level it inherits nothing else either
		at.Field += fmt.Sprintf(".portLevelSettings[%d]", i)
		for _, block := range []string{"outlierDetection", "loadBalancer", "tls"} {
			p.note(block, true, at)
		}
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
}

// portSettings gives the index of the settings for a port; -1 where there are none.
func portSettings(tp *networking.TrafficPolicy, port uint32) int {
	return slices.IndexFunc(tp.GetPortLevelSettings(), func(l *networking.TrafficPolicy_PortTrafficPolicy) bool {
		return l.GetPort() != nil && l.Port.Number == port
	})
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
