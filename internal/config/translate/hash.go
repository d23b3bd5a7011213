package translate

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	networking "istio.io/api/networking/v1alpha3"
)

// hashPolicy gives what is hashed on the way to a destination whose balancer is consistentHash.
func (c *compiler) hashPolicy(d *networking.Destination, port servicePort) []*routev3.RouteAction_HashPolicy {
	s := c.byHost[resolveHost(d.GetHost())]
	if s == nil {
		return nil
	}
	return requestHash(s.rule.policyFor(c.destinationPort(d, port), s.subset(d.GetSubset())))
}

// requestHash writes consistentHash's key for requests.
func requestHash(p policy) []*routev3.RouteAction_HashPolicy {
	h := p.balancer.GetConsistentHash()
	out := &routev3.RouteAction_HashPolicy{}
	switch k := h.GetHashKey().(type) {
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpHeaderName:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: k.HttpHeaderName}}
	case *networking.LoadBalancerSettings_ConsistentHashLB_HttpCookie:
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: hashCookie(k.HttpCookie)}
	case *networking.LoadBalancerSettings_ConsistentHashLB_UseSourceIp:
		if !k.UseSourceIp {
			return nil
		}
		out.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
			ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
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

// connectionHash is the same for connections: only the source address can be a key there.
func connectionHash(p policy) []*typev3.HashPolicy {
	if !p.balancer.GetConsistentHash().GetUseSourceIp() {
		return nil
	}
	return []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
}
