package translate

import (
	"fmt"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

const unixPrefix = "unix://"

// member is one endpoint of one service port before it has a priority.
type member struct {
	address  string // host name, IP address, or the path of a unix socket
	port     uint32 // 0 for a unix socket
	unix     bool
	labels   map[string]string // as written; see label
	network  string
	locality locality
	weight   uint32
	hostname string // what Envoy calls the endpoint; empty: its address
	at       Place  // where it was written
}

// isName tells whether the endpoint is reached by a DNS name.
func (m member) isName() bool {
	if m.unix {
		return false
	}
	_, err := netip.ParseAddr(m.address)
	return err != nil
}

// membersOf gives the endpoints of one port of a service, those of the subset's labels where there is one. A DNS service
// without endpoints and without workloadSelector is its own only endpoint, at targetPort (SEMANTICS §1.1).
func (c *compiler) membersOf(s *service, port servicePort, labels map[string]string) []member {
	var out []member
	for _, o := range s.entries {
		se := entryOf(o)
		declared := c.portIn(s, se, port)
		if declared == nil {
			continue
		}
		entries := se.Endpoints
		if o.Kind == config.Service && s.spec.Resolution == networking.ServiceEntry_STATIC {
			entries = c.sliceEndpoints(o, declared.Name)
		} else if se.WorkloadSelector != nil {
			entries = c.selectedWorkloads(o)
		} else if len(entries) == 0 && resolvesByName(s.spec.Resolution) {
			entries = []*networking.WorkloadEntry{{Address: s.host}}
		}
		for range c.copiesOf(o) {
			for i, e := range entries {
				m := memberOf(e, declared)
				m.at = Place{o, fmt.Sprintf("spec.endpoints[%d]", i)}
				if len(se.Endpoints) == 0 {
					m.at.Field = "spec.hosts"
				}
				if usable(m, s.spec.Resolution) && m.labelled(labels) {
					out = append(out, m)
				}
			}
		}
	}
	if s.spec.Resolution == networking.ServiceEntry_DNS_ROUND_ROBIN {
		out = out[:min(len(out), 1)]
	}
	return out
}

// portNamed gives the declaration of a port in one ServiceEntry; nil where it has none.
func portNamed(se *networking.ServiceEntry, number uint32) *networking.ServicePort {
	for _, p := range se.Ports {
		if p.Number == number {
			return p
		}
	}
	return nil
}

// memberOf places one WorkloadEntry. Its port is, in this order: none for a unix socket, the endpoint's own for the port's
// name, the port's targetPort, the port's number. Weight 0 counts as 1.
func memberOf(e *networking.WorkloadEntry, p *networking.ServicePort) member {
	m := member{address: e.Address, labels: e.Labels, network: e.Network, weight: max(e.Weight, 1), port: p.Number, locality: endpointLocality(e)}
	switch {
	case strings.HasPrefix(e.Address, unixPrefix):
		m.address, m.unix, m.port = strings.TrimPrefix(e.Address, unixPrefix), true, 0
	case e.Ports[p.Name] > 0:
		m.port = e.Ports[p.Name]
	case p.TargetPort > 0:
		m.port = p.TargetPort
	}
	return m
}

// labelled tells whether an endpoint has every label of a subset.
func (m member) labelled(want map[string]string) bool {
	for k, v := range want {
		if _, written := m.labels[k]; m.label(k) != v || v == "" && !written {
			return false
		}
	}
	return true
}

func resolvesByName(r networking.ServiceEntry_Resolution) bool {
	return r == networking.ServiceEntry_DNS || r == networking.ServiceEntry_DNS_ROUND_ROBIN
}

// usable tells whether an endpoint can be part of a service of that resolution: without DNS only IP addresses and unix
// sockets are.
func usable(m member, r networking.ServiceEntry_Resolution) bool {
	return resolvesByName(r) || !m.isName()
}

// loadAssignment groups endpoints by locality and priority.
func (c *compiler) loadAssignment(name string, groups []localityGroup) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: make([]*endpointv3.LocalityLbEndpoints, 0, len(groups))}
	for _, g := range groups {
		ll := &endpointv3.LocalityLbEndpoints{
			Locality:            share(c, g.locality.proto()),
			Priority:            g.priority,
			LoadBalancingWeight: number(g.weight),
			LbEndpoints:         make([]*endpointv3.LbEndpoint, 0, len(g.members)),
		}
		for _, m := range g.members {
			ll.LbEndpoints = append(ll.LbEndpoints, m.lbEndpoint())
		}
		out.Endpoints = append(out.Endpoints, ll)
	}
	return out
}

func (m member) lbEndpoint() *endpointv3.LbEndpoint {
	addr := &corev3.Address{}
	if m.unix {
		addr.Address = &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: m.address}}
	} else {
		addr = socketAddress(m.address, m.port)
	}
	return &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr, Hostname: m.hostname}},
		LoadBalancingWeight: number(m.weight),
	}
}

func socketAddress(address string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       address,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}
