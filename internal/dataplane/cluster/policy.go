package cluster

import (
	"errors"
	"fmt"
	"math/big"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"

	"detour.dev/detour/internal/dataplane/lb"
)

// compilePolicy reads lb_policy with the algorithm's own settings, and common_lb_config.
//
// zone_aware_lb_config makes no difference beyond fail_traffic_on_panic: without cluster_manager.local_cluster_name, which
// nothing here sets, an Envoy routes by no zone either.
func (cfg *Config) compilePolicy(c *clusterv3.Cluster, o *Options) error {
	p := &cfg.policy
	if err := cfg.compileAlgorithm(c); err != nil {
		return err
	}
	common := c.GetCommonLbConfig()
	if common.GetConsistentHashingLbConfig().GetHashBalanceFactor().GetValue() != 0 {
		return errors.New("common_lb_config.consistent_hashing_lb_config.hash_balance_factor: not supported")
	}
	p.Params.HashHostnames = common.GetConsistentHashingLbConfig().GetUseHostnameForHashing()
	p.PanicThreshold = 50
	if t := common.GetHealthyPanicThreshold(); t != nil {
		p.PanicThreshold = min(max(t.GetValue(), 0), 100)
	}
	p.LocalityWeighted = common.GetLocalityWeightedLbConfig() != nil
	p.FailOnPanic = common.GetZoneAwareLbConfig().GetFailTrafficOnPanic()
	p.CrossPriority = c.GetOutlierDetection() != nil
	p.CompatEnvoy = o.CompatEnvoy
	return nil
}

func (cfg *Config) compileAlgorithm(c *clusterv3.Cluster) (err error) {
	p := &cfg.policy
	switch c.GetLbPolicy() {
	case clusterv3.Cluster_ROUND_ROBIN:
		p.Algorithm = lb.RoundRobin
		p.Params.SlowStart, err = slowStart(c.GetRoundRobinLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_LEAST_REQUEST:
		p.Algorithm = lb.LeastRequest
		p.Params.ChoiceCount = value(c.GetLeastRequestLbConfig().GetChoiceCount(), 2)
		p.Params.ActiveRequestBias = 1
		if b := c.GetLeastRequestLbConfig().GetActiveRequestBias(); b != nil {
			p.Params.ActiveRequestBias = b.GetDefaultValue()
		}
		p.Params.SlowStart, err = slowStart(c.GetLeastRequestLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_RANDOM:
		p.Algorithm = lb.Random
	case clusterv3.Cluster_RING_HASH:
		p.Algorithm = lb.RingHash
		err = ringParams(c.GetRingHashLbConfig(), &p.Params)
	case clusterv3.Cluster_MAGLEV:
		p.Algorithm = lb.Maglev
		err = maglevParams(c.GetMaglevLbConfig(), &p.Params)
	case clusterv3.Cluster_CLUSTER_PROVIDED:
		if !cfg.Type.providesBalancing() {
			return errors.New("lb_policy: CLUSTER_PROVIDED needs type ORIGINAL_DST or a dynamic forward proxy")
		}
	default:
		return fmt.Errorf("lb_policy: %s is not supported", c.GetLbPolicy())
	}
	return err
}

// slowStart reads slow_start_config; a window of 0 is no slow start.
func slowStart(c *clusterv3.Cluster_SlowStartConfig) (*lb.SlowStart, error) {
	if c.GetSlowStartWindow().AsDuration() <= 0 {
		return nil, nil
	}
	s := &lb.SlowStart{Window: c.GetSlowStartWindow().AsDuration(), Aggression: 1, MinWeight: 0.1}
	if a := c.GetAggression(); a != nil {
		s.Aggression = a.GetDefaultValue()
	}
	if s.Aggression <= 0 || s.Aggression != s.Aggression {
		return nil, fmt.Errorf("slow_start_config.aggression: %v is not above 0", s.Aggression)
	}
	if m := c.GetMinWeightPercent(); m != nil {
		s.MinWeight = m.GetValue() / 100
	}
	return s, nil
}

func ringParams(c *clusterv3.Cluster_RingHashLbConfig, p *lb.Params) error {
	p.MinRingSize, p.MaxRingSize = lb.DefaultMinRingSize, lb.MaxRingSize
	if v := c.GetMinimumRingSize(); v != nil {
		p.MinRingSize = v.GetValue()
	}
	if v := c.GetMaximumRingSize(); v != nil {
		p.MaxRingSize = v.GetValue()
	}
	switch {
	case p.MaxRingSize > lb.MaxRingSize:
		return fmt.Errorf("ring_hash_lb_config.maximum_ring_size: %d is above %d", p.MaxRingSize, lb.MaxRingSize)
	case p.MinRingSize > p.MaxRingSize:
		return fmt.Errorf("ring_hash_lb_config.minimum_ring_size: %d is above the maximum, %d", p.MinRingSize, p.MaxRingSize)
	case p.MinRingSize == 0 || p.MaxRingSize == 0:
		return errors.New("ring_hash_lb_config: a ring of size 0 holds nobody")
	case c.GetHashFunction() != clusterv3.Cluster_RingHashLbConfig_XX_HASH:
		return fmt.Errorf("ring_hash_lb_config.hash_function: %s is not supported", c.GetHashFunction())
	}
	return nil
}

func maglevParams(c *clusterv3.Cluster_MaglevLbConfig, p *lb.Params) error {
	p.TableSize = lb.DefaultTableSize
	if v := c.GetTableSize(); v != nil {
		p.TableSize = v.GetValue()
	}
	if p.TableSize > lb.MaxTableSize || p.TableSize < 2 || !new(big.Int).SetUint64(p.TableSize).ProbablyPrime(0) {
		return fmt.Errorf("maglev_lb_config.table_size: %d is not a prime number up to %d", p.TableSize, lb.MaxTableSize)
	}
	return nil
}
