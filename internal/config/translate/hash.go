package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// What istiod does (route.go, hashForService and HashForHTTPDestination): the settings of a port count before those of all
// only where they hash too, and for a destination of a VirtualService only where it names the port.

type consistentHash = networking.LoadBalancerSettings_ConsistentHashLB

// defaultHash gives what is hashed on a service's default route.
func (c *compiler) defaultHash(s *service, port servicePort) *consistentHash {
	if s.rule == nil {
		return nil
	}
	return hashIn(s.rule.policy, port.number)
}

// destinationHash gives what is hashed on the way to a destination of a VirtualService.
func (c *compiler) destinationHash(d *networking.Destination) *consistentHash {
	s := c.lookup(d.GetHost())
	if s == nil || s.rule == nil {
		return nil
	}
	port := d.GetPort().GetNumber()
	if sub := s.subset(d.GetSubset()); sub != nil {
		if h := hashIn(sub.TrafficPolicy, port); h != nil {
			return h
		}
	}
	return hashIn(s.rule.policy, port)
}

// hashIn gives a policy's hash for a port; 0 stands for no port in particular.
func hashIn(tp *networking.TrafficPolicy, port uint32) *consistentHash {
	if i := portSettings(tp, port); port != 0 && i >= 0 {
		if h := tp.PortLevelSettings[i].GetLoadBalancer().GetConsistentHash(); h != nil {
			return h
		}
	}
	return tp.GetLoadBalancer().GetConsistentHash()
}

// requestHash writes consistentHash's key for requests.
func requestHash(h *consistentHash) []*routev3.RouteAction_HashPolicy {
	out := &routev3.RouteAction_HashPolicy{}
	switch k := h.GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: k.HttpHeaderName}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: hashCookie(k.HttpCookie)}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: k.UseSourceIp},
		}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpQueryParameterName:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: k.HttpQueryParameterName},
		}
	default:
		return nil
	}
	return []*routev3.RouteAction_HashPolicy{out}
}

// hashCookie: a cookie with a ttl is made where a request has none.
func hashCookie(k *networking.LoadBalancerSettings_ConsistentHashLB_HTTPCookie) *routev3.RouteAction_HashPolicy_Cookie {
	out := &routev3.RouteAction_HashPolicy_Cookie{Name: k.GetName(), Path: k.GetPath(), Ttl: k.GetTtl()}
	for _, a := range k.GetAttributes() {
		out.Attributes = append(out.Attributes, &routev3.RouteAction_HashPolicy_CookieAttribute{Name: a.Name, Value: a.Value})
	}
	return out
}

// connectionHash is the same for connections: only the source address can be a key there, and only as the whole rule or the
// subset says it.
func connectionHash(r *rule, subset string) []*typev3.HashPolicy {
	if r == nil {
		return nil
	}
	bySource := r.policy.GetLoadBalancer().GetConsistentHash().GetUseSourceIp()
	for _, sub := range r.subsets {
		if sub.Name == subset && sub.TrafficPolicy.GetLoadBalancer() != nil {
			bySource = sub.TrafficPolicy.LoadBalancer.GetConsistentHash().GetUseSourceIp()
		}
	}
	if !bySource {
		return nil
	}
	return []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
}
