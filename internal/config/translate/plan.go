package translate

import (
	"fmt"
	"time"

	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
	"detour.dev/detour/internal/xds"
)

// Place is a field of an object.
type Place struct {
	Object *config.Object
	Field  string
}

// String gives the place's FILE:LINE:COLUMN.
func (p Place) String() string { return p.Object.At(p.Field).String() }

// Plan is what translation decided about one cluster and from which lines, for analysis: what the snapshot says without
// saying why.
type Plan struct {
	Cluster  string // outbound|PORT|SUBSET|HOST
	Host     string
	Port     uint32
	Protocol string // "http", "tls" or "tcp"
	Entry    *config.Object
	Rule     *config.Object // the DestinationRule in force; nil when none is
	// Blocked says why nothing is sent there; "" when all is well.
	Blocked  string
	External bool // MESH_EXTERNAL
	Outlier  *networking.OutlierDetection
	TLS      *networking.ClientTLSSettings // nil when the proxy does not speak TLS upstream of its own accord
	// NamesFollowEndpoints: SNI and the name to verify are the chosen endpoint's.
	NamesFollowEndpoints bool
	// SANs are the names of which a certificate must carry one, where somebody stated them.
	SANs []string
	// LocalityOff: localityLbSetting says enabled: false.
	LocalityOff bool
	// Distributed: localityLbSetting gives weights, which is not failover.
	Distributed bool
	// Ordered: localityLbSetting says which endpoints come first, with failover or failoverPriority.
	Ordered bool
	// Dropped are the endpoints that distribute leaves without traffic.
	Dropped []PlannedEndpoint
	// Subset is the subset's name, DeclaredAt where it is declared; empty for the whole service.
	Subset     string
	DeclaredAt Place
	Resolution networking.ServiceEntry_Resolution
	// ConnectTimeout is how long a connection may take to be made; ConnectTimeoutSet, that the rule states it.
	ConnectTimeout    time.Duration
	ConnectTimeoutSet bool
	Endpoints         []PlannedEndpoint
	at                map[string]Place
}

// PlannedEndpoint is one endpoint with its place in the order of failover.
type PlannedEndpoint struct {
	Address  string // host name, IP address or path of a unix socket
	Port     uint32 // 0 for a unix socket
	IsName   bool
	Locality string // REGION/ZONE/SUBZONE as far as known
	Priority uint32
	At       Place
}

// At tells where a block of the policy (outlierDetection, loadBalancer, tls) was written; where it was not, the place to
// write it: the DestinationRule's trafficPolicy, else the ServiceEntry.
func (p *Plan) At(block string) Place {
	if at, ok := p.at[block]; ok {
		return at
	}
	if p.Rule != nil {
		return Place{p.Rule, "spec.trafficPolicy"}
	}
	return Place{p.Entry, "spec.hosts"}
}

// States tells whether the rule in force writes a block, whatever it says there.
func (p *Plan) States(block string) bool {
	_, ok := p.at[block]
	return ok
}

// Plans tells what Translate decides about every cluster, in its order.
func Plans(set *config.Set, group xds.NodeGroup) []*Plan {
	c := newCompiler(set, group, nil)
	var out []*Plan
	for _, s := range c.services {
		for _, cc := range c.contexts(s) {
			out = append(out, c.plan(cc))
		}
	}
	return out
}

func (c *compiler) plan(cc *clusterContext) *Plan {
	s := cc.service
	setting := c.placementFor(cc.service, cc.policy)
	p := &Plan{
		Cluster: clusterName(cc.port.number, cc.subset.name(), s.host), Host: s.host, Port: cc.port.number,
		Protocol: "tcp", Entry: s.first, Rule: cc.from, Blocked: c.blocked(s, cc.policy), External: s.external(),
		Outlier: cc.policy.outlier, NamesFollowEndpoints: c.namesFollowEndpoints(cc),
		LocalityOff: setting.off, Distributed: len(setting.distribute) > 0, Resolution: s.spec.Resolution, at: cc.policy.at,
		Ordered: len(setting.failover)+len(setting.failoverPriority) > 0,
	}
	switch {
	case cc.port.protocol.http():
		p.Protocol = "http"
	case cc.port.protocol == opaqueTLS:
		p.Protocol = "tls"
	}
	if t := cc.policy.tls; originates(t) {
		p.TLS = t
		p.SANs = c.namesToVerify(cc, t)
	}
	if cc.subset != nil {
		p.Subset, p.DeclaredAt = cc.subset.Name, Place{cc.subset.from, fmt.Sprintf("spec.subsets[%d]", cc.subset.index)}
	}
	p.ConnectTimeout = c.mesh.connectTimeout.AsDuration()
	if t := cc.policy.pool.GetTcp().GetConnectTimeout(); t != nil {
		p.ConnectTimeout, p.ConnectTimeoutSet = t.AsDuration(), true
	}
	used := map[Place]bool{}
	for _, g := range c.place(cc.members, setting, c.failsOver(cc)) {
		for _, m := range g.members {
			used[m.at] = true
			p.Endpoints = append(p.Endpoints, m.planned(g.priority))
		}
	}
	for _, m := range cc.members {
		if p.Distributed && !used[m.at] {
			p.Dropped = append(p.Dropped, m.planned(0))
		}
	}
	return p
}

func (m member) planned(priority uint32) PlannedEndpoint {
	return PlannedEndpoint{Address: m.address, Port: m.port, IsName: m.isName(), Locality: m.locality.String(), Priority: priority, At: m.at}
}
