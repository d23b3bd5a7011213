package cluster

import (
	"slices"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"detour.dev/detour/internal/dataplane/lb"
)

// endpoints lists the endpoints as the admin API shows them; those of an ORIGINAL_DST cluster by address.
func (c *Cluster) endpoints() []*lb.Endpoint {
	switch c.cfg.Type {
	case OriginalDst:
		return c.live.origEndpoints()
	case DynamicDNS:
		return c.live.dynamicEndpoints()
	}
	return c.set.Load().Endpoints()
}

// Status gives the cluster as Envoy's /clusters?format=json has it.
func (c *Cluster) Status() *adminv3.ClusterStatus {
	out := &adminv3.ClusterStatus{
		Name: c.cfg.Name, AddedViaApi: true, ObservabilityName: c.cfg.Name,
		CircuitBreakers: c.cfg.thresholds(), EdsServiceName: c.cfg.Proto.GetEdsClusterConfig().GetServiceName(),
	}
	if name := c.cfg.Proto.GetAltStatName(); name != "" {
		out.ObservabilityName = name
	}
	for _, e := range c.endpoints() {
		out.HostStatuses = append(out.HostStatuses, hostStatus(e))
	}
	return out
}

func hostStatus(e *lb.Endpoint) *adminv3.HostStatus {
	st := &e.Stats
	counter, gauge := adminv3.SimpleMetric_COUNTER, adminv3.SimpleMetric_GAUGE
	locality := e.Locality
	if locality == nil {
		locality = &corev3.Locality{}
	}
	return &adminv3.HostStatus{
		Address: address(e.Host),
		Stats: []*adminv3.SimpleMetric{ // Envoy's order: counters, then gauges, each by name
			{Type: counter, Name: "cx_connect_fail", Value: st.CxConnectFail.Value()},
			{Type: counter, Name: "cx_total", Value: st.CxTotal.Value()},
			{Type: counter, Name: "rq_error", Value: st.RqError.Value()},
			{Type: counter, Name: "rq_success", Value: st.RqSuccess.Value()},
			{Type: counter, Name: "rq_timeout", Value: st.RqTimeout.Value()},
			{Type: counter, Name: "rq_total", Value: st.RqTotal.Value()},
			{Type: gauge, Name: "cx_active", Value: positive(st.CxActive.Value())},
			{Type: gauge, Name: "rq_active", Value: positive(st.RqActive.Value())},
			{Type: gauge, Name: "rq_pending_active", Value: positive(st.RqPendingActive.Value())},
		},
		HealthStatus: &adminv3.HostHealthStatus{EdsHealthStatus: edsHealth(e), FailedOutlierCheck: e.Ejected()},
		Weight:       e.Weight,
		Hostname:     e.Hostname,
		Priority:     e.Priority,
		Locality:     locality,
	}
}

func positive(n int64) uint64 { return uint64(max(n, 0)) }

// edsHealth says HEALTHY where EDS said nothing, as Envoy does.
func edsHealth(e *lb.Endpoint) corev3.HealthStatus {
	if e.Status == corev3.HealthStatus_UNKNOWN {
		return corev3.HealthStatus_HEALTHY
	}
	return e.Status
}

// coarseHealth is what Envoy's EndpointsConfigDump says: UNHEALTHY for ejected endpoints too.
func coarseHealth(e *lb.Endpoint) corev3.HealthStatus {
	if !e.Usable() {
		return corev3.HealthStatus_UNHEALTHY
	}
	return edsHealth(e)
}

// thresholds gives the circuit breaker's settings with Envoy's defaults, which /clusters shows even where none are given.
func (cfg *Config) thresholds() *clusterv3.CircuitBreakers {
	out := &clusterv3.CircuitBreakers{}
	for _, p := range []corev3.RoutingPriority{corev3.RoutingPriority_DEFAULT, corev3.RoutingPriority_HIGH} {
		l := limitsOf(cfg.Proto, p)
		out.Thresholds = append(out.Thresholds, &clusterv3.CircuitBreakers_Thresholds{
			Priority:           p,
			MaxConnections:     wrapperspb.UInt32(l.MaxConnections),
			MaxPendingRequests: wrapperspb.UInt32(l.MaxPending),
			MaxRequests:        wrapperspb.UInt32(l.MaxRequests),
			MaxRetries:         wrapperspb.UInt32(l.MaxRetries),
		})
	}
	return out
}

func address(h *lb.Host) *corev3.Address {
	if h.Path != "" {
		return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: h.Path}}}
	}
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address:       h.Target().Addr().String(),
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(h.Target().Port())},
	}}}
}

// EndpointsName is the name by which Endpoints calls the cluster: the one EDS knows it by.
func (c *Cluster) EndpointsName() string {
	if c.cfg.eds != "" {
		return c.cfg.eds
	}
	return c.cfg.Name
}

// EndpointsVersion is equal as long as Endpoints gives the same; nil where addresses change without a new HostSet.
func (c *Cluster) EndpointsVersion() any {
	switch c.cfg.Type {
	case OriginalDst, DynamicDNS, LogicalDNS:
		return nil
	}
	return c.set.Load().ID()
}

// Endpoints gives the resolved endpoints as /config_dump?include_eds has them, grouped by locality and priority.
func (c *Cluster) Endpoints() *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: c.EndpointsName(), Policy: &endpointv3.ClusterLoadAssignment_Policy{
		OverprovisioningFactor: wrapperspb.UInt32(lb.DefaultOverprovisioning),
	}}
	if p := c.set.Load().Policy(); p != nil && p.Overprovisioning != 0 {
		out.Policy.OverprovisioningFactor.Value = p.Overprovisioning
	}
	type groupKey struct {
		locality string
		priority uint32
	}
	groups := map[groupKey]*endpointv3.LocalityLbEndpoints{}
	for _, e := range c.endpoints() {
		key := groupKey{lb.LocalityName(e.Locality), e.Priority}
		g := groups[key]
		if g == nil {
			g = &endpointv3.LocalityLbEndpoints{Locality: e.Locality, Priority: e.Priority}
			if e.LocalityWeight != 0 {
				g.LoadBalancingWeight = wrapperspb.UInt32(e.LocalityWeight)
			}
			groups[key] = g
			out.Endpoints = append(out.Endpoints, g)
		}
		g.LbEndpoints = append(g.LbEndpoints, &endpointv3.LbEndpoint{
			HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: address(e.Host), Hostname: e.Hostname,
				HealthCheckConfig: &endpointv3.Endpoint_HealthCheckConfig{},
			}},
			HealthStatus:        coarseHealth(e),
			Metadata:            e.Metadata,
			LoadBalancingWeight: wrapperspb.UInt32(e.Weight),
		})
	}
	return out
}

// origEndpoints lists the remembered addresses of an ORIGINAL_DST cluster.
func (l *live) origEndpoints() []*lb.Endpoint {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]*lb.Endpoint, 0, len(l.orig))
	for _, h := range l.orig {
		out = append(out, h.ep)
	}
	slices.SortFunc(out, func(a, b *lb.Endpoint) int { return a.Address.Compare(b.Address) })
	return out
}
