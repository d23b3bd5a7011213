package lb

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// byShare takes endpoints in proportion to shares that change from pick to pick: with active requests, and while an
// endpoint starts slowly. Envoy keeps a schedule of earliest deadlines for each worker; here one counter, multiplied by the
// golden ratio, gives points that are evenly spread over [0, 1) in every run of picks (Weyl's sequence), and the point's
// place among the cumulated shares says which endpoint it is. So n picks are within O(log n) of the exact shares, without a
// lock.
type byShare struct {
	eps  []*Endpoint
	bias float64 // active_request_bias; 0: active requests don't count
	slow *SlowStart
	turn atomic.Uint64
}

func newByShare(eps []*Endpoint, bias float64, slow *SlowStart) *byShare {
	b := &byShare{eps: eps, bias: bias, slow: slow}
	b.turn.Store(rand.Uint64())
	return b
}

const golden = 0x9E3779B97F4A7C15 // 2^64 / φ

// Choose looks at every endpoint: lists whose weights differ are short.
func (b *byShare) Choose(in *PickInfo) *Endpoint {
	now := in.Now.UnixNano()
	var total float64
	for _, e := range b.eps {
		total += b.share(e, now)
	}
	at := float64(b.turn.Add(1)*golden>>11) / (1 << 53) * total
	for _, e := range b.eps {
		if at -= b.share(e, now); at < 0 {
			return e
		}
	}
	return b.eps[len(b.eps)-1] // rounding, or a count that changed between the two passes
}

func (b *byShare) share(e *Endpoint, now int64) float64 {
	share := float64(e.Weight)
	if b.bias != 0 {
		active := float64(max(e.Stats.RqActive.Value(), 0) + 1)
		if b.bias != 1 {
			active = math.Pow(active, b.bias)
		}
		share /= active
	}
	if b.slow != nil {
		share *= b.slow.factor(now - e.AddedAt())
	}
	return share
}

// SlowStart is Cluster.SlowStartConfig: for Window after it joined the cluster an endpoint's weight is multiplied by
// (time since / Window)^(1/Aggression), and by no less than MinWeight.
type SlowStart struct {
	Window     time.Duration // above 0
	Aggression float64       // above 0; default 1: linear
	MinWeight  float64       // 0 to 1; default 0.1
}

// factor follows EdfLoadBalancerBase::applySlowStartFactor, which counts in milliseconds, at least one.
func (s *SlowStart) factor(age int64) float64 {
	if age >= int64(s.Window) {
		return 1
	}
	f := float64(max(1, age/int64(time.Millisecond))) / float64(max(1, s.Window.Milliseconds()))
	if s.Aggression != 1 {
		f = math.Pow(f, 1/s.Aggression)
	}
	return min(max(f, s.MinWeight), 1)
}

// startSlowly puts slow start before an algorithm for as long as it can matter: until the youngest endpoint is warm.
func startSlowly(warm Chooser, eps []*Endpoint, p Params, bias float64) Chooser {
	if p.SlowStart == nil {
		return warm
	}
	youngest := int64(math.MinInt64)
	for _, e := range eps {
		youngest = max(youngest, e.AddedAt())
	}
	return &warming{warm: warm, cold: newByShare(eps, bias, p.SlowStart), until: youngest + int64(p.SlowStart.Window)}
}

type warming struct {
	warm, cold Chooser
	until      int64 // UnixNano
}

func (w *warming) Choose(in *PickInfo) *Endpoint {
	if in.Now.UnixNano() < w.until {
		return w.cold.Choose(in)
	}
	return w.warm.Choose(in)
}
