package translate

import (
	"cmp"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// virtualServiceRoutes compiles the rules of the first VirtualService that has any for a service on a port. A second one for
// the same host is not merged: outside gateways the first serves (SEMANTICS §5).
func (c *compiler) virtualServiceRoutes(s *service, port servicePort) []*routev3.Route {
	for i, o := range s.routers {
		out := c.httpRoutes(o, o.Spec.(*networking.VirtualService), port)
		if len(out) == 0 {
			continue
		}
		for _, other := range s.routers[i+1:] {
			if len(other.Spec.(*networking.VirtualService).Http) > 0 && !c.group.CompatIstio {
				c.warn(other, CodeHostClaimed, "spec.hosts",
					"%s is routed by %s at %s, which came first; this one's http rules are not used for it", s.host, o.Key, c.current(o).Origin)
			}
		}
		return out
	}
	return nil
}

// httpRoutes compiles the rules of one VirtualService in their order, every match of a rule a route of its own, up to the
// first that takes every request.
func (c *compiler) httpRoutes(o *config.Object, vs *networking.VirtualService, port servicePort) []*routev3.Route {
	var out []*routev3.Route
	for _, rule := range vs.Http {
		if len(rule.Match) == 0 {
			return append(out, c.httpRoute(o, rule, nil, port))
		}
		for _, m := range rule.Match {
			if !c.applies(m, port) {
				continue
			}
			r := c.httpRoute(o, rule, m, port)
			out = append(out, r)
			if catchesAll(r.Match) {
				return out
			}
		}
	}
	return out
}

// httpRoute compiles one rule for one of its matches, or for every request.
func (c *compiler) httpRoute(o *config.Object, rule *networking.HTTPRoute, m *networking.HTTPMatchRequest, port servicePort) *routev3.Route {
	ops := headerOperations(rule.Headers)
	out := &routev3.Route{
		Name:                    rule.Name,
		Match:                   everything(),
		Metadata:                c.routeMetadata(o, rule.Retries == nil && c.mesh.retries == nil),
		RequestHeadersToAdd:     ops.requestAdd,
		RequestHeadersToRemove:  ops.requestRemove,
		ResponseHeadersToAdd:    ops.responseAdd,
		ResponseHeadersToRemove: ops.responseRemove,
		TypedPerFilterConfig:    c.perFilter(rule, port),
	}
	if m != nil {
		out.Match = routeMatch(m)
		if m.Name != "" {
			out.Name = rule.Name + "." + m.Name
		}
	}
	switch {
	case rule.Redirect != nil:
		out.Action = redirect(rule.Redirect, port)
	case rule.DirectResponse != nil:
		out.Action = directResponse(rule.DirectResponse)
	default:
		out.Action = &routev3.Route_Route{Route: c.routeAction(out, rule, ops.authority, port)}
	}
	return out
}

// routeAction sends requests on. The authority that the rule's rewrite states counts before its headers', and both before
// a single destination's.
func (c *compiler) routeAction(out *routev3.Route, rule *networking.HTTPRoute, authority string, port servicePort) *routev3.RouteAction {
	action := &routev3.RouteAction{
		Timeout:               rule.Timeout,
		RetryPolicy:           c.retryPolicy(rule.Retries, len(rule.Route) == 1 && c.destinationHash(rule.Route[0].Destination) != nil),
		RequestMirrorPolicies: c.mirrors(rule, port),
	}
	if action.Timeout == nil {
		action.Timeout = durationpb.New(0)
	}
	c.limitByClient(action)
	rewrite(action, rule.Rewrite)
	dests := weighted(rule.Route)
	if len(rule.Route) == 1 {
		one := headerOperations(dests[0].Headers)
		out.RequestHeadersToAdd = append(out.RequestHeadersToAdd, one.requestAdd...)
		out.RequestHeadersToRemove = append(out.RequestHeadersToRemove, one.requestRemove...)
		out.ResponseHeadersToAdd = append(out.ResponseHeadersToAdd, one.responseAdd...)
		out.ResponseHeadersToRemove = append(out.ResponseHeadersToRemove, one.responseRemove...)
		authority = cmp.Or(authority, one.authority)
	}
	authority = cmp.Or(rule.Rewrite.GetAuthority(), authority)
	switch {
	case authority != "":
		action.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: authority}
	case c.anyRewritesHost(dests, port):
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	c.lead(action, dests, len(rule.Route) == 1, port)
	return action
}

// weighted leaves out the destinations with weight 0 where there are several.
func weighted(dests []*networking.HTTPRouteDestination) []*networking.HTTPRouteDestination {
	if len(dests) < 2 {
		return dests
	}
	var out []*networking.HTTPRouteDestination
	for _, d := range dests {
		if d.Weight > 0 {
			out = append(out, d)
		}
	}
	return out
}

// anyRewritesHost tells whether Host follows the endpoint at one of the destinations: routes have one answer for all.
func (c *compiler) anyRewritesHost(dests []*networking.HTTPRouteDestination, port servicePort) bool {
	for _, d := range dests {
		s := c.lookup(d.GetDestination().GetHost())
		if s == nil {
			continue
		}
		if p, ok := s.port(c.destinationPort(d.Destination, port)); ok && c.rewritesHost(s, p, s.subset(d.Destination.GetSubset())) {
			return true
		}
	}
	return false
}

// lead names the cluster of a rule's only destination, or the clusters and weights that several stand for, and what is
// hashed on the way there.
func (c *compiler) lead(action *routev3.RouteAction, dests []*networking.HTTPRouteDestination, only bool, port servicePort) {
	for _, d := range dests {
		action.HashPolicy = append(action.HashPolicy, requestHash(c.destinationHash(d.Destination))...)
	}
	if only {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: c.destinationCluster(dests[0].Destination, port)}
		return
	}
	w := &routev3.WeightedCluster{}
	for _, d := range dests {
		ops := headerOperations(d.Headers)
		cw := &routev3.WeightedCluster_ClusterWeight{
			Name:                    c.destinationCluster(d.Destination, port),
			Weight:                  wrapperspb.UInt32(uint32(d.Weight)),
			RequestHeadersToAdd:     ops.requestAdd,
			RequestHeadersToRemove:  ops.requestRemove,
			ResponseHeadersToAdd:    ops.responseAdd,
			ResponseHeadersToRemove: ops.responseRemove,
		}
		if ops.authority != "" {
			cw.HostRewriteSpecifier = &routev3.WeightedCluster_ClusterWeight_HostRewriteLiteral{HostRewriteLiteral: ops.authority}
		}
		w.Clusters = append(w.Clusters, cw)
	}
	action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: w}
}

