package translate

import (
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"detour.dev/detour/internal/xds"
)

// Labels that name a locality (SEMANTICS §1.2).
const (
	labelRegion        = "topology.kubernetes.io/region"
	labelZone          = "topology.kubernetes.io/zone"
	labelSubzone       = "topology.istio.io/subzone"
	labelLocality      = "topology.istio.io/locality"
	labelLocalityShort = "istio-locality"
	labelNetwork       = "topology.istio.io/network"
)

// node is the caller as the compiler sees it.
type node struct {
	locality locality
	labels   map[string]string // with the topology labels that follow from the locality
}

// newNode finds the caller's locality in istiod's order: its topology labels, its locality label, then the locality the
// node itself states; and gives it the topology labels that failoverPriority compares.
func newNode(g xds.NodeGroup) node {
	n := node{labels: map[string]string{}}
	for k, v := range g.Labels {
		n.labels[k] = v
	}
	l := locality{n.labels[labelRegion], n.labels[labelZone], n.labels[labelSubzone]}
	if l == (locality{}) {
		l = labelledLocality(n.labels)
	}
	if l == (locality{}) {
		l = locality{g.Locality.GetRegion(), g.Locality.GetZone(), g.Locality.GetSubZone()}
	}
	n.locality = l
	for k, v := range map[string]string{labelRegion: l.region, labelZone: l.zone, labelSubzone: l.subzone} {
		if v != "" {
			n.labels[k] = v
		}
	}
	return n
}

// lookupFamily tells which addresses of a name are asked for. Where the node has both families istiod asks for IPv4 only
// (ENABLE_DUAL_STACK is off by default); detour asks for both.
func (c *compiler) lookupFamily() addressFamily {
	switch {
	case c.group.IPv6 && !c.group.IPv4:
		return familyV6
	case c.group.IPv6 && !c.group.CompatIstio:
		return familyAll
	}
	return familyV4
}

type addressFamily int

const (
	familyV4 addressFamily = iota
	familyV6
	familyAll
)

// proto gives a locality as Envoy has it.
func (l locality) proto() *corev3.Locality {
	return &corev3.Locality{Region: l.region, Zone: l.zone, SubZone: l.subzone}
}
