package translate

import (
	"strconv"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	commonmatcherv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/matcher/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
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
		if v := o.ConsecutiveLocalOriginFailures; v.GetValue() > 0 {
			d.ConsecutiveLocalOriginFailure, d.EnforcingConsecutiveLocalOriginFailure = counted(v)
		}
	}
	if o.MaxEjectionPercent > 0 {
		d.MaxEjectionPercent = wrapperspb.UInt32(uint32(o.MaxEjectionPercent))
	} else if s.external() {
		c.ejectAllButTheLast(d)
	}
	cl.OutlierDetection = d
	if cl.CommonLbConfig == nil { // a dynamic forward proxy has none of its own
		cl.CommonLbConfig = &clusterv3.Cluster_CommonLbConfig{}
	}
	threshold := &typev3.Percent{Value: float64(o.MinHealthPercent)}
	if distributions[trafficDistribution(s)] != nil {
		threshold.Value = 0 // the ejected ones decide when traffic goes further away
	}
	cl.CommonLbConfig.HealthyPanicThreshold = threshold
}

// counted gives a number of consecutive errors and how much it is enforced: fully, or not at all where it is 0.
func counted(v *wrapperspb.UInt32Value) (n, enforcing *wrapperspb.UInt32Value) {
	if v.Value == 0 {
		return wrapperspb.UInt32(0), wrapperspb.UInt32(0)
	}
	return wrapperspb.UInt32(v.Value), wrapperspb.UInt32(100)
}

// countedStatuses makes only these statuses count as failures, in place of 500 and above.
func countedStatuses(codes []uint32) *commonmatcherv3.MatchPredicate {
	var rules []*commonmatcherv3.MatchPredicate
	for _, code := range codes {
		exact := &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: strconv.FormatUint(uint64(code), 10)}}
		rules = append(rules, &commonmatcherv3.MatchPredicate{Rule: &commonmatcherv3.MatchPredicate_HttpResponseHeadersMatch{
			HttpResponseHeadersMatch: &commonmatcherv3.HttpHeadersMatch{Headers: []*routev3.HeaderMatcher{{
				Name: ":status", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact},
			}}},
		}})
	}
	if len(rules) == 1 {
		return rules[0]
	}
	return &commonmatcherv3.MatchPredicate{Rule: &commonmatcherv3.MatchPredicate_OrMatch{
		OrMatch: &commonmatcherv3.MatchPredicate_MatchSet{Rules: rules},
	}}
}
