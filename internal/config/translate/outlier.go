package translate

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// applyOutlier writes DestinationRule.outlierDetection (istiod: cluster_traffic_policy.go, SEMANTICS §1.4). An empty block
// still turns failover between localities on, and success-rate ejection, which Envoy does by default, off. A count of 0
// turns that kind of ejection off. minHealthPercent becomes the panic threshold, which is 0, "never panic", unless set.
func (c *compiler) applyOutlier(s *service, cl *clusterv3.Cluster, o *networking.OutlierDetection) {
	if o == nil {
		return
	}
	d := &clusterv3.OutlierDetection{
		Interval:             o.Interval,
		BaseEjectionTime:     o.BaseEjectionTime,
		EnforcingSuccessRate: wrapperspb.UInt32(0),
	}
	if v := o.Consecutive_5XxErrors; v != nil {
		d.Consecutive_5Xx, d.EnforcingConsecutive_5Xx = counted(v)
	}
	if v := o.ConsecutiveGatewayErrors; v != nil {
		d.ConsecutiveGatewayFailure, d.EnforcingConsecutiveGatewayFailure = counted(v)
	}
	if o.SplitExternalLocalOriginErrors {
		d.SplitExternalLocalOriginErrors = true
		d.EnforcingLocalOriginSuccessRate = wrapperspb.UInt32(0)
		if v := o.ConsecutiveLocalOriginFailures; v != nil {
			d.ConsecutiveLocalOriginFailure, d.EnforcingConsecutiveLocalOriginFailure = counted(v)
		}
	}
	if o.MaxEjectionPercent > 0 {
		d.MaxEjectionPercent = wrapperspb.UInt32(uint32(o.MaxEjectionPercent))
	} else if s.external() {
		c.ejectAllButTheLast(d)
	}
	cl.OutlierDetection = d
	cl.CommonLbConfig.HealthyPanicThreshold = &typev3.Percent{Value: float64(o.MinHealthPercent)}
}

// counted gives a number of consecutive errors and how much it is enforced: fully, or not at all where it is 0.
func counted(v *wrapperspb.UInt32Value) (n, enforcing *wrapperspb.UInt32Value) {
	if v.Value == 0 {
		return wrapperspb.UInt32(0), wrapperspb.UInt32(0)
	}
	return wrapperspb.UInt32(v.Value), wrapperspb.UInt32(100)
}