// subset finds a declared subset by name; nil where there is none.
func (s *service) subset(name string) *subset {
	if s.rule == nil {
		return nil
	}
	for i := range s.rule.subsets {
		if s.rule.subsets[i].Name == name {
			return &s.rule.subsets[i]
		}
	}
	return nil
}

// destinationCluster names the cluster a destination stands for, whether or not anybody declares it: a route to what does
// not exist is answered 503 by the engine.
func (c *compiler) destinationCluster(d *networking.Destination, port servicePort) string {
	return clusterName(c.destinationPort(d, port), d.GetSubset(), resolveHost(d.GetHost()))
}

// relayCluster is destinationCluster for connections: the destination's own port, else its service's only one, else the
// one the connection came to.
func (c *compiler) relayCluster(d *networking.Destination, port servicePort) string {
	return clusterName(c.onlyPort(d, port), d.GetSubset(), resolveHost(d.GetHost()))
}

// onlyPort is the destination's own port, else its service's only one, else the one the request came to.
func (c *compiler) onlyPort(d *networking.Destination, port servicePort) uint32 {
	if n := d.GetPort().GetNumber(); n > 0 {
		return n
	}
	if s := c.lookup(d.GetHost()); s != nil && len(s.ports) == 1 {
		return s.ports[0].number
	}
	return port.number
}

func virtualServiceOf(o *config.Object) *networking.VirtualService {
	return o.Spec.(*networking.VirtualService)
}
