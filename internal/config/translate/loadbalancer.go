package translate

//lint:file-ignore SA1019 people's files still use them

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// applyBalancer writes DestinationRule.loadBalancer (istiod: cluster_traffic_policy.go applyLoadBalancer): LEAST_REQUEST
// unless said otherwise, consistentHash as RING_HASH or MAGLEV, PASSTHROUGH as ORIGINAL_DST whatever the resolution.
func (c *compiler) applyBalancer(cc *clusterContext, cl *clusterv3.Cluster) {
	if cc.service.spec.Resolution == networking.ServiceEntry_DYNAMIC_DNS {
		return
	}
	p := c.placementFor(cc.service, cc.policy)
	switch {
	case p.zoneAware:
		z := &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig{MinClusterSize: p.minClusterSize}
		if p.off {
			z.RoutingEnabled = &typev3.Percent{}
		}
		cl.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_ZoneAwareLbConfig_{ZoneAwareLbConfig: z}
	case p.weighted(cc.policy.outlier != nil):
		cl.CommonLbConfig.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
	}
	if cl.LbPolicy == clusterv3.Cluster_CLUSTER_PROVIDED {
		return
	}
	lb := cc.policy.balancer
	if hash := lb.GetConsistentHash(); hash != nil {
		applyHash(cl, hash)
		return
	}
	switch lb.GetSimple() {
	case networking.LoadBalancerSettings_RANDOM:
		cl.LbPolicy = clusterv3.Cluster_RANDOM
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		cl.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if s := slowStart(lb); s != nil {
			cl.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: s}}
		}
	case networking.LoadBalancerSettings_PASSTHROUGH:
		toOriginalDestination(cl)
	default:
		if s := slowStart(lb); s != nil {
			cl.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: s}}
		}
	}
}

// slowStart is `warmup` in full, or warmupDurationSecs, which sets the window only (SEMANTICS §5).
func slowStart(lb *networking.LoadBalancerSettings) *clusterv3.Cluster_SlowStartConfig {
	w := lb.GetWarmup()
	if w == nil {
		if lb.GetWarmupDurationSecs() == nil {
			return nil
		}
		return &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: lb.WarmupDurationSecs}
	}
	aggression, least := 1.0, 10.0
	if w.Aggression != nil {
		aggression = w.Aggression.Value
	}
	if w.MinimumPercent != nil {
		least = w.MinimumPercent.Value
	}
	return &clusterv3.Cluster_SlowStartConfig{
		SlowStartWindow:  w.Duration,
		Aggression:       &corev3.RuntimeDouble{DefaultValue: aggression, RuntimeKey: "detour.warmup.aggression"},
		MinWeightPercent: &typev3.Percent{Value: least},
	}
}

// applyHash picks the algorithm: Maglev or a ring of at least 1,024 entries unless another size is given. What is hashed
// stands on the routes.
func applyHash(cl *clusterv3.Cluster, h *networking.LoadBalancerSettings_ConsistentHashLB) {
	if m := h.GetMaglev(); m != nil {
		cl.LbPolicy = clusterv3.Cluster_MAGLEV
		if m.TableSize > 0 {
			cl.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(m.TableSize)}}
		}
		return
	}
	cl.LbPolicy = clusterv3.Cluster_RING_HASH
	size := h.MinimumRingSize
	if r := h.GetRingHash(); r != nil {
		if size = r.MinimumRingSize; size == 0 {
			return // Envoy's own default, which is 1,024 too
		}
	}
	if size == 0 {
		size = 1024
	}
	cl.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(size)}}
}
