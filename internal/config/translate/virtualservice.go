package translate

import (
	"strconv"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	prioritiesv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/priority/previous_priorities/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"

	"detour.dev/detour/internal/config"
)

// virtualServiceRoutes compiles the rules of the first VirtualService with HTTP rules for a service. A second one for the
// same host is not merged: outside gateways the first serves (SEMANTICS §5).
func (c *compiler) virtualServiceRoutes(s *service, port servicePort) []*routev3.Route {
	for i, o := range s.routers {
		vs := o.Spec.(*networking.VirtualService)
		if len(vs.Http) == 0 {
			continue
		}
		for _, other := range s.routers[i+1:] {
			if len(other.Spec.(*networking.VirtualService).Http) > 0 && !c.group.CompatIstio {
				c.report(config.Warningf(other, CodeHostClaimed, "spec.hosts",
					"%s is routed by %s at %s, which came first; this one's http rules are not used for it", s.host, o.Key, o.Origin))
			}
		}
		var out []*routev3.Route
		for _, rule := range vs.Http {
			out = append(out, c.httpRoute(o, rule, port))
		}
		return out
	}
	return nil
}

// httpRoute compiles one rule.
func (c *compiler) httpRoute(o *config.Object, rule *networking.HTTPRoute, port servicePort) *routev3.Route {
	action := &routev3.RouteAction{Timeout: rule.Timeout, RetryPolicy: c.retryPolicy(rule.Retries)}
	if action.Timeout == nil {
		action.Timeout = durationpb.New(0)
	}
	c.limitByClient(action)
	c.lead(action, rule.Route, port)
	name := rule.Name
	if name == "" {
		name = "default"
	}
	return &routev3.Route{
		Name:     name,
		Match:    everything(),
		Action:   &routev3.Route_Route{Route: action},
		Metadata: c.routeMetadata(o, rule.Retries == nil),
	}
}

// lead names the cluster, or the clusters and their weights, that a rule's destinations stand for.
func (c *compiler) lead(action *routev3.RouteAction, dests []*networking.HTTPRouteDestination, port servicePort) {
	if len(dests) > 1 {
		kept := dests[:0:0]
		for _, d := range dests {
			if d.Weight > 0 {
				kept = append(kept, d)
			}
		}
		dests = kept
	}
	rewrite := false
	for _, d := range dests {
		if s := c.byHost[resolveHost(d.GetDestination().GetHost())]; s != nil {
			if p, ok := s.port(c.destinationPort(d.Destination, port)); ok {
				rewrite = rewrite || c.rewritesHost(s, p, s.subset(d.Destination.Subset))
			}
		}
	}
	if rewrite {
		action.HostRewriteSpecifier = &routev3.RouteAction_AutoHostRewrite{AutoHostRewrite: wrapperspb.Bool(true)}
	}
	if len(dests) == 1 {
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: c.destinationCluster(dests[0].Destination, port)}
		return
	}
	w := &routev3.WeightedCluster{}
	for _, d := range dests {
		w.Clusters = append(w.Clusters, &routev3.WeightedCluster_ClusterWeight{
			Name:   c.destinationCluster(d.Destination, port),
			Weight: wrapperspb.UInt32(uint32(d.Weight)),
		})
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

// destinationPort is the destination's own port, else its service's only one, else the one the request came to.
func (c *compiler) destinationPort(d *networking.Destination, port servicePort) uint32 {
	if n := d.GetPort().GetNumber(); n > 0 {
		return n
	}
	if s := c.byHost[resolveHost(d.GetHost())]; s != nil && len(s.ports) == 1 {
		return s.ports[0].number
	}
	return port.number
}

const defaultRetryOn = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"

// defaultRetryPolicy is Istio's since its 1.24 (T9): 503 is not among the reasons.
func defaultRetryPolicy() *routev3.RetryPolicy {
	return &routev3.RetryPolicy{
		RetryOn:                       defaultRetryOn,
		NumRetries:                    wrapperspb.UInt32(2),
		RetryHostPredicate:            otherHosts(),
		HostSelectionRetryMaxAttempts: 5,
	}
}

// otherHosts makes a retry prefer endpoints that were not tried before.
func otherHosts() []*routev3.RetryPolicy_RetryHostPredicate {
	return []*routev3.RetryPolicy_RetryHostPredicate{{
		Name: "envoy.retry_host_predicates.previous_hosts",
		ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{
			TypedConfig: mustAny(&previousv3.PreviousHostsPredicate{}),
		},
	}}
}

// retryPolicy writes VirtualService.http.retries: nil takes the default, attempts 0 or less turn retries off, a number in
// retryOn is a status code (istiod: core/route/retry/retry.go).
func (c *compiler) retryPolicy(r *networking.HTTPRetry) *routev3.RetryPolicy {
	if r == nil {
		return defaultRetryPolicy()
	}
	if r.Attempts <= 0 {
		return nil
	}
	p := defaultRetryPolicy()
	p.NumRetries = wrapperspb.UInt32(uint32(r.Attempts))
	p.PerTryTimeout = r.PerTryTimeout
	if r.RetryOn != "" {
		p.RetryOn, p.RetriableStatusCodes = parseRetryOn(r.RetryOn)
	}
	if r.RetryIgnorePreviousHosts != nil && !r.RetryIgnorePreviousHosts.Value {
		p.RetryHostPredicate = nil
		p.HostSelectionRetryMaxAttempts = 0
	}
	if r.Backoff != nil {
		p.RetryBackOff = &routev3.RetryPolicy_RetryBackOff{BaseInterval: r.Backoff}
	}
	if r.RetryRemoteLocalities.GetValue() {
		p.RetryPriority = &routev3.RetryPolicy_RetryPriority{
			Name: "envoy.retry_priorities.previous_priorities",
			ConfigType: &routev3.RetryPolicy_RetryPriority_TypedConfig{
				TypedConfig: mustAny(&prioritiesv3.PreviousPrioritiesConfig{UpdateFrequency: c.updateFrequency()}),
			},
		}
	}
	return p
}

// parseRetryOn parts the words of retryOn from the status codes in it.
func parseRetryOn(s string) (on string, codes []uint32) {
	var words []string
	coded := false
	for _, w := range strings.Split(s, ",") {
		w = strings.TrimSpace(w)
		if n, err := strconv.ParseUint(w, 10, 32); err == nil {
			if n >= 100 && n < 600 {
				codes = append(codes, uint32(n))
			}
			continue
		}
		coded = coded || w == "retriable-status-codes"
		if w != "" {
			words = append(words, w)
		}
	}
	if len(codes) > 0 && !coded {
		words = append(words, "retriable-status-codes")
	}
	return strings.Join(words, ","), codes
}
