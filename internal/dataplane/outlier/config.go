// Package outlier owns outlier detection: it judges hosts by what became of the requests given to them, and ejects and
// un-ejects them as Envoy does (envoy.config.cluster.v3.OutlierDetection), with DESIGN.md's E1, E4 and E5.
package outlier

import (
	"fmt"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Config is one cluster's outlier detection, with Envoy's defaults filled in. It is immutable. Percentages are 0 to 100.
type Config struct {
	Interval         time.Duration // between sweeps, default 10 s
	BaseEjectionTime time.Duration // default 30 s
	MaxEjectionTime  time.Duration // default 300 s, or BaseEjectionTime if that is longer
	MaxJitter        time.Duration // max_ejection_time_jitter, default 0
	MaxEjectionPct   uint32        // of all hosts of the cluster, default 10
	AlwaysEjectOne   bool

	Consecutive5xx     uint32 // default 5
	ConsecutiveGateway uint32 // default 5
	ConsecutiveLocal   uint32 // default 5; with Split only
	Enforce5xx         uint32 // default 100
	EnforceGateway     uint32 // default 0
	EnforceLocal       uint32 // default 100
	// Split: failures seen here are counted apart (split_external_local_origin_errors); else they count as 503 or 504.
	Split bool

	errors map[int]bool // statuses that are errors; nil: 500 and above
}

// Parse reads the proto. Success rate and failure percentage are not served: Istio sends 0 for enforcing_success_rate and
// never sends the second. Where a field asks for either they are refused by name; with none of their fields set nothing
// asks for them here, though Envoy's default for enforcing_success_rate is 100.
func Parse(o *clusterv3.OutlierDetection) (*Config, error) {
	c := &Config{
		Interval:           dur(o.GetInterval(), 10*time.Second),
		BaseEjectionTime:   dur(o.GetBaseEjectionTime(), 30*time.Second),
		MaxJitter:          dur(o.GetMaxEjectionTimeJitter(), 0),
		MaxEjectionPct:     min(100, val(o.GetMaxEjectionPercent(), 10)),
		AlwaysEjectOne:     o.GetAlwaysEjectOneHost().GetValue(),
		Consecutive5xx:     val(o.GetConsecutive_5Xx(), 5),
		ConsecutiveGateway: val(o.GetConsecutiveGatewayFailure(), 5),
		ConsecutiveLocal:   val(o.GetConsecutiveLocalOriginFailure(), 5),
		Enforce5xx:         val(o.GetEnforcingConsecutive_5Xx(), 100),
		EnforceGateway:     val(o.GetEnforcingConsecutiveGatewayFailure(), 0),
		EnforceLocal:       val(o.GetEnforcingConsecutiveLocalOriginFailure(), 100),
		Split:              o.GetSplitExternalLocalOriginErrors(),
	}
	c.MaxEjectionTime = dur(o.GetMaxEjectionTime(), max(300*time.Second, c.BaseEjectionTime))
	switch {
	case c.Interval <= 0:
		return nil, fmt.Errorf("outlier_detection.interval: %v is not above 0", c.Interval)
	case c.BaseEjectionTime <= 0:
		return nil, fmt.Errorf("outlier_detection.base_ejection_time: %v is not above 0", c.BaseEjectionTime)
	case c.MaxEjectionTime < c.BaseEjectionTime:
		return nil, fmt.Errorf("outlier_detection.max_ejection_time: %v is shorter than base_ejection_time %v",
			c.MaxEjectionTime, c.BaseEjectionTime)
	case len(o.GetMonitors()) > 0:
		return nil, fmt.Errorf("outlier_detection.monitors: not supported")
	}
	if f := statistical(o); f != "" {
		return nil, fmt.Errorf("outlier_detection.%s: not supported", f)
	}
	return c, nil
}

// statistical names the field that asks for ejection by success rate or failure percentage; "" if none does.
func statistical(o *clusterv3.OutlierDetection) string {
	switch {
	case o.GetEnforcingSuccessRate().GetValue() > 0:
		return "enforcing_success_rate"
	case o.GetEnforcingLocalOriginSuccessRate().GetValue() > 0:
		return "enforcing_local_origin_success_rate"
	case o.GetEnforcingFailurePercentage().GetValue() > 0:
		return "enforcing_failure_percentage"
	case o.GetEnforcingFailurePercentageLocalOrigin().GetValue() > 0:
		return "enforcing_failure_percentage_local_origin"
	case o.GetEnforcingSuccessRate() != nil:
		return ""
	case o.GetSuccessRateMinimumHosts() != nil:
		return "success_rate_minimum_hosts"
	case o.GetSuccessRateRequestVolume() != nil:
		return "success_rate_request_volume"
	case o.GetSuccessRateStdevFactor() != nil:
		return "success_rate_stdev_factor"
	}
	return ""
}

func dur(d *durationpb.Duration, def time.Duration) time.Duration {
	if d == nil {
		return def
	}
	return d.AsDuration()
}

func val(v *wrapperspb.UInt32Value, def uint32) uint32 {
	if v == nil {
		return def
	}
	return v.GetValue()
}
