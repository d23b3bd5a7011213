package translate

import (
	"cmp"
	"slices"
	"strings"

	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// What istiod does (core/loadbalancer/loadbalancer.go; SEMANTICS §1.3): the DestinationRule's locality setting replaces
// the mesh's as a whole. `distribute` only weighs; otherwise, where outlierDetection is set, every locality gets a
// priority by how near it is, or by the labels that failoverPriority names, and the priorities are then numbered without
// gaps. Without outlierDetection every endpoint is in priority 0.

// locality is region/zone/subzone; empty parts are unknown.
type locality struct{ region, zone, subzone string }

// parseLocality splits at '/'; where there is none, '.' separates, as in a label. A fourth part and more are ignored.
func parseLocality(s string) locality {
	if !strings.Contains(s, "/") {
		return locality{region: s}
	}
	parts := append(strings.SplitN(s, "/", 4), "", "")
	return locality{parts[0], parts[1], parts[2]}
}

func (l locality) String() string {
	return strings.TrimRight(l.region+"/"+l.zone+"/"+l.subzone, "/")
}

func compareLocality(a, b locality) int {
	return cmp.Or(strings.Compare(a.region, b.region), strings.Compare(a.zone, b.zone), strings.Compare(a.subzone, b.subzone))
}

// labelledLocality reads a locality label. '/' is not allowed in label values, so '.' stands for it where there is no '/'.
func labelledLocality(labels map[string]string) locality {
	v := cmp.Or(labels[labelLocality], labels[labelLocalityShort])
	if !strings.Contains(v, "/") {
		v = strings.ReplaceAll(v, ".", "/")
	}
	return parseLocality(v)
}

// endpointLocality is the endpoint's `locality`, else its label's.
func endpointLocality(e *networking.WorkloadEntry) locality {
	if e.Locality != "" {
		return parseLocality(e.Locality)
	}
	return labelledLocality(e.Labels)
}

// localityGroup is the endpoints of one locality and priority.
type localityGroup struct {
	locality locality
	priority uint32
	weight   uint32
	members  []member
}

// placement is the locality setting in force for one cluster.
type placement struct {
	distribute       []*networking.LocalityLoadBalancerSetting_Distribute
	failover         []failoverRule
	failoverPriority []string
	forced           bool // as if outlierDetection were set
	zoneAware        bool
	minClusterSize   *wrapperspb.UInt64Value // zoneAware: Envoy's min_cluster_size
	off              bool
}

// failoverRule sends a region's traffic first to another.
type failoverRule struct{ from, to string }

// placementFor picks the setting: the policy's (none at all where it says enabled: false), else what the service's
// traffic distribution asks for, else the mesh's. At each level zoneAwareLbSetting counts before localityLbSetting.
func (c *compiler) placementFor(s *service, p policy) placement {
	z, l := p.balancer.GetZoneAwareLbSetting(), p.balancer.GetLocalityLbSetting()
	switch {
	case z != nil:
		return zoneAwarePlacement(z)
	case l != nil:
		return localityPlacement(l)
	}
	if near := distributions[trafficDistribution(s)]; near != nil {
		return placement{failoverPriority: near, forced: true}
	}
	if c.mesh.zoneAware != nil {
		return zoneAwarePlacement(c.mesh.zoneAware)
	}
	return localityPlacement(c.mesh.localityLB)
}

func zoneAwarePlacement(z *networking.ZoneAwareLoadBalancerSetting) placement {
	out := placement{zoneAware: true, failoverPriority: z.FailoverPriority, off: z.Enabled != nil && !z.Enabled.Value}
	if z.MinClusterSize != nil {
		out.minClusterSize = wrapperspb.UInt64(uint64(z.MinClusterSize.Value))
	}
	for _, f := range z.Failover {
		out.failover = append(out.failover, failoverRule{f.From, f.To})
	}
	return out
}

func localityPlacement(l *networking.LocalityLoadBalancerSetting) placement {
	if l.Enabled != nil && !l.Enabled.Value {
		return placement{off: true}
	}
	out := placement{distribute: l.Distribute, failoverPriority: l.FailoverPriority}
	for _, f := range l.Failover {
		out.failover = append(out.failover, failoverRule{f.From, f.To})
	}
	return out
}

// distributions gives the labels by which traffic stays near, by what the annotation networking.istio.io/traffic-distribution
// of a ServiceEntry says (istiod: GetTrafficDistribution).
var distributions = map[string][]string{
	"preferclose":    {labelNetwork, labelRegion, labelZone},
	"prefersamezone": {labelNetwork, labelRegion, labelZone},
	"prefersamenode": {labelNetwork, labelRegion, labelZone, labelSubzone, config.LabelNode},
}

// trafficDistribution is what a service's annotation says, lower case; "" where it says nothing.
func trafficDistribution(s *service) string {
	return strings.ToLower(s.first.Annotations[config.AnnotationDistribution])
}

// weighted tells whether Envoy must honour locality weights: with distribute, or with outlierDetection and explicit
// failover settings.
func (p placement) weighted(outlier bool) bool {
	if p.off || p.zoneAware {
		return false
	}
	return len(p.distribute) > 0 || (outlier || p.forced) && (len(p.failover) > 0 || len(p.failoverPriority) > 0)
}

// place groups endpoints by locality and gives the groups their priorities and weights.
func (c *compiler) place(members []member, p placement, outlier bool) []localityGroup {
	groups := groupByLocality(members)
	switch {
	case p.off:
		return groups
	case len(p.distribute) > 0:
		distribute(groups, c.node.locality, p.distribute)
		return groups
	case !outlier && !p.zoneAware && !p.forced:
		return groups
	}
	if len(p.failoverPriority) > 0 {
		groups = compactPriorities(byLabels(groups, c.node.labels, p.failoverPriority))
		if len(p.failover) == 0 && !p.zoneAware {
			return groups
		}
	}
	for i := range groups {
		near, levels := nearness(c.node.locality, groups[i].locality, p)
		groups[i].priority = groups[i].priority*levels + near
	}
	return compactPriorities(groups)
}

// groupByLocality gives one group per locality, sorted, all with priority 0; a group's weight is the sum of its
// endpoints'.
func groupByLocality(members []member) []localityGroup {
	index := map[locality]int{}
	var out []localityGroup
	for _, m := range members {
		i, ok := index[m.locality]
		if !ok {
			i = len(out)
			index[m.locality] = i
			out = append(out, localityGroup{locality: m.locality})
		}
		out[i].members = append(out[i].members, m)
		out[i].weight = addWeights(out[i].weight, m.weight)
	}
	slices.SortFunc(out, func(a, b localityGroup) int { return compareLocality(a.locality, b.locality) })
	return out
}

// addWeights adds without overflow.
func addWeights(a, b uint32) uint32 {
	return uint32(min(uint64(a)+uint64(b), 1<<32-1))
}

// nearness gives a locality's distance from the caller and the number of levels there are: 0 same subzone, 1 same zone,
// 2 same region, 3 elsewhere, 4 elsewhere while a failover rule for the caller's region names another; zone-aware
// settings know only region, named region and the rest.
func nearness(caller, l locality, p placement) (near, levels uint32) {
	if p.zoneAware {
		switch {
		case l.region == caller.region:
			return 0, 3
		case p.prefers(caller.region, l.region):
			return 1, 3
		}
		return 2, 3
	}
	switch {
	case l == caller:
		return 0, 5
	case l.region == caller.region && l.zone == caller.zone:
		return 1, 5
	case l.region == caller.region:
		return 2, 5
	}
	for _, f := range p.failover {
		if f.from == caller.region {
			if f.to == l.region {
				return 3, 5
			}
			return 4, 5
		}
	}
	return 3, 5
}

// prefers tells whether the first rule for a region names that other one.
func (p placement) prefers(from, to string) bool {
	for _, f := range p.failover {
		if f.from == from {
			return f.to == to
		}
	}
	return false
}

// byLabels splits every group by the priority its endpoints' labels give them: len(keys)-j for the first key j that
// differs from the caller, 0 when none does. A key may carry the value to compare with instead of the caller's own
// ("tier=gold"). A different network, as first key, only adds to the rest.
func byLabels(groups []localityGroup, caller map[string]string, keys []string) []localityGroup {
	if len(caller) == 0 {
		return groups
	}
	var out []localityGroup
	for _, g := range groups {
		parts := map[uint32]*localityGroup{}
		for _, m := range g.members {
			prio := labelPriority(m, caller, keys)
			part := parts[prio]
			if part == nil {
				part = &localityGroup{locality: g.locality, priority: prio}
				parts[prio] = part
			}
			part.members = append(part.members, m)
			part.weight = addWeights(part.weight, m.weight)
		}
		for _, part := range parts {
			out = append(out, *part)
		}
	}
	slices.SortFunc(out, func(a, b localityGroup) int {
		return cmp.Or(compareLocality(a.locality, b.locality), cmp.Compare(a.priority, b.priority))
	})
	return out
}

func labelPriority(m member, caller map[string]string, keys []string) uint32 {
	var base uint32
	n := uint32(len(keys))
	for j, key := range keys {
		key, want, given := strings.Cut(key, "=")
		if !given {
			want = caller[key]
		}
		if m.label(key) == want {
			continue
		}
		if j == 0 && key == labelNetwork {
			base = n
			continue
		}
		return base + n - uint32(j)
	}
	return base
}

// label gives an endpoint's label. Those that follow from its locality count before written ones; that of its network does
// not (istiod: AugmentLabels).
func (m member) label(key string) string {
	follows := ""
	switch key {
	case labelRegion:
		follows = m.locality.region
	case labelZone:
		follows = m.locality.zone
	case labelSubzone:
		follows = m.locality.subzone
	case labelNetwork:
		return cmp.Or(m.labels[key], m.network)
	}
	return cmp.Or(follows, m.labels[key])
}

// compactPriorities numbers the priorities that occur from 0 without gaps, as Envoy demands.
func compactPriorities(groups []localityGroup) []localityGroup {
	var used []uint32
	for _, g := range groups {
		used = append(used, g.priority)
	}
	slices.Sort(used)
	used = slices.Compact(used)
	for i := range groups {
		at, _ := slices.BinarySearch(used, groups[i].priority)
		groups[i].priority = uint32(at)
	}
	return groups
}

// distribute weighs the groups by the first rule whose `from` matches the caller: a rule's weight is shared by the groups
// its pattern matches, in proportion to their own weights, rounded up. A locality that no pattern matches keeps its group
// and loses its endpoints (T7). Without a matching rule nothing changes.
func distribute(groups []localityGroup, caller locality, rules []*networking.LocalityLoadBalancerSetting_Distribute) {
	for _, r := range rules {
		if !localityMatches(r.From, caller) {
			continue
		}
		matched := make([]bool, len(groups))
		for _, pattern := range sortedKeys(r.To) {
			var total uint64
			for i, g := range groups {
				if !matched[i] && localityMatches(pattern, g.locality) {
					total += uint64(g.weight)
				}
			}
			for i, g := range groups {
				if !matched[i] && localityMatches(pattern, g.locality) {
					matched[i] = true
					share := (uint64(g.weight)*uint64(r.To[pattern]) + total - 1) / max(total, 1)
					groups[i].weight = uint32(share)
				}
			}
		}
		for i := range groups {
			if !matched[i] {
				groups[i].members = nil
			}
		}
		return
	}
}

// localityMatches tells whether a locality lies in a pattern: a part that is missing or "*" matches anything.
func localityMatches(pattern string, l locality) bool {
	p := parseLocality(pattern)
	for _, part := range [][2]string{{p.region, l.region}, {p.zone, l.zone}, {p.subzone, l.subzone}} {
		if part[0] == "" || part[0] == "*" {
			return true
		}
		if part[0] != part[1] {
			return false
		}
	}
	return true
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
